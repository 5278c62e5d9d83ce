"""What a restart finds, and what it does about it.

The curves are written first and decide: a measurement in them that the study lacks is reported again, and a
trajectory that ended in them is ended in the study. What is left RUNNING then is run again, under its own numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeps import step
from sweeps.history import History, TrajectoryHistory
from sweeps.pruning import Rungs, bracket_of
from sweeps.records import Outcome, Trajectory, Verdict
from sweeps.run_folder import RunFolder

if TYPE_CHECKING:
    from sweeps.study import Study

# The verdict on what a trajectory's history tells.
Judge = Callable[[TrajectoryHistory], Verdict]


def recover(plan: step.Plan, study: Study, history: History, folder: RunFolder, judge: Judge) -> step.State:
    """The driver's state after a restart; the study is brought up to date on the way."""
    study.recall()
    waiting = []
    for trajectory in study.running_trajectories():
        past = history.trajectories.get(trajectory.number, TrajectoryHistory())
        for reached in sorted(past.scores):
            study.report(trajectory, past.measurement(trajectory, reached))
        if past.state is None:
            waiting.append(step.Waiting(trajectory, past.attempts + 1, competed=max(past.scores, default=0)))
        else:
            _end(study, trajectory, past, judge(past))
    study.flush()
    stored = study.stored_trials()
    best: dict[int, float] = {}
    for trial in stored:
        if trial.value is not None and folder.checkpoint(trial.trajectory).exists():
            best[trial.trajectory] = min(trial.value, best.get(trial.trajectory, float("inf")))
    return step.State(
        num_asked=max((trial.trajectory for trial in stored), default=-1) + 1,
        num_trials=sum(trial.cell is None for trial in stored),
        waiting=tuple(waiting),
        rungs=_rungs(plan, history),
        kept=tuple(sorted((value, number) for number, value in best.items())),
        elapsed_seconds=history.elapsed_seconds,
        device_seconds=plan.devices_per_trajectory * history.slot_seconds,
    )


def _end(study: Study, trajectory: Trajectory, past: TrajectoryHistory, verdict: Verdict) -> None:
    if past.state is None:
        raise ValueError(f"trajectory {trajectory.number} has not ended")
    last = past.measurement(trajectory, max(past.scores)) if past.scores else None
    outcome = Outcome(past.state, past.reason, past.failure)
    study.tell(trajectory, outcome, last, {"verdict": verdict.value, "attempts": past.attempts})


def _rungs(plan: step.Plan, history: History) -> Rungs:
    rungs = Rungs()
    for number, past in sorted(history.trajectories.items()):
        for reached in sorted(past.scores):
            bracket = bracket_of(plan.rule, number, len(plan.rungs))
            rungs = rungs.with_value(bracket, reached, past.best_at(reached))
    return rungs
