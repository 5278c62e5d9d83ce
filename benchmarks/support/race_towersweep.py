"""towersweep on Ray, two workers of one core each, with its own defaults: 8 readouts, TPE, ASHA.

Four rungs, as all contestants have. The EMA has no warm-up, as Keras' has none.
"""

from __future__ import annotations

from benchmarks.support.race import Race
from sweeps import launch
from sweeps.records import Measurement, Outcome, Trajectory, TrialState, Verdict
from sweeps.step import Plan

SWEEP = {
    "name": "peers",
    "data": {"dataset": "digits"},
    "model": {"network": "small", "ema_warmup": False},
    "train": {"steps": 300, "batch_size": 128},
    "space": {"preset": "batch_norm"},
    "search": {"num_rungs": 4},
}
NEVER_REACHED = 10**6


class Noting:
    """Writes down what the driver hears of."""

    def __init__(self, race: Race) -> None:
        self._race = race

    def sweep_began(self, name: str, num_slots: int, plan: Plan, now: float) -> None:
        """Nothing to note."""

    def trajectory_began(self, slot: int, trajectory: Trajectory, attempt: int, now: float) -> None:
        """Nothing to note."""

    def measured(self, trajectory: Trajectory, measurement: Measurement, now: float) -> None:
        """The best readout's loss: each was measured."""
        self._race.measured(measurement.best_loss)

    def trajectory_ended(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        verdict: Verdict,
        measurement: Measurement | None,
        now: float,
    ) -> None:
        """Failures are no ends that count."""
        if outcome.state in (TrialState.COMPLETE, TrialState.PRUNED):
            self._race.ended(len(trajectory.trials))

    def tick(self, now: float) -> None:
        """Nothing to note."""

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """Nothing to note."""


def main() -> None:
    """The run folder lies beside the events."""
    race = Race.from_command_line()
    launch(
        SWEEP,
        overrides=[f"model.kernel_size={race.kernel_size}", f"data.seed={race.split_seed}"],
        out=race.events.parent / "run",
        trajectories=NEVER_REACHED,
        time_budget=race.left,
        workers=2,
        seed=race.seed,
        listener=Noting(race),
    )


if __name__ == "__main__":
    main()
