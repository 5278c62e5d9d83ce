"""How a sweep is watched: a live view on a terminal, plain lines elsewhere, JSON lines for programs.

Each is a ``sweeps.driver.Listener``. Progress goes to stderr, JSON lines to stdout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any, TextIO

from sweeps.records import Measurement, Outcome, Params, Trajectory, TrialState, Verdict

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from sweeps.driver import Listener
    from sweeps.moves import Plan

PLAIN_EVERY_SECONDS = 5.0


@dataclass
class Tally:
    """What has happened so far in this driver's time. ``best`` is (eval loss, trial number, verdict)."""

    began: float = 0.0
    total: int = 0
    time_budget: float | None = None
    trajectories: int = 0
    trials: dict[TrialState, int] = field(default_factory=dict)
    verdicts: dict[Verdict, int] = field(default_factory=dict)
    best: tuple[float, int, Verdict] | None = None
    best_params: Params = field(default_factory=dict)

    def add(self, trajectory: Trajectory, outcome: Outcome, verdict: Verdict, last: Measurement | None) -> bool:
        """Count a trajectory that ended; True if it holds a new best trial."""
        self.trajectories += 1
        self.trials[outcome.state] = self.trials.get(outcome.state, 0) + len(trajectory.trials)
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1
        if outcome.state is not TrialState.COMPLETE or last is None:
            return False
        value, spec = min(
            ((score.eval_loss, spec) for score, spec in zip(last.scores, trajectory.trials, strict=True)),
            key=lambda pair: (pair[0], pair[1].number),
        )
        if not isfinite(value) or (self.best is not None and self.best[0] <= value):
            return False
        self.best = (value, spec.number, verdict)
        self.best_params = {**trajectory.params, **spec.readout}
        return True

    @property
    def num_trials(self) -> int:
        """Trials ended."""
        return sum(self.trials.values())

    def per_minute(self, now: float) -> float:
        """Trials ended a minute of this driver's time."""
        return 60.0 * self.num_trials / max(now - self.began, 1e-9)

    def seconds_left(self, now: float) -> float | None:
        """An estimate from the pace so far, bounded by the time budget; None before anything ended."""
        by_time = None if self.time_budget is None else max(0.0, self.time_budget - now)
        if not self.trajectories:
            return by_time
        by_count = (self.total - self.trajectories) * (now - self.began) / self.trajectories
        return by_count if by_time is None else min(by_count, by_time)

    def summary(self, now: float) -> str:
        """One line on where the sweep stands."""
        parts = [f"{self.trajectories}/{self.total} trajectories, {self.num_trials} trials ended"]
        if self.best is not None:
            parts.append(f"best eval_loss {self.best[0]:.4g} (trial {self.best[1]})")
        parts.append(f"{self.per_minute(now):.0f} trials/min")
        left = self.seconds_left(now)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """``75`` -> ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def describe(params: Mapping[str, Any]) -> str:
    """Parameters on one line, numbers short."""
    shown = (f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())
    return " ".join(shown)


class PlainProgress:
    """A line now and then, for logs and pipes: the first measurement, new bests, and every few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._tally = Tally()
        self._measured = False
        self._last_line = 0.0

    def _line(self, now: float, text: str) -> None:
        self._last_line = now
        print(f"[{now:6.1f} s] {text}", file=self._stream, flush=True)

    def sweep_began(self, name: str, num_slots: int, plan: Plan, now: float) -> None:
        """Say what begins."""
        self._tally = Tally(began=now, total=plan.max_trajectories, time_budget=plan.time_budget_seconds)
        slots = "1 slot" if num_slots == 1 else f"{num_slots} slots"
        self._line(now, f"sweep {name}: {slots}, rungs at steps {', '.join(map(str, plan.rungs))}")

    def trajectory_began(self, slot: int, trajectory: Trajectory, attempt: int, now: float) -> None:
        """Nothing: one line a trajectory would be noise."""

    def measured(self, trajectory: Trajectory, measurement: Measurement, now: float) -> None:
        """Say so at the first measurement."""
        if not self._measured:
            self._measured = True
            self._line(now, f"first measurement: step {measurement.step}, eval_loss {measurement.best_loss:.4g}")

    def trajectory_ended(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        verdict: Verdict,
        measurement: Measurement | None,
        now: float,
    ) -> None:
        """Say so if it is a new best, or failed."""
        if self._tally.add(trajectory, outcome, verdict, measurement) and self._tally.best:
            best, number, _ = self._tally.best
            self._line(
                now, f"new best: eval_loss {best:.4g} (trial {number}, {describe(self._tally.best_params)})"
            )
        elif outcome.state is TrialState.FAILED:
            self._line(now, f"trajectory {trajectory.number} failed: {outcome.reason}")

    def tick(self, now: float) -> None:
        """A line every few seconds."""
        if now - self._last_line >= PLAIN_EVERY_SECONDS:
            self._line(now, self._tally.summary(now))

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """Say how it ended."""
        self._line(now, ("interrupted: " if interrupted else "done: ") + self._tally.summary(now))


