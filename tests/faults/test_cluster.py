"""A real cluster of several nodes, of which some leave, join, or are held by others."""

import os
import signal
import time
from dataclasses import replace

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.backends import Measured, RunFailed, SlotAdded, SlotLost, StateTaken
from sweeps.backends import ray as ray_backend
from sweeps.backends.ray import RayBackend
from sweeps.records import FailureKind
from tests.contracts.backend_contract import LONG, PACED, WAIT, job, spec
from tests.support.trainables import Settings

pytestmark = pytest.mark.ray

PROBE = "tests.support.trainables:Probe"
# So that the death of a node is noticed within a second, not a quarter of a minute.
QUICK = {"health_check_period_ms": 200, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}


@pytest.fixture(scope="module")
def head():
    """A cluster's head, which has no CPUs for trajectories."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": QUICK})
    yield made
    made.shutdown()


@pytest.fixture
def cluster(head):
    """The head, and three nodes of one CPU each."""
    for node in list(head.worker_nodes)[3:]:
        head.remove_node(node)
    for _ in range(len(head.worker_nodes), 3):
        head.add_node(num_cpus=1)
    head.wait_for_nodes()
    yield head
    ray.shutdown()


def ray_node(cluster, backend, slot):
    """The cluster's handle of the node that a slot is on."""
    (found,) = (node for node in cluster.list_all_nodes() if node.node_id == backend._slots[slot].node)
    return found


def events_until(backend, wanted):
    """Events, up to the first of a type."""
    events = []
    while not events or not isinstance(events[-1], wanted):
        events.append(backend.next_event(WAIT))
        assert events[-1] is not None, events
    return events


@pytest.mark.parametrize("graceful", [False, True], ids=["killed", "drained"])
def test_a_node_that_leaves_takes_its_slot_and_one_that_joins_brings_a_slot(cluster, tmp_path, graceful):
    gate = tmp_path / "gate"
    with RayBackend(spec(trainable=PACED, gate=gate), address=cluster.address) as backend:
        assert backend.num_slots == 3
        assert len({backend._slots[slot].node for slot in range(3)}) == 3
        for slot in range(3):
            backend.start(slot, job(slot, to_step=LONG))
        assert backend.next_event(0.5) is None
        cluster.remove_node(ray_node(cluster, backend, 1), allow_graceful=graceful)
        (lost,) = events_until(backend, SlotLost)
        assert lost.slot == 1
        assert lost.failure.kind is FailureKind.WORKER_LOST
        assert lost.failure.message.endswith("left the cluster")
        joined = cluster.add_node(num_cpus=1)
        (added,) = events_until(backend, SlotAdded)
        assert added.slot == 3  # No number is used twice.
        assert backend._slots[3].node == joined.node_id
        backend.start(3, job(1, to_step=LONG, attempt=2))
        gate.touch()
        measured = [backend.next_event(WAIT) for _ in range(3)]
        assert {(event.slot, event.trajectory, event.attempt) for event in measured} == {
            (0, 0, 1),
            (2, 2, 1),
            (3, 1, 2),
        }
        assert all(event.measurement.step == LONG for event in measured)


def test_a_fixed_number_of_workers_comes_back_up_to_that_number_and_no_further(cluster):
    with RayBackend(spec(trainable=PACED), workers=2, address=cluster.address) as backend:
        assert backend.num_slots == 2
        cluster.remove_node(ray_node(cluster, backend, 0), allow_graceful=False)
        lost, added = events_until(backend, SlotAdded)  # On the third node, which was free.
        assert (lost.slot, added.slot) == (0, 2)
        cluster.remove_node(ray_node(cluster, backend, 1), allow_graceful=False)
        cluster.remove_node(ray_node(cluster, backend, 2), allow_graceful=False)
        assert {event.slot for event in [backend.next_event(WAIT), backend.next_event(WAIT)]} == {1, 2}
        assert backend.next_event(3.0) is None  # No slot is left; and it does not give up waiting.
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        assert sorted(backend.next_event(WAIT).slot for _ in range(2)) == [3, 4]
        assert backend.next_event(3.0) is None
        for slot in (3, 4):
            backend.start(slot, job(slot))
        assert all(isinstance(backend.next_event(WAIT), Measured) for _ in range(2))


