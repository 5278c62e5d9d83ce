"""The Ray backend on a real Ray: the shared contract, lost workers, and who sees which GPU."""

import os
import tempfile
from contextlib import ExitStack, suppress

import psutil
import pytest
import ray

from sweeps.backends import Measured, RunFailed
from sweeps.backends.ray import RayBackend
from sweeps.errors import ResourceError
from sweeps.records import FailureKind
from tests.contracts.backend_contract import WAIT, BackendContract, job, spec

pytestmark = pytest.mark.ray

PROBE = "tests.support.trainables:Probe"


@pytest.fixture(scope="module")
def fake_gpus():
    """One local Ray for the module: 16 CPUs and 8 GPUs by name only."""
    with tempfile.TemporaryDirectory(prefix="ts-") as temporary:
        ray.init(
            address="local",
            num_cpus=16,
            num_gpus=8,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=temporary,
        )
        yield
        ray.shutdown()


@pytest.fixture
def backends(fake_gpus):
    """Enter backends, and leave them all at the end."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(RayBackend(*args, **kwargs))


class TestRay(BackendContract):
    @pytest.fixture
    def make(self, backends):
        return lambda *args, **kwargs: backends(spec(*args, **kwargs), workers=1)


def metrics_of(backend, slots):
    """Run one trajectory in each slot at the same time; each one's metrics."""
    for slot in slots:
        backend.start(slot, job(slot))
    events = [backend.next_event(WAIT) for _ in slots]
    others = [event for event in events if not isinstance(event, Measured)]
    assert others == [], "\n".join(map(repr, others))
    return [event.measurement.curve[-1].metrics for event in events]


def gpus(metrics):
    return {int(name[4:]) for name in metrics if name.startswith("gpu_")}


def test_two_tower_trials_get_disjoint_pairs_of_gpus_four_at_a_time(backends):
    backend = backends(spec(trainable=PROBE, cpus=2, gpus=2, towers=2))
    assert backend.num_slots == 4
    pairs = [gpus(metrics) for metrics in metrics_of(backend, range(4))]
    assert [len(pair) for pair in pairs] == [2, 2, 2, 2]
    assert set.union(*pairs) == set(range(8))


def test_half_gpu_trials_share_one_two_by_two(backends):
    backend = backends(spec(trainable=PROBE, gpus=0.5))
    assert backend.num_slots == 16
    seen = [gpus(metrics) for metrics in metrics_of(backend, range(16))]
    assert all(len(one) == 1 for one in seen)
    assert sorted(next(iter(one)) for one in seen) == sorted([*range(8), *range(8)])


def test_a_trial_with_no_gpu_sees_none(backends):
    backend = backends(spec(trainable=PROBE, threads=3), workers=1)
    (metrics,) = metrics_of(backend, [0])
    assert metrics["masked"] == 1.0
    assert gpus(metrics) == set()
    assert metrics["threads"] == 3


@pytest.mark.parametrize(
    ("asked", "workers", "shortage"),
    [
        ({"cpus": 2, "gpus": 16, "towers": 2}, "auto", "8 GPUs short"),
        ({"cpus": 32}, "auto", "16 CPUs short"),
        ({"cpus": 2, "gpus": 2, "towers": 2}, 5, "workers is 5, but must be at most 4"),
    ],
)
def test_what_the_cluster_can_never_give_is_refused_before_anything_starts(fake_gpus, asked, workers, shortage):
    before = actor_pids()
    with pytest.raises(ResourceError, match=shortage):
        RayBackend(spec(**asked), workers=workers)
    assert actor_pids() <= before


def actor_pids():
    """The actors that run below this process; Ray names a worker's process after its actor."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # A worker of an earlier test may be on its way out.
            if "_Worker" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def test_a_worker_that_dies_is_reported_lost_and_its_slot_works_again(backends):
    backend = backends(spec("exit", trainable=PROBE), workers=1)
    for attempt in (1, 2):
        backend.start(0, job(attempt=attempt))
        event = backend.next_event(WAIT)
        assert isinstance(event, RunFailed)
        assert event.failure.kind is FailureKind.WORKER_LOST


def test_a_worker_stays_warm_from_trajectory_to_trajectory(backends):
    backend = backends(spec(trainable=PROBE), workers=1)
    first = metrics_of(backend, [0])[0]["pid"]
    backend.release(0)
    assert metrics_of(backend, [0])[0]["pid"] == first


def test_leaving_ends_the_workers(fake_gpus):
    with RayBackend(spec(trainable=PROBE), workers=2) as backend:
        pids = [int(metrics["pid"]) for metrics in metrics_of(backend, [0, 1])]
        processes = [psutil.Process(pid) for pid in pids]
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []
    assert ray.is_initialized()  # It was there before, so it stays.


def test_the_drivers_own_environment_is_left_alone(backends):
    before = dict(os.environ)
    metrics_of(backends(spec(trainable=PROBE), workers=1), [0])
    assert {k: v for k, v in os.environ.items() if k.startswith("CUDA") or "THREADS" in k} == {
        k: v for k, v in before.items() if k.startswith("CUDA") or "THREADS" in k
    }