class LiveProgress:
    """The live view: one bar for the sweep, one for each slot. A context manager, as it owns the screen's end."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._tally = Tally()
        self._bars: Progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._slots: dict[int, TaskID] = {}
        self._total_steps = 0
        self._tasks: dict[int, TaskID] = {}
        self._sweep = self._bars.add_task("starting workers", total=None, note="")

    def __enter__(self) -> LiveProgress:
        self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.stop()

    def sweep_began(self, name: str, num_slots: int, plan: Plan, now: float) -> None:
        """Draw the sweep's bar and one bar a slot."""
        self._tally = Tally(began=now, total=plan.max_trajectories, time_budget=plan.time_budget_seconds)
        self._bars.update(self._sweep, description=f"[bold]sweep {name}", total=plan.max_trajectories)
        self._total_steps = plan.rungs[-1]
        for slot in range(num_slots):
            self._bar(slot)

    def _bar(self, slot: int) -> TaskID:
        """A slot's bar; slots may come while the sweep runs."""
        if slot not in self._slots:
            self._slots[slot] = self._bars.add_task(f"slot {slot}", total=self._total_steps, note="warming up")
        return self._slots[slot]

    def trajectory_began(self, slot: int, trajectory: Trajectory, attempt: int, now: float) -> None:
        """Show what the slot is doing."""
        task = self._tasks[trajectory.number] = self._bar(slot)
        again = f" (attempt {attempt})" if attempt > 1 else ""
        self._bars.update(
            task,
            completed=0,
            description=f"slot {slot}: trajectory {trajectory.number}{again}",
            note=describe(trajectory.params),
        )

    def measured(self, trajectory: Trajectory, measurement: Measurement, now: float) -> None:
        """Move the slot's bar."""
        note = f"loss {measurement.best_loss:.4g}  {describe(trajectory.params)}"
        self._bars.update(self._tasks[trajectory.number], completed=measurement.step, note=note)

    def trajectory_ended(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        verdict: Verdict,
        measurement: Measurement | None,
        now: float,
    ) -> None:
        """Count it; failures are said above the bars."""
        self._tally.add(trajectory, outcome, verdict, measurement)
        if outcome.state is TrialState.FAILED:
            self._bars.console.print(f"trajectory {trajectory.number} failed: {outcome.reason}", markup=False)
        self.tick(now)

    def tick(self, now: float) -> None:
        """Refresh the sweep's line."""
        self._bars.update(self._sweep, completed=self._tally.trajectories, note=self._note(now))

    def _note(self, now: float) -> str:
        best = "" if self._tally.best is None else f"best {self._tally.best[0]:.4g}  "
        left = self._tally.seconds_left(now)
        ending = "" if left is None else f"  {duration(left)} left"
        return f"{best}{self._tally.num_trials} trials, {self._tally.per_minute(now):.0f}/min{ending}"

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """Take the slots' bars away; the sweep's stays, as it was at the end."""
        for task in self._slots.values():
            self._bars.remove_task(task)
        self.tick(now)


