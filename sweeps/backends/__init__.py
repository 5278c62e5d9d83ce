"""Backends run trajectories on workers; the driver pulls events from them.

A slot is a small integer. Each slot has one warm worker, which holds at most one run at a time. Commands return
at once; what they lead to comes back, one event a command, from ``next_event``. So do slots that come and go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sweeps.records import Failure, Measurement, Trajectory
from sweeps.trainable import Devices


@dataclass(frozen=True)
class Job:
    """What a worker needs to begin (or go on with) a trajectory and run it to its next rung.

    ``state`` is what an earlier StateTaken or Paused gave. ``from_step`` is the last rung that the trajectory was
    measured at (0: none).
    """

    trajectory: Trajectory
    attempt: int
    to_step: int
    state: bytes | None = None
    from_step: int = 0


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made of. ``settings`` is the trainable's validated Settings object (picklable).

    ``memory``: bytes of its own that a worker's process may hold; None: its share of its node's.
    """

    trainable: str
    settings: Any
    devices: Devices
    cpus: float
    gpus: float
    memory: int | None = None


@dataclass(frozen=True)
class Measured:
    """The run in ``slot`` reached its rung."""

    slot: int
    trajectory: int
    attempt: int
    measurement: Measurement


@dataclass(frozen=True)
class StateTaken:
    """The whole state of the run in ``slot``, as a ``Job`` takes it; see ``envelope`` for what is in it."""

    slot: int
    trajectory: int
    attempt: int
    state: bytes


@dataclass(frozen=True)
class Paused:
    """The run in ``slot`` stopped between rungs, as it was asked to; ``advance`` lets it go on to its rung."""

    slot: int
    trajectory: int
    attempt: int
    state: bytes


@dataclass(frozen=True)
class RunFailed:
    """The attempt in ``slot`` is over without a result; the slot can be used again."""

    slot: int
    trajectory: int
    attempt: int
    failure: Failure


@dataclass(frozen=True)
class SlotAdded:
    """There is a new slot, and it is free: a node joined."""

    slot: int


@dataclass(frozen=True)
class SlotLost:
    """The slot is gone with its node, and a run that it held is over. No further command may name it."""

    slot: int
    failure: Failure


RunEvent = Measured | StateTaken | Paused | RunFailed
BackendEvent = RunEvent | SlotAdded | SlotLost


class Backend(Protocol):
    """Where trajectories run. Used as a context manager; leaving it ends every worker it started.

    Resources are checked by the constructor, which raises ResourceError naming the shortage.
    """

    @property
    def num_slots(self) -> int:
        """How many trajectories can run at a time, at first: slots 0 to ``num_slots - 1`` are there and free."""

    def start(self, slot: int, job: Job) -> None:
        """Begin ``job`` in a free slot and run it to ``job.to_step``. Leads to Measured, Paused or RunFailed."""

    def advance(self, slot: int, to_step: int) -> None:
        """Let the run in ``slot`` go on. Leads to Measured, Paused or RunFailed."""

    def pause(self, slot: int) -> None:
        """Ask the run under way in ``slot`` to stop where it can. Leads to no event of its own.

        The command under way then leads to Paused where the trainable can stop between rungs and has not yet
        reached the last leg before its rung, else to Measured. Where no run is under way, nothing happens.
        """

    def abandon(self, slot: int) -> None:
        """End the worker in ``slot``, whatever it does: the slot is free, with a fresh worker.

        Leads to no event, and none of the run in the slot will come any more.
        """

    def take_state(self, slot: int) -> None:
        """Ask the run in ``slot``, which must be between rungs, for its state: StateTaken or RunFailed."""

    def release(self, slot: int) -> None:
        """Forget the run in ``slot``; the worker stays warm and the slot becomes free. Leads to no event."""

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """The next event, or None if none came in time or no command is under way."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, *exc_info: object) -> None: ...
