"""The backend that runs trajectories on Ray: one warm actor a slot. The only file that imports Ray.

Actors are created all at once and import the trainable while the driver prepares. An actor is replaced after any
failure. Cluster workers need towersweep (and a trainable of one's own) installed; they need no shared file system.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from sweeps.backends import BackendEvent, Job, Measured, RunFailed, StateTaken, WorkerSpec
from sweeps.backends.slots import Demand, Node, num_slots
from sweeps.backends.worker import WorkerHost, to_failure
from sweeps.errors import ResourceError
from sweeps.records import Failure, FailureKind, Measurement

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

ANSWER_SECONDS = 5.0

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class _Worker:
    """The actor. Errors in the trial come back as Failures; only a dead process raises in the driver."""

    def __init__(self, spec: WorkerSpec) -> None:
        for variable in _THREAD_VARIABLES:
            os.environ[variable] = str(spec.devices.threads)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        if spec.gpus == 0:
            # Since 2.56 Ray leaves all GPUs visible to an actor that asked for none (ray-project/ray#62492).
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self._spec = spec
        self._host: WorkerHost | None = None

    def prepare(self) -> Failure | None:
        return self._guarded(lambda host: host.prepare())

    def start(self, job: Job) -> Measurement | Failure:
        return self._guarded(lambda host: host.start(job))

    def advance(self, to_step: int) -> Measurement | Failure:
        return self._guarded(lambda host: host.advance(to_step))

    def take_state(self) -> bytes | Failure:
        return self._guarded(lambda host: host.take_state())

    def release(self) -> Failure | None:
        return self._guarded(lambda host: host.release())

    def _guarded(self, work: Callable[[WorkerHost], Result]) -> Result | Failure:
        try:
            if self._host is None:
                self._host = WorkerHost(self._spec)
            return work(self._host)
        except Exception as error:  # noqa: BLE001  A trial may raise anything; it becomes a Failure with its kind.
            return to_failure(error)


class RayBackend:
    """See ``sweeps.backends.Backend``.

    Uses Ray as it is if it is initialised already, else connects to ``address``, else starts a local Ray with a
    temporary directory of its own, and ends it on leaving. ``local_options`` go to that ``ray.init``.

    Raises ResourceError before any actor is made if the demand can never be met.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int | str = "auto",
        address: str | None = None,
        local_options: dict[str, Any] | None = None,
    ) -> None:
        self._spec = spec
        self._temporary: Path | None = None
        self._connected_here = not ray.is_initialized()
        self._actors: dict[int, Any] = {}
        self._jobs: dict[int, Job] = {}
        self._pending: dict[Any, int] = {}
        if self._connected_here:
            self._connect(address, local_options or {})
        try:
            self._num_slots = num_slots(_nodes(), Demand(spec.cpus, spec.gpus), workers)
        except ResourceError:
            self.__exit__()
            raise
        for slot in range(self._num_slots):
            self._make_actor(slot)

    @property
    def num_slots(self) -> int:
        """How many actors there are."""
        return self._num_slots

    def start(self, slot: int, job: Job) -> None:
        """Give a job to the actor in ``slot``."""
        self._jobs[slot] = job
        self._pending[self._actors[slot].start.remote(job)] = slot

    def advance(self, slot: int, to_step: int) -> None:
        """Let the actor's run go on."""
        self._pending[self._actors[slot].advance.remote(to_step)] = slot

    def take_state(self, slot: int) -> None:
        """Fetch the run's state through the object store."""
        self._pending[self._actors[slot].take_state.remote()] = slot

    def release(self, slot: int) -> None:
        """Forget the run; the actor stays warm."""
        self._actors[slot].release.remote()

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """Wait for the first answer of any actor."""
        if not self._pending:
            return None
        ready, _ = ray.wait(list(self._pending), num_returns=1, timeout=timeout_seconds)
        if not ready:
            return None
        slot = self._pending.pop(ready[0])
        job = self._jobs[slot]
        answer = _answer(ready[0])
        number, attempt = job.trajectory.number, job.attempt
        if isinstance(answer, Failure):
            self._replace_actor(slot)
            return RunFailed(slot, number, attempt, answer)
        if isinstance(answer, bytes):
            return StateTaken(slot, number, attempt, answer)
        return Measured(slot, number, attempt, answer)

    def __enter__(self) -> RayBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for actor in self._actors.values():
            ray.kill(actor, no_restart=True)
        self._actors.clear()
        self._pending.clear()
        if self._connected_here:
            ray.shutdown()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _connect(self, address: str | None, local_options: dict[str, Any]) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if address is not None:
            try:
                _check_answers(address)
                ray.init(address=address, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                cause = _first_line(error)
                raise ResourceError(
                    f"--address is {address!r}, but must be a Ray cluster's that answers ({cause})"
                ) from error
            return
        # A short path of our own: sockets live below it, and other Rays on this machine are left alone.
        self._temporary = Path(tempfile.mkdtemp(prefix="ts-"))
        options = {"num_cpus": len(os.sched_getaffinity(0)), **local_options}
        ray.init(address="local", include_dashboard=False, _temp_dir=str(self._temporary), **quiet, **options)

    def _make_actor(self, slot: int) -> None:
        remote = ray.remote(_Worker).options(num_cpus=self._spec.cpus, num_gpus=self._spec.gpus, max_restarts=0)
        self._actors[slot] = remote.remote(self._spec)
        # Not waited for: if this fails, the first trajectory fails in the same way and says so.
        self._actors[slot].prepare.remote()

    def _replace_actor(self, slot: int) -> None:
        logger.info("slot %d: a fresh worker", slot)
        ray.kill(self._actors[slot], no_restart=True)
        self._make_actor(slot)


def _check_answers(address: str) -> None:
    """Raise OSError if nothing listens at host:port; Ray itself would try for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def _answer(reference: Any) -> Measurement | bytes | Failure:
    try:
        answer: Measurement | bytes | Failure = ray.get(reference)
    except OutOfMemoryError as error:
        return Failure(FailureKind.HOST_OUT_OF_MEMORY, _first_line(error), str(error))
    except RayActorError as error:
        return Failure(FailureKind.WORKER_LOST, _first_line(error), str(error))
    except RayError as error:
        return Failure(FailureKind.TRIAL_ERROR, _first_line(error), str(error))
    return answer


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _nodes() -> list[Node]:
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(found.get("CPU", 0.0), found.get("GPU", 0.0)) for found in resources]