class JsonLines:
    """One JSON object a line: ``event`` says which, ``time`` when (seconds of driving)."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def _emit(self, event: str, now: float, **fields: Any) -> None:
        line = json.dumps({"event": event, "time": round(now, 3), **fields}, allow_nan=False)
        print(line, file=self._stream, flush=True)

    def sweep_began(self, name: str, num_slots: int, plan: Plan, now: float) -> None:
        """``sweep_began``: name, slots, rungs, trajectories, time_budget."""
        self._emit(
            "sweep_began",
            now,
            sweep=name,
            slots=num_slots,
            rungs=list(plan.rungs),
            trajectories=plan.max_trajectories,
            time_budget=plan.time_budget_seconds,
        )

    def trajectory_began(self, slot: int, trajectory: Trajectory, attempt: int, now: float) -> None:
        """``trajectory_began``: trajectory, slot, attempt, params, trials."""
        self._emit(
            "trajectory_began",
            now,
            trajectory=trajectory.number,
            slot=slot,
            attempt=attempt,
            params=dict(trajectory.params),
            trials=[spec.number for spec in trajectory.trials],
        )

    def measured(self, trajectory: Trajectory, measurement: Measurement, now: float) -> None:
        """``measured``: trajectory, step, train_loss, eval_loss (the best readout's)."""
        self._emit(
            "measured",
            now,
            trajectory=trajectory.number,
            step=measurement.step,
            train_loss=_finite(measurement.curve[-1].train_loss),
            eval_loss=_finite(measurement.best_loss),
        )

    def trajectory_ended(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        verdict: Verdict,
        measurement: Measurement | None,
        now: float,
    ) -> None:
        """``trajectory_ended``: trajectory, state, reason, verdict, values (trial number to eval loss)."""
        scores = measurement.scores if measurement else ()
        values = {
            str(spec.number): _finite(score.eval_loss)
            for spec, score in zip(trajectory.trials, scores, strict=False)
        }
        self._emit(
            "trajectory_ended",
            now,
            trajectory=trajectory.number,
            state=outcome.state.value,
            reason=outcome.reason,
            verdict=verdict.value,
            values=values,
        )

    def tick(self, now: float) -> None:
        """Nothing."""

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """``sweep_ended``: interrupted."""
        self._emit("sweep_ended", now, interrupted=interrupted)


class Together:
    """Several listeners as one."""

    def __init__(self, listeners: Sequence[Listener]) -> None:
        self._listeners = tuple(listeners)

    def _each(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            call(listener)

    def sweep_began(self, name: str, num_slots: int, plan: Plan, now: float) -> None:
        """To each."""
        self._each(lambda x: x.sweep_began(name, num_slots, plan, now))

    def trajectory_began(self, slot: int, trajectory: Trajectory, attempt: int, now: float) -> None:
        """To each."""
        self._each(lambda x: x.trajectory_began(slot, trajectory, attempt, now))

    def measured(self, trajectory: Trajectory, measurement: Measurement, now: float) -> None:
        """To each."""
        self._each(lambda x: x.measured(trajectory, measurement, now))

    def trajectory_ended(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        verdict: Verdict,
        measurement: Measurement | None,
        now: float,
    ) -> None:
        """To each."""
        self._each(lambda x: x.trajectory_ended(trajectory, outcome, verdict, measurement, now))

    def tick(self, now: float) -> None:
        """To each."""
        self._each(lambda x: x.tick(now))

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """To each."""
        self._each(lambda x: x.sweep_ended(interrupted=interrupted, now=now))


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
