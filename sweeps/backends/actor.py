"""What runs in a worker's process, whoever started it: a WorkerHost whose errors come back as Failures."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from sweeps.backends import Job, WorkerSpec
from sweeps.backends.worker import Halted, WorkerHost, to_failure
from sweeps.records import Failure, Measurement

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Result = TypeVar("Result")


class Worker:
    """Commands come one at a time, each with its number; ``pause`` may be called from another thread meanwhile."""

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

    def prepare(self) -> Failure | None:
        """Import the trainable, and let it do ahead what it can."""
        return self._guarded(lambda host: host.prepare())

    def start(self, job: Job, number: int) -> Measurement | Halted | Failure:
        """Begin a job and run it to its rung."""
        return self._guarded(lambda host: host.start(job, lambda: self._to_halt >= number))

    def advance(self, to_step: int, number: int) -> Measurement | Halted | Failure:
        """Let the run go on to its rung."""
        return self._guarded(lambda host: host.advance(to_step, lambda: self._to_halt >= number))

    def pause(self, number: int) -> None:
        """Let the run stop after a leg, if this is the command under way; it may be over, or not yet begun."""
        self._to_halt = max(self._to_halt, number)

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
        except Exception as error:  # noqa: BLE001  A trial may raise anything; it becomes a Failure with its kind.
            return to_failure(error)
