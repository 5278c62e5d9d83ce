"""The backend that runs in this process: one slot, in order, nothing in parallel.

Commands wait until ``next_event`` carries them out. For debugging, for tests, and where Ray cannot run.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

from sweeps.backends import BackendEvent, Job, Measured, Paused, RunFailed, StateTaken, WorkerSpec
from sweeps.backends.slots import Demand, Node, num_slots
from sweeps.backends.worker import Halted, WorkerHost, to_failure
from sweeps.doctor import gpu_names
from sweeps.errors import ResourceError
from sweeps.records import Measurement

SLOT = 0

# Whether the command's run was asked to halt -> what came of it.
Work = Callable[[Callable[[], bool]], Measurement | Halted]


class InlineBackend:
    """See ``sweeps.backends.Backend``.

    ``pause`` may be called while the run is under way, by a signal handler or by another thread. What hangs in
    this process cannot be ended, so ``abandon`` only forgets what has not begun.

    Raises ResourceError if more than one worker is asked for, or more than this machine has.
    """

    def __init__(self, spec: WorkerSpec, workers: int | str = "auto") -> None:
        if workers not in ("auto", 1):
            raise ResourceError(f"resources.workers is {workers}, but must be 1 with the inline backend")
        here = Node(len(os.sched_getaffinity(0)), len(gpu_names()) if spec.gpus else 0)
        num_slots([here], Demand(spec.cpus, spec.gpus), 1)
        self._spec = spec
        self._host = WorkerHost(spec)
        self._job: Job | None = None
        self._commands: deque[Callable[[], BackendEvent]] = deque()
        self._given = self._to_halt = 0  # Commands are counted, so that a late ``pause`` stops none but its own.

    @property
    def num_slots(self) -> int:
        """One."""
        return 1

    def start(self, slot: int, job: Job) -> None:
        """Begin a job at the next ``next_event``."""
        self._job = job
        self._run(job, lambda asked_to_halt: self._host.start(job, asked_to_halt))

    def advance(self, slot: int, to_step: int) -> None:
        """Go on at the next ``next_event``."""
        self._run(self._current(), lambda asked_to_halt: self._host.advance(to_step, asked_to_halt))

    def pause(self, slot: int) -> None:
        """Let the run that is under way, or begins at the next ``next_event``, stop after a leg."""
        self._to_halt = self._given

    def abandon(self, slot: int) -> None:
        """Forget the run, and what was to be done with it; with a fresh trainable."""
        self._commands.clear()
        self._host = WorkerHost(self._spec)

    def take_state(self, slot: int) -> None:
        """Take the state at the next ``next_event``."""
        job = self._current()
        self._commands.append(lambda: self._state_taken(job))

    def release(self, slot: int) -> None:
        """Forget the run."""
        self._host.release()

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """Carry out the oldest command. Takes as long as that takes, whatever the timeout."""
        return self._commands.popleft()() if self._commands else None

    def __enter__(self) -> InlineBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._commands.clear()
        self._host.release()

    def _current(self) -> Job:
        if self._job is None:
            raise ResourceError("the slot holds no run, but must have started one")
        return self._job

    def _run(self, job: Job, work: Work) -> None:
        self._given += 1
        this = self._given
        self._commands.append(lambda: self._ran(job, lambda: work(lambda: self._to_halt >= this)))

    def _ran(self, job: Job, work: Callable[[], Measurement | Halted]) -> BackendEvent:
        def event() -> BackendEvent:
            came = work()
            number, attempt = job.trajectory.number, job.attempt
            if isinstance(came, Halted):
                return Paused(SLOT, number, attempt, came.state)
            return Measured(SLOT, number, attempt, came)

        return self._guarded(job, event)

    def _state_taken(self, job: Job) -> BackendEvent:
        number = job.trajectory.number
        return self._guarded(job, lambda: StateTaken(SLOT, number, job.attempt, self._host.take_state()))

    def _guarded(self, job: Job, work: Callable[[], BackendEvent]) -> BackendEvent:
        try:
            return work()
        except (Exception, SystemExit) as error:  # noqa: BLE001  Whatever a trial raises becomes a Failure.
            self._host.release()
            return RunFailed(SLOT, job.trajectory.number, job.attempt, to_failure(error))
