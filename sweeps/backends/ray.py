"""The backend that runs trajectories on Ray: one warm actor a slot, on one node for as long as both live.

The only file that imports Ray. Actors are created all at once and import the trainable while the driver prepares.
An actor is replaced after any failure. Workers of a cluster need towersweep (and a trainable of one's own)
installed; they need no shared file system.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import count
from math import inf
from typing import Any

import sweeps.backends.quiet  # noqa: F401  Before Ray.

# isort: split

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.backends import (
    BackendEvent,
    Job,
    Measured,
    Paused,
    RunFailed,
    SlotAdded,
    SlotLost,
    StateTaken,
    WorkerSpec,
)
from sweeps.backends.actor import Overgrown, Worker
from sweeps.backends.lost import lost_message
from sweeps.backends.ray_folder import RayFolder
from sweeps.backends.slots import Demand, Node, further_slots, num_slots
from sweeps.backends.worker import Halted
from sweeps.errors import ResourceError
from sweeps.records import Failure, FailureKind

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
NODES_SECONDS = 2.0
# How long a worker of a cluster may take to start before its slot counts as lost: another job may hold its node.
START_SECONDS = 120.0
# What of a node's memory for workers they are given together, unless ``resources.worker_memory`` says otherwise.
MEMORY_SHARE = 0.9
NO_BOUND = 2**62
LOG_BYTES = 2**24

_QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}


class _Worker(Worker):
    """The actor. Its commands run one at a time; what has to be heard meanwhile has threads of its own."""

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]  # Ray has no types.
    def is_up(self) -> bool:
        return super().is_up()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]  # Ray has no types.
    def pause(self, number: int) -> None:
        super().pause(number)

    @ray.method(concurrency_group="memory")  # type: ignore[untyped-decorator]  # Ray has no types.
    def watch_memory(self, memory_bytes: int) -> Failure:
        return super().watch_memory(memory_bytes)


_GROUPS = {"control": 1, "memory": 1}


class _Asked(Enum):
    """What an answer that is waited for is about."""

    UP = auto()
    MEMORY = auto()
    COMMAND = auto()


@dataclass
class _Slot:
    """One actor, and what it does. ``number``: of the command under way, 0 if none is.

    ``shown``: the driver knows of the slot. ``doubt``: a failure that it will be told as soon as it is clear
    whether the slot is lost as well.
    """

    node: str
    memory: int
    shown: bool
    actor: Any = None
    up: bool = False
    since: float = 0.0
    job: Job | None = None
    number: int = 0
    to_halt: bool = False
    watch: Any = None
    doubt: Failure | None = None


class RayBackend:
    """See ``sweeps.backends.Backend``.

    Uses Ray as it is if it is initialised already, else connects to ``address``, else starts a local Ray with a
    temporary directory of its own, and ends it on leaving. ``local_options`` go to that ``ray.init``.

    On a Ray that is not of its own it looks after the nodes: slots come with those that join (no more than
    ``workers``), and are lost with those that leave. If a Ray of its own ends, it starts another.

    Raises ResourceError before any actor is made if the demand can never be met.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        workers: int | str = "auto",
        address: str | None = None,
        local_options: dict[str, Any] | None = None,
    ) -> None:
        self._spec, self._workers, self._demand = spec, workers, Demand(spec.cpus, spec.gpus)
        self._local_options = local_options or {}
        self._folder: RayFolder | None = None
        self._connected_here = not ray.is_initialized()
        self._slots: dict[int, _Slot] = {}
        self._slot_numbers = count()
        self._waiting: dict[Any, tuple[int, _Asked]] = {}
        self._events: deque[BackendEvent] = deque()
        # Commands are counted, so that a ``pause`` that comes late stops none but its own.
        self._numbers = count(1)
        self._looked = time.monotonic()
        if self._connected_here:
            self._connect(address)
        try:
            nodes = _nodes()
            self._num_slots = num_slots(list(nodes.values()), self._demand, workers)
        except ResourceError:
            self.__exit__()
            raise
        self._add_slots(nodes, shown=True)

    @property
    def num_slots(self) -> int:
        """How many slots there were at first."""
        return self._num_slots

    def start(self, slot: int, job: Job) -> None:
        """Give a job to the actor in ``slot``."""
        its = self._slots[slot]
        its.job = job
        if ray.wait([its.watch], timeout=0)[0]:  # The worker ended while it had nothing to do.
            self._replace(slot)
        self._command(slot, lambda its, number: its.actor.start.remote(job, number, its.memory))

    def advance(self, slot: int, to_step: int) -> None:
        """Let the actor's run go on."""
        self._command(slot, lambda its, number: its.actor.advance.remote(to_step, number))

    def pause(self, slot: int) -> None:
        """Tell the actor, beside the command that it carries out."""
        its = self._slots[slot]
        if its.number:
            its.to_halt = True
            its.actor.pause.remote(its.number)

    def abandon(self, slot: int) -> None:
        """Kill the actor, and forget what was asked of it."""
        self._replace(slot)

    def take_state(self, slot: int) -> None:
        """Fetch the run's state through the object store."""
        self._command(slot, lambda its, _: its.actor.take_state.remote())

    def release(self, slot: int) -> None:
        """Forget the run; the actor stays warm."""
        self._slots[slot].actor.release.remote()

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """Wait for the first answer of any actor; on a cluster, also for nodes that come."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while not self._events:
            if not self._under_way() and (self._folder is not None or deadline is None):
                return None
            left = NODES_SECONDS if deadline is None else deadline - time.monotonic()
            for reference in self._ready(min(max(left, 0.0), NODES_SECONDS)):
                self._arrived(reference)
            if time.monotonic() - self._looked >= NODES_SECONDS:
                self._look_around()
            if deadline is not None and time.monotonic() >= deadline:
                break
        return self._events.popleft() if self._events else None

    def __enter__(self) -> RayBackend:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for its in self._slots.values():
            ray.kill(its.actor, no_restart=True)
        self._slots.clear()
        self._waiting.clear()
        if self._connected_here:
            ray.shutdown()
        if self._folder is not None:
            self._folder.remove()

    # Commands and their answers

    def _command(self, slot: int, give: Callable[[_Slot, int], Any]) -> None:
        its = self._slots[slot]
        its.number, its.to_halt = next(self._numbers), False
        self._waiting[give(its, its.number)] = slot, _Asked.COMMAND

    def _under_way(self) -> bool:
        return any(its.number or its.doubt for its in self._slots.values())

    def _ready(self, timeout_seconds: float) -> list[Any]:
        """Every answer that is there; if none is, the first to come."""
        references = list(self._waiting)
        if not references:
            time.sleep(timeout_seconds)
            return []
        ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
        if not ready and timeout_seconds:
            ready, _ = ray.wait(references, num_returns=1, timeout=timeout_seconds)
        return list(ready)

    def _arrived(self, reference: Any) -> None:
        if reference not in self._waiting:  # Its actor was replaced since.
            return
        slot, asked = self._waiting.pop(reference)
        answer = _answer(reference)
        match asked:
            case _Asked.UP:
                self._came_up(slot, answer)
            case _Asked.MEMORY:
                self._ended(slot, answer)
            case _Asked.COMMAND:
                self._answered(slot, answer)

    def _answered(self, slot: int, answer: Any) -> None:
        its = self._slots[slot]
        match answer:
            case Failure():
                self._broke(slot, answer)
                return
            case Overgrown():
                self._begin_afresh(slot, answer)
                return
        its.number = 0
        assert its.job is not None  # A command was under way.
        number, attempt = its.job.trajectory.number, its.job.attempt
        match answer:
            case bytes():
                self._events.append(StateTaken(slot, number, attempt, answer))
            case Halted():
                self._events.append(Paused(slot, number, attempt, answer.state))
            case _:
                self._events.append(Measured(slot, number, attempt, answer))

    def _begin_afresh(self, slot: int, grown: Overgrown) -> None:
        """Give the job that was refused to a worker that has the memory for it."""
        its = self._slots[slot]
        job, number, to_halt = its.job, its.number, its.to_halt
        logger.info("slot %d: its worker held %d MiB between two runs", slot, grown.held_bytes // 2**20)
        self._replace(slot)
        its.number, its.to_halt = number, to_halt
        self._waiting[its.actor.start.remote(job, number, its.memory)] = slot, _Asked.COMMAND
        if to_halt:
            its.actor.pause.remote(number)

    def _ended(self, slot: int, failure: Failure) -> None:
        """The worker is gone, or has grown over its bound."""
        if self._slots[slot].number:
            self._broke(slot, failure)
        elif self._slots[slot].up:
            logger.info("slot %d: %s", slot, failure.message)
            self._replace(slot)

    def _broke(self, slot: int, failure: Failure) -> None:
        its = self._slots[slot]
        lost = failure.kind is FailureKind.WORKER_LOST
        if lost and ray.wait([its.watch], timeout=0)[0] and isinstance(told := _answer(its.watch), Failure):
            failure = told  # If it ended because of its memory, then its watch said so before.
        if lost and self._folder is not None and not _nodes():
            self._restart(failure)
            return
        self._replace(slot)
        if lost and self._folder is None:
            its.doubt = failure
        else:
            self._tell(slot, failure)

    def _tell(self, slot: int, failure: Failure) -> None:
        its = self._slots[slot]
        assert its.job is not None  # A command was under way.
        self._events.append(RunFailed(slot, its.job.trajectory.number, its.job.attempt, failure))

    # Slots, actors and nodes

    def _add_slots(self, nodes: dict[str, Node], *, shown: bool) -> None:
        taken = [its.node for its in self._slots.values()]
        further = further_slots(nodes, taken, self._demand, self._workers)
        for node in further:
            share = MEMORY_SHARE * nodes[node].memory / [*taken, *further].count(node)
            slot = next(self._slot_numbers)
            self._slots[slot] = _Slot(node, self._spec.memory or int(share) or NO_BOUND, shown)
            self._make_actor(slot)

    def _make_actor(self, slot: int) -> None:
        its = self._slots[slot]
        pinned = NodeAffinitySchedulingStrategy(its.node, soft=False)
        actor = ray.remote(concurrency_groups=_GROUPS)(_Worker).options(
            num_cpus=self._spec.cpus, num_gpus=self._spec.gpus, max_restarts=0, scheduling_strategy=pinned
        )
        its.actor, its.up, its.since = actor.remote(self._spec), False, time.monotonic()
        its.watch = its.actor.watch_memory.remote(its.memory)
        self._waiting[its.watch] = slot, _Asked.MEMORY
        self._waiting[its.actor.is_up.remote()] = slot, _Asked.UP
        # Not waited for: if this fails, the first trajectory fails in the same way and says so.
        its.actor.prepare.remote()

    def _forget(self, slot: int) -> None:
        """What is under way in the slot leads to nothing."""
        self._waiting = {reference: asked for reference, asked in self._waiting.items() if asked[0] != slot}
        ray.kill(self._slots[slot].actor, no_restart=True)

    def _replace(self, slot: int) -> None:
        logger.info("slot %d: a fresh worker", slot)
        self._forget(slot)
        its = self._slots[slot]
        its.number, its.to_halt, its.doubt = 0, False, None
        self._make_actor(slot)

    def _came_up(self, slot: int, answer: bool | Failure) -> None:
        its = self._slots[slot]
        its.up = answer is True
        if isinstance(answer, Failure):
            its.since = inf  # It has said why.
            self._look_around()
            if slot not in self._slots:
                return
            if not its.shown:
                logger.warning("node %s gives no slot: %s", its.node, answer.message)
                return
        if its.doubt is not None:
            self._tell(slot, its.doubt)
            its.doubt = None
        if not its.shown:
            its.shown = True
            self._events.append(SlotAdded(slot))

    def _look_around(self) -> None:
        """Lose the slots of nodes that left and of workers that do not come; add those of nodes that joined."""
        self._looked = time.monotonic()
        if self._folder is None:
            nodes = _nodes()
            for slot in [slot for slot, its in self._slots.items() if its.node not in nodes]:
                self._lose(slot, f"node {self._slots[slot].node} left the cluster")
            self._add_slots(nodes, shown=False)
        for slot, its in list(self._slots.items()):
            if its.shown and not its.up and self._looked - its.since > START_SECONDS:
                self._lose(slot, f"no worker came up on node {its.node} within {START_SECONDS:g} s")
                self._slots[fresh := next(self._slot_numbers)] = _Slot(its.node, its.memory, shown=False)
                self._make_actor(fresh)

    def _lose(self, slot: int, message: str) -> None:
        self._forget(slot)
        if self._slots.pop(slot).shown:
            self._events.append(SlotLost(slot, Failure(FailureKind.WORKER_LOST, message)))

    def _connect(self, address: str | None) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is not None:
            try:
                _check_answers(address)
                ray.init(address=address, **_QUIET)
            except (OSError, ValueError, RuntimeError) as error:
                cause = _first_line(error)
                raise ResourceError(
                    f"--address is {address!r}, but must be a Ray cluster's that answers ({cause})"
                ) from error
            return
        # What trainables print goes to Ray's own files; so much of each is kept, and nothing after the end.
        os.environ.setdefault("RAY_ROTATION_MAX_BYTES", str(LOG_BYTES))
        os.environ.setdefault("RAY_ROTATION_BACKUP_COUNT", "1")
        # A folder of our own: other Rays on this machine are left alone.
        self._folder = RayFolder()
        options = {"num_cpus": len(os.sched_getaffinity(0)), **self._local_options}
        ray.init(address="local", include_dashboard=False, _temp_dir=str(self._folder.path), **_QUIET, **options)

    def _restart(self, failure: Failure) -> None:
        """Our own Ray is gone, and every run with it."""
        logger.warning("Ray ended on this machine: starting it again")
        ray.shutdown()
        if self._folder is not None:
            self._folder.remove()
        self._connect(None)
        (node,) = _nodes()
        self._waiting.clear()
        for slot, its in self._slots.items():
            its.node = node
            if its.number:
                self._tell(slot, failure)
            its.number, its.to_halt = 0, False
            self._make_actor(slot)


def _check_answers(address: str) -> None:
    """Raise OSError if nothing listens at host:port; Ray itself would try for two minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()


def _answer(reference: Any) -> Any:
    """What an actor returned, or a Failure that says why it did not."""
    try:
        return ray.get(reference)
    except OutOfMemoryError as error:
        return Failure(FailureKind.HOST_OUT_OF_MEMORY, _first_line(error), str(error))
    except RayActorError as error:
        return Failure(FailureKind.WORKER_LOST, lost_message(str(error)), str(error))
    except RayTaskError as error:
        return Failure(FailureKind.TRIAL_ERROR, _first_line(error), str(error))
    except RayError as error:  # An actor that no node has room for any more, an object that went with its node.
        return Failure(FailureKind.WORKER_LOST, _first_line(error), str(error))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _nodes() -> dict[str, Node]:
    """What each living node offers."""
    return {
        node["NodeID"]: Node(*(node["Resources"].get(name, 0.0) for name in ("CPU", "GPU", "memory")))
        for node in ray.nodes()
        if node["Alive"]
    }
