"""What runs in a worker's process, whoever started it: a WorkerHost whose errors come back as Failures."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sweeps.backends import Job, WorkerSpec
from sweeps.backends.worker import Halted, WorkerHost, to_failure
from sweeps.records import Failure, FailureKind, Measurement

WATCH_SECONDS, GRACE_SECONDS = 0.2, 1.0
# A worker that holds more than this share of its bound between trajectories gives way to a fresh one.
RECYCLED_SHARE = 0.75
STATM = Path("/proc/self/statm")

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Overgrown:
    """The worker holds so much memory that it will not begin another trajectory."""

    held_bytes: int


class Worker:
    """Commands come one at a time, each with its number; ``pause`` and ``watch_memory`` from threads beside."""

    def __init__(self, spec: WorkerSpec) -> None:
        for variable in _THREAD_VARIABLES:
            os.environ[variable] = str(spec.devices.threads)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        if spec.gpus == 0:
            # Since 2.56 Ray leaves all GPUs visible to an actor that asked for none (ray-project/ray#62492).
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._spec = spec
        self._host: WorkerHost | None = None
        self._to_halt = 0
        self._begun = False

    def is_up(self) -> bool:
        """The process runs and could import this."""
        return True

    def prepare(self) -> Failure | None:
        """Import the trainable, and let it do ahead what it can."""
        return self._guarded(lambda host: host.prepare())

    def start(self, job: Job, number: int, memory_bytes: int) -> Measurement | Halted | Overgrown | Failure:
        """Begin a job and run it to its rung; but not if this is not the first and memory is short."""
        if self._begun and own_memory_bytes() > RECYCLED_SHARE * memory_bytes:
            gc.collect()
            if (held := own_memory_bytes()) > RECYCLED_SHARE * memory_bytes:
                return Overgrown(held)
        self._begun = True
        return self._guarded(lambda host: host.start(job, lambda: self._to_halt >= number))

    def advance(self, to_step: int, number: int) -> Measurement | Halted | Failure:
        """Let the run go on to its rung."""
        return self._guarded(lambda host: host.advance(to_step, lambda: self._to_halt >= number))

    def pause(self, number: int) -> None:
        """Let the run stop after a leg, if this is the command under way; it may be over, or not yet begun."""
        self._to_halt = max(self._to_halt, number)

    def watch_memory(self, memory_bytes: int) -> Failure:
        """Return when this process holds more memory of its own than that; it then has a moment to be killed.

        After the moment it ends itself. What is shared with other processes (libraries, Ray's object store) does
        not count.
        """
        while (held := own_memory_bytes()) <= memory_bytes:
            time.sleep(WATCH_SECONDS)
        threading.Timer(GRACE_SECONDS, os._exit, [1]).start()
        return Failure(FailureKind.HOST_OUT_OF_MEMORY, _too_much(held, memory_bytes))

    def take_state(self) -> bytes | Failure:
        """The state of the run."""
        return self._guarded(lambda host: host.take_state())

    def release(self) -> Failure | None:
        """Forget the run."""
        return self._guarded(lambda host: host.release())

    def _guarded(self, work: Callable[[WorkerHost], Result]) -> Result | Failure:
        try:
            if self._host is None:
                self._host = WorkerHost(self._spec)
            return work(self._host)
        except (Exception, SystemExit) as error:  # noqa: BLE001  Whatever a trial raises becomes a Failure.
            return to_failure(error)


def own_memory_bytes() -> int:
    """Memory that this process alone holds; 0 where there is no /proc to tell."""
    if not STATM.exists():
        return 0
    _, resident, shared, *_ = map(int, STATM.read_bytes().split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def _too_much(held: int, bound: int) -> str:
    mib = 2**20
    return (
        f"the worker held {held / mib:,.0f} MiB of memory, but must hold at most {bound / mib:,.0f} MiB "
        "(resources.worker_memory)"
    )