def test_a_state_outlives_the_node_it_was_taken_on(cluster):
    """Nothing but the object store's network lies between a worker and the driver."""
    with RayBackend(spec(trainable=PACED), address=cluster.address) as backend:
        backend.start(0, job())
        backend.next_event(WAIT)
        backend.take_state(0)
        taken = backend.next_event(WAIT)
        assert isinstance(taken, StateTaken)
        backend.advance(0, 90)
        straight = backend.next_event(WAIT).measurement
        cluster.remove_node(ray_node(cluster, backend, 0), allow_graceful=False)
        events_until(backend, SlotLost)
        backend.start(1, job(attempt=2, to_step=90, state=taken.state))
        assert backend.next_event(WAIT).measurement == straight


def test_a_worker_that_dies_on_a_node_that_lives_costs_no_slot(cluster):
    with RayBackend(spec(trainable=PROBE), address=cluster.address) as backend:
        backend.start(0, job())
        pid = int(backend.next_event(WAIT).measurement.curve[-1].metrics["pid"])
        os.kill(pid, signal.SIGSTOP)
        backend.advance(0, 90)
        os.kill(pid, signal.SIGKILL)
        event = backend.next_event(WAIT)
        assert isinstance(event, RunFailed)
        assert (event.slot, event.failure.kind) == (0, FailureKind.WORKER_LOST)
        assert f"process {pid}" in event.failure.message
        backend.start(0, job(attempt=2))
        assert backend.next_event(WAIT).attempt == 2


@ray.remote(num_cpus=1)
class Guest:
    """Another program's actor."""

    def here(self):
        return True


def test_a_node_that_another_program_holds_gives_its_slot_when_it_is_free(cluster, monkeypatch):
    monkeypatch.setattr(ray_backend, "START_SECONDS", 1.0)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    held = next(node["NodeID"] for node in ray.nodes() if node["Resources"].get("CPU"))
    guest = Guest.options(scheduling_strategy=NodeAffinitySchedulingStrategy(held, soft=False)).remote()
    assert ray.get(guest.here.remote())
    with RayBackend(spec(), address=cluster.address) as backend:
        (slot,) = (slot for slot, its in backend._slots.items() if its.node == held)
        others = set(range(3)) - {slot}
        deadline = time.monotonic() + WAIT
        while not all(backend._slots[other].up for other in others):
            assert time.monotonic() < deadline
            monkeypatch.setattr(ray_backend, "START_SECONDS", 30.0)
            backend.next_event(0.1)
        monkeypatch.setattr(ray_backend, "START_SECONDS", 1.0)
        backend.start(slot, job())
        lost = backend.next_event(WAIT)
        assert isinstance(lost, SlotLost)
        assert lost.slot == slot
        assert "no worker came up" in lost.failure.message
        for other in others:
            backend.start(other, job(other))
        assert all(isinstance(backend.next_event(WAIT), Measured) for _ in others)
        ray.kill(guest)
        assert backend.next_event(WAIT) == SlotAdded(3)
        backend.start(3, job())
        assert isinstance(backend.next_event(WAIT), Measured)


class NotEverywhere(Settings):
    """Settings that cannot be read on every node."""

    def __reduce__(self):
        return read, ()


def read():
    """What a node does that lacks the module."""
    if "LACKS_IT" in os.environ:
        raise ImportError("there is no such module here")
    return NotEverywhere()


def test_a_node_that_lacks_what_workers_import_gives_no_slot_and_the_log_says_why(cluster, caplog):
    with RayBackend(replace(spec(), settings=NotEverywhere()), address=cluster.address) as backend:
        backend.start(0, job())
        assert isinstance(backend.next_event(WAIT), Measured)
        lacking = cluster.add_node(num_cpus=1, env_vars={"LACKS_IT": "1"})
        deadline = time.monotonic() + WAIT
        while "gives no slot" not in caplog.text:
            assert time.monotonic() < deadline
            assert backend.next_event(0.5) is None
        cluster.remove_node(lacking)
        (told,) = (record.getMessage() for record in caplog.records if "gives no slot" in record.message)
        assert told.startswith(f"node {lacking.node_id} gives no slot: the worker")
        assert told.endswith("ImportError: there is no such module here")


def test_an_actor_that_no_node_takes_any_more_is_a_lost_worker(cluster):
    """As when an idle worker is replaced on a node that Ray has not missed yet: no fault of the trial."""
    with RayBackend(spec(), address=cluster.address):
        gone = NodeAffinitySchedulingStrategy("e" * 56, soft=False)
        actor = ray.remote(Settings).options(scheduling_strategy=gone).remote()
        assert ray_backend._answer(actor.__ray_ready__.remote()).kind is FailureKind.WORKER_LOST
