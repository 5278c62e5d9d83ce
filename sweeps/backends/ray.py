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
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from sweeps.backends import BackendEvent, Job, Measured, Paused, RunFailed, StateTaken, WorkerSpec
from sweeps.backends.actor import Worker
from sweeps.backends.slots import Demand, Node, num_slots
from sweeps.backends.worker import Halted
from sweeps.errors import ResourceError
from sweeps.records import Failure, FailureKind, Measurement

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0


class _Worker(Worker):
    """The actor. Its commands run one at a time; ``pause`` has a thread of its own."""

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def pause(self, number: int) -> None:
        super().pause(number)


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
        self._given = 0  # Commands are counted, so that a late ``pause`` stops none but its own.
        self._under_way: dict[int, int] = {}
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
        self._pending[self._actors[slot].start.remote(job, self._number(slot))] = slot

    def advance(self, slot: int, to_step: int) -> None:
        """Let the actor's run go on."""
        self._pending[self._actors[slot].advance.remote(to_step, self._number(slot))] = slot

    def pause(self, slot: int) -> None:
        """Tell the actor, beside the command that it carries out."""
        if slot in self._under_way:
            self._actors[slot].pause.remote(self._under_way[slot])

    def abandon(self, slot: int) -> None:
        """Kill the actor, and forget what was asked of it."""
        self._pending = {reference: its for reference, its in self._pending.items() if its != slot}
        self._replace_actor(slot)

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
        self._under_way.pop(slot, None)
        job = self._jobs[slot]
        answer = _answer(ready[0])
        number, attempt = job.trajectory.number, job.attempt
        match answer:
            case Failure():
                self._replace_actor(slot)
                return RunFailed(slot, number, attempt, answer)
            case bytes():
                return StateTaken(slot, number, attempt, answer)
            case Halted():
                return Paused(slot, number, attempt, answer.state)
        return Measured(slot, number, attempt, answer)

    def _number(self, slot: int) -> int:
        self._given += 1
        self._under_way[slot] = self._given
        return self._given

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
        remote = ray.remote(concurrency_groups={"control": 1})(_Worker)
        options = {"num_cpus": self._spec.cpus, "num_gpus": self._spec.gpus, "max_restarts": 0}
        self._actors[slot] = remote.options(**options).remote(self._spec)
        # Not waited for: if this fails, the first trajectory fails in the same way and says so.
        self._actors[slot].prepare.remote()

    def _replace_actor(self, slot: int) -> None:
        logger.info("slot %d: a fresh worker", slot)
        self._under_way.pop(slot, None)
        ray.kill(self._actors[slot], no_restart=True)
        self._make_actor(slot)


def _check_answers(address: str) -> None:
    """Raise OSError if nothing listens at host:port; Ray itself would try for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def _answer(reference: Any) -> Measurement | Halted | bytes | Failure:
    try:
        answer: Measurement | Halted | bytes | Failure = ray.get(reference)
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
