"""The loop: pull events, let the pure step decide, carry out its actions in order.

One driver writes one run folder and one study. It blocks in ``backend.next_event`` and nowhere else.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sweeps import step
from sweeps.backends import Backend, BackendEvent, Job, Measured, RunFailed, StateTaken
from sweeps.history import end_entry, measurement_entry, session_entry, start_entry
from sweeps.records import Measurement, Outcome, ParamValue, Trajectory, Verdict
from sweeps.run_folder import CurveLog, RunFolder
from sweeps.study import Study

logger = logging.getLogger(__name__)

# So many events that are there at once are decided on together: one write makes their measurements durable.
MAX_EVENTS = 64
# The study's own file may lag behind the curves by this much: what it lacks, a restart takes from them.
FLUSH_SECONDS = 0.1


class Listener(Protocol):
    """Who wants to know how the sweep goes: the terminal, a JSON stream, a notebook. Times are in seconds."""

    def sweep_began(self, name: str, num_slots: int, plan: step.Plan, now: float) -> None:
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
        """All trials of a trajectory were told to the study."""

    def tick(self, now: float) -> None:
        """Some time went by."""

    def sweep_ended(self, *, interrupted: bool, now: float) -> None:
        """The driver leaves."""


# The verdict on a trajectory whose measurements are these.
Judge = Callable[[list[Measurement]], Verdict]


class Driver:
    """Drives one sweep to its end, or until ``stop`` is set.

    ``clock`` gives seconds; ``spent`` is what earlier drivers of the same sweep already used of the time budget.
    """

    def __init__(
        self,
        plan: step.Plan,
        backend: Backend,
        study: Study,
        folder: RunFolder,
        curves: CurveLog,
        judge: Judge,
        listener: Listener,
        clock: Callable[[], float],
        stop: threading.Event,
        spent: float = 0.0,
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
        self._flushed = clock()
        self._measurements: dict[int, list[Measurement]] = {}

    def run(self, state: step.State, name: str) -> bool:
        """Drive from ``state`` until nothing is left to do. False if it was told to stop before that."""
        self._listener.sweep_began(name, self._backend.num_slots, self._plan, self._now())
        pending: deque[step.Event] = deque(
            step.SlotFree(slot, self._now()) for slot in range(self._backend.num_slots)
        )
        while not self._stop.is_set():
            while pending:
                state = self._decide(state, pending)
            if step.is_over(state):
                break
            self._flush_if_due()
            pending.extend(self._events(state))
            self._listener.tick(self._now())
        self._study.flush()
        interrupted = not step.is_over(state)
        if not interrupted:
            for finish in step.give_up_waiting(self._plan, state):
                self._finish(finish)
            self._study.flush()
        self._curves.append(session_entry(self._now(), finished=not interrupted))
        self._listener.sweep_ended(interrupted=interrupted, now=self._now())
        return not interrupted

    def _decide(self, state: step.State, pending: deque[step.Event]) -> step.State:
        """Decide on all ``pending`` events; put every measurement on record; then act, in order."""
        actions: list[step.Action] = []
        while pending:
            state, more = step.on_event(self._plan, state, pending.popleft())
            actions += more
        self._record([action for action in actions if isinstance(action, step.Record)])
        pending.extend(event for action in actions if (event := self._apply(action)) is not None)
        return state

    def _flush_if_due(self) -> None:
        if self._clock() - self._flushed >= FLUSH_SECONDS:
            self._study.try_flush()
            self._flushed = self._clock()

    def _events(self, state: step.State) -> list[step.Event]:
        """What has happened: waits for the first event, and takes along those that are there as well."""
        found: list[step.Event] = []
        arrived = self._backend.next_event(FLUSH_SECONDS)
        while arrived is not None:
            event = self._translate(state, arrived)
            found += [event] if event is not None else []
            arrived = self._backend.next_event(0) if len(found) < MAX_EVENTS else None
        return found

    def _record(self, records: list[step.Record]) -> None:
        entries = [measurement_entry(r.trajectory, r.attempt, r.measurement, self._now()) for r in records]
        self._curves.append(*entries)
        for record in records:
            self._measurements.setdefault(record.trajectory.number, []).append(record.measurement)
            self._listener.measured(record.trajectory, record.measurement, self._now())

    def _now(self) -> float:
        return self._clock() - self._began

    def _apply(self, action: step.Action) -> step.Event | None:
        match action:
            case step.Ask():
                trajectory = self._study.ask(action.number, action.max_trials)
                return step.Asked(action.slot, trajectory, self._now(), action.max_trials)
            case step.Start():
                self._start(action)
            case step.Record():
                pass  # Done already, with all others of its time.
            case step.Report():
                self._study.report(action.trajectory, action.measurement)
            case step.Advance():
                self._backend.advance(action.slot, action.to_step)
            case step.TakeState():
                self._backend.take_state(action.slot)
            case step.Keep():
                self._folder.keep_checkpoint(action.trajectory, action.state, action.drop)
            case step.Release():
                self._backend.release(action.slot)
            case step.Finish():
                self._finish(action)
        return None

    def _start(self, action: step.Start) -> None:
        trajectory = action.trajectory
        self._measurements[trajectory.number] = []
        self._curves.append(start_entry(trajectory, action.attempt, self._now()), durable=False)
        self._backend.start(action.slot, Job(trajectory, action.attempt, action.to_step))
        self._listener.trajectory_began(action.slot, trajectory, action.attempt, self._now())

    def _finish(self, action: step.Finish) -> None:
        number, outcome = action.trajectory.number, action.outcome
        verdict = self._judge(self._measurements.pop(number, []))
        if outcome.failure is not None:
            logger.warning("trajectory %d: %s\n%s", number, outcome.reason, outcome.failure.traceback)
        else:
            logger.info("trajectory %d %s: %s (%s)", number, outcome.state, outcome.reason, verdict)
        # The curves name the end first: they are what a restart reads beside the study. What led to it is durable.
        self._curves.append(end_entry(action.trajectory, action.attempt, outcome, self._now()), durable=False)
        attributes: dict[str, ParamValue] = {"verdict": verdict.value, "attempts": action.attempt}
        self._study.tell(action.trajectory, outcome, action.measurement, attributes)
        self._listener.trajectory_ended(action.trajectory, outcome, verdict, action.measurement, self._now())

    def _translate(self, state: step.State, event: BackendEvent | None) -> step.Event | None:
        if event is None:
            return None
        run = state.running.get(event.slot)
        if run is None or (run.trajectory.number, run.attempt) != (event.trajectory, event.attempt):
            logger.warning("slot %d: an event of trajectory %d came too late", event.slot, event.trajectory)
            return None
        match event:
            case Measured():
                return step.Reached(event.slot, event.measurement, self._now())
            case StateTaken():
                return step.StateArrived(event.slot, event.state, self._now())
            case RunFailed():
                return step.Broke(event.slot, event.failure, self._now())
