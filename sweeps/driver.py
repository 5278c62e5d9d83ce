"""The loop: pull events, let the pure step decide, carry out its actions in order.

One driver writes one run folder and one study. It blocks in ``backend.next_event`` and nowhere else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from sweeps import backends, moves, step
from sweeps.backends import Backend, BackendEvent, Job
from sweeps.history import (
    end_entry,
    generation_entry,
    lost_entry,
    measurement_entry,
    session_entry,
    start_entry,
)
from sweeps.records import Measurement, Outcome, ParamValue, Trajectory, Verdict
from sweeps.run_folder import CurveLog, RunFolder
from sweeps.study import Study

logger = logging.getLogger(__name__)

# So many events that are there at once are decided on together: one write makes their measurements durable.
MAX_EVENTS = 64
# The study's own file may lag behind the curves by this much: what it lacks, a restart takes from them.
FLUSH_SECONDS = 0.1
# How often the step is told that time went by: time limits and checkpoints are no finer than this.
TICK_SECONDS = 0.2
# A driver that was told to stop leaves after so long, with whatever states have arrived by then.
STOP_SECONDS = 6.0


class Listener(Protocol):
    """Who wants to know how the sweep goes: the terminal, a JSON stream, a notebook. Times are in seconds."""

    def sweep_began(self, name: str, num_slots: int, plan: moves.Plan, now: float) -> None:
        """The driver starts (again); ``now`` is the time already spent by earlier drivers."""

    def trajectory_began(self, slot: int, trajectory: Trajectory, attempt: int, now: float) -> None:
        """A worker was given a trajectory."""

    def measured(self, trajectory: Trajectory, measurement: Measurement, now: float) -> None:
        """A trajectory reached a rung; the measurement is durable."""

    def trajectory_ended(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        verdict: Verdict,
        measurement: Measurement | None,
        now: float,
    ) -> None:
        """A trajectory ended, and that is on record."""

    def tick(self, now: float) -> None:
        """Some time went by."""

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """The driver leaves."""


# The verdict on a trajectory with these training losses at these steps.
Judge = Callable[[Sequence[int], Sequence[float]], Verdict]
# What earlier drivers recorded: by trajectory, the training loss at each step.
Curves = Mapping[int, Mapping[int, float]]


class Driver:
    """Drives one sweep to its end, or until ``stop`` is set.

    ``clock`` gives seconds; ``spent`` is what earlier drivers of the same sweep already used of the time budget,
    and ``past`` the curves of trajectories that they left unfinished.
    """

    def __init__(
        self,
        plan: moves.Plan,
        backend: Backend,
        study: Study,
        folder: RunFolder,
        curves: CurveLog,
        judge: Judge,
        listener: Listener,
        clock: Callable[[], float],
        stop: threading.Event,
        spent: float = 0.0,
        past: Curves | None = None,
    ) -> None:
        self._plan = plan
        self._backend = backend
        self._study = study
        self._folder = folder
        self._curves = curves
        self._judge = judge
        self._listener = listener
        self._clock = clock
        self._stop = stop
        self._began = clock() - spent
        self._flushed = self._ticked = clock()
        self._stop_by: float | None = None
        self._losses: dict[int, dict[int, float]] = {number: dict(found) for number, found in (past or {}).items()}
        self._verdicts: dict[int, Verdict] = {}
        self._waits_for_nodes = False
        self.given_up: str | None = None
        """Why the sweep gave up, if it did."""

    def run(self, state: moves.State, name: str) -> bool:
        """Drive from ``state`` until nothing is left to do. False if it was told to stop before that."""
        self._listener.sweep_began(name, self._backend.num_slots, self._plan, self._now())
        free = (moves.SlotFree(slot, self._now()) for slot in range(self._backend.num_slots))
        # Time that is up already is seen before anything is started.
        pending: deque[moves.Event] = deque([moves.Tick(self._now()), *free])
        while True:
            pending.extendleft(self._stop_asked())  # Before what it may have led to already.
            while pending:
                state = self._decide(state, pending)
            if step.is_over(self._plan, state) or (self._stop_by is not None and self._clock() >= self._stop_by):
                break
            self._flush_if_due()
            pending.extend(self._events(state))
            self._listener.tick(self._now())
        self._flush()
        interrupted = state.stopping and (bool(state.running) or step.has_work(self._plan, state))
        self.given_up = step.gave_up(self._plan, state)
        if self.given_up:
            logger.error("given up: %s", self.given_up)
        self._curves.append(session_entry(self._now(), finished=not interrupted))
        self._listener.sweep_ended(interrupted=interrupted, now=self._now())
        return not interrupted

    def _stop_asked(self) -> list[moves.Event]:
        if not self._stop.is_set() or self._stop_by is not None:
            return []
        self._stop_by = self._clock() + STOP_SECONDS
        logger.info("told to stop")
        return [moves.StopAsked(self._now())]

    def _decide(self, state: moves.State, pending: deque[moves.Event]) -> moves.State:
        """Decide on all ``pending`` events; put every measurement on record; then act, in order."""
        actions: list[moves.Action] = []
        while pending:
            state, more = step.on_event(self._plan, state, pending.popleft())
            actions += more
        self._record([action for action in actions if isinstance(action, moves.Record)])
        pending.extend(event for action in actions if (event := self._apply(action)) is not None)
        return state

    def _flush_if_due(self) -> None:
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self._curves.sync()  # Before the study, which must not know of an end that they lack.
            self._study.try_flush()
            self._flushed = self._clock()

    def _flush(self) -> None:
        """Make all ends durable. The curves go first: the study must not know of an end that they lack."""
        self._curves.sync()
        self._study.flush()
        self._flushed = self._clock()

    def _events(self, state: moves.State) -> list[moves.Event]:
        """What has happened: waits for the first event, and takes along those that are there as well."""
        found: list[moves.Event] = []
        arrived = self._backend.next_event(FLUSH_SECONDS)
        while arrived is not None:
            found.append(self._translate(arrived))
            arrived = self._backend.next_event(0) if len(found) < MAX_EVENTS else None
        if not found and not state.running:  # No slot is left: a node may join.
            if not self._waits_for_nodes:
                logger.warning("no slot is left; waiting for a node to join")
            self._stop.wait(FLUSH_SECONDS)
        self._waits_for_nodes = not found and not state.running
        if self._clock() - self._ticked >= TICK_SECONDS:
            self._ticked = self._clock()
            found.append(moves.Tick(self._now()))
        return found

    def _record(self, records: list[moves.Record]) -> None:
        entries = [measurement_entry(r.trajectory, r.attempt, r.measurement, self._now()) for r in records]
        self._curves.append(*entries)
        for record in records:
            losses = self._losses.setdefault(record.trajectory.number, {})
            for point in record.measurement.curve:
                losses.setdefault(point.step, point.train_loss)  # A second attempt passes the same steps again.
            self._listener.measured(record.trajectory, record.measurement, self._now())

    def _now(self) -> float:
        return self._clock() - self._began

    def _apply(self, action: moves.Action) -> moves.Event | None:
        match action:
            case moves.OpenGeneration():
                self._curves.append(generation_entry(action.first, self._now()))
            case moves.Ask():
                trajectory = self._study.ask(action.number, action.max_trials)
                return moves.Asked(trajectory, self._now(), action.max_trials)
            case moves.Start():
                self._start(action)
            case moves.Record():
                pass  # Done already, with all others of its time.
            case moves.Report():
                self._study.report(action.trajectory, action.measurement)
            case moves.Advance():
                self._backend.advance(action.slot, action.to_step)
            case moves.TakeState():
                self._backend.take_state(action.slot)
            case moves.Pause():
                self._backend.pause(action.slot)
            case moves.Save():
                self._folder.save_state(action.trajectory, action.saved, action.state)
            case moves.Keep():
                self._folder.keep_checkpoint(action.trajectory, action.state, action.drop)
            case moves.Release():
                self._backend.release(action.slot)
            case moves.Abandon():
                self._backend.abandon(action.slot)
            case moves.Lost():
                self._lost(action)
            case moves.Finish():
                self._finish(action)
            case moves.Tell():
                self._tell(action)
        return None

    def _start(self, action: moves.Start) -> None:
        trajectory = action.trajectory
        state = None
        if action.saved is not None:
            state = self._folder.saved_state(trajectory.number, action.saved)
        self._curves.append(start_entry(trajectory, action.attempt, self._now()), durable=False)
        self._backend.start(action.slot, Job(trajectory, action.attempt, action.to_step, state))
        self._listener.trajectory_began(action.slot, trajectory, action.attempt, self._now())

    def _lost(self, action: moves.Lost) -> None:
        number, failure = action.trajectory.number, action.failure
        logger.warning(
            "trajectory %d, attempt %d: %s: %s; it will be run again\n%s",
            number,
            action.attempt,
            failure.kind,
            failure.message,
            failure.traceback,
        )
        self._curves.append(lost_entry(action.trajectory, action.attempt, failure, self._now()), durable=False)

    def _finish(self, action: moves.Finish) -> None:
        number, outcome = action.trajectory.number, action.outcome
        losses = self._losses.pop(number, {})
        steps = sorted(losses)
        verdict = self._verdicts[number] = self._judge(steps, [losses[at] for at in steps])
        if outcome.failure is not None:
            logger.warning("trajectory %d: %s\n%s", number, outcome.reason, outcome.failure.traceback)
        else:
            logger.info("trajectory %d %s: %s (%s)", number, outcome.state, outcome.reason, verdict)
        # The curves name the end first: they are what a restart reads beside the study. What led to it is durable.
        self._curves.append(end_entry(action.trajectory, action.attempt, outcome, self._now()), durable=False)
        self._folder.drop_state(number)
        self._listener.trajectory_ended(action.trajectory, outcome, verdict, action.measurement, self._now())

    def _tell(self, action: moves.Tell) -> None:
        number = action.trajectory.number
        verdict = self._verdicts.pop(number, None) or self._verdict_of_the_past(number)
        attributes: dict[str, ParamValue] = {"verdict": verdict.value, "attempts": action.attempt}
        self._study.tell(action.trajectory, action.outcome, action.measurement, attributes)

    def _verdict_of_the_past(self, number: int) -> Verdict:
        """On a trajectory that ended under an earlier driver, which did not come to tell the study."""
        losses = self._losses.pop(number, {})
        return self._judge(sorted(losses), [losses[at] for at in sorted(losses)])

    def _translate(self, event: BackendEvent) -> moves.Event:
        now = self._now()
        match event:
            case backends.SlotAdded():
                return moves.SlotFree(event.slot, now)
            case backends.SlotLost():
                return moves.SlotLost(event.slot, event.failure, now)
            case backends.Measured():
                return moves.Reached(event.slot, event.trajectory, event.attempt, event.measurement, now)
            case backends.StateTaken():
                return moves.StateArrived(event.slot, event.trajectory, event.attempt, event.state, now)
            case backends.Paused():
                return moves.Paused(event.slot, event.trajectory, event.attempt, event.state, now)
            case backends.RunFailed():
                return moves.Broke(event.slot, event.trajectory, event.attempt, event.failure, now)
