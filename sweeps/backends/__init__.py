"""Backends run trajectories on workers; the driver pulls events from them.

A slot is a small integer. Each slot has one warm worker, which holds at most one run at a time. Commands return
at once; what they lead to comes back, one event a command, from ``next_event``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from sweeps.records import Failure, Measurement, Trajectory
from sweeps.trainable import Devices


@dataclass(frozen=True)
class Job:
    """What a worker needs to begin (or go on with) a trajectory and run it to its first rung."""

    trajectory: Trajectory
    attempt: int
    to_step: int
    state: bytes | None = None


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker is made of. ``settings`` is the trainable's validated Settings object (picklable)."""

    trainable: str
    settings: Any
    devices: Devices
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Measured:
    """The run in ``slot`` reached its rung."""

    slot: int
    trajectory: int
    attempt: int
    measurement: Measurement


@dataclass(frozen=True)
class StateTaken:
    """The whole state of the run in ``slot``."""

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


BackendEvent = Measured | StateTaken | RunFailed


class Backend(Protocol):
    """Where trajectories run. Used as a context manager; leaving it ends every worker it started.

    Resources are checked by the constructor, which raises ResourceError naming the shortage.
    """

    @property
    def num_slots(self) -> int:
        """How many trajectories can run at a time."""

    def start(self, slot: int, job: Job) -> None:
        """Begin ``job`` in a free slot and run it to ``job.to_step``. Leads to Measured or RunFailed."""

    def advance(self, slot: int, to_step: int) -> None:
        """Let the run in ``slot`` go on. Leads to Measured or RunFailed."""

    def take_state(self, slot: int) -> None:
        """Ask the run in ``slot``, which must be between rungs, for its state: StateTaken or RunFailed."""

    def release(self, slot: int) -> None:
        """Forget the run in ``slot``; the worker stays warm and the slot becomes free. Leads to no event."""

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """The next event, or None if none came in time or no command is under way."""

    def __enter__(self) -> Backend: ...

    def __exit__(self, *exc_info: object) -> None: ...
