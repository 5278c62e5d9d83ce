"""Trainables made to misbehave, on real processes: each ends as its kind of failure, and the slot goes on."""

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import ray

from sweeps.backends import Measured, Paused, RunFailed
from sweeps.backends import ray as ray_backend
from sweeps.backends.lost import lost_message
from sweeps.backends.ray import RayBackend
from sweeps.records import FailureKind
from tests.contracts.backend_contract import LONG, PACED, WAIT, job, loss, spec

pytestmark = pytest.mark.ray

PROBE = "tests.support.trainables:Probe"
MIB = 2**20


@pytest.fixture(scope="module")
def own_ray():
    """A Ray of the backend's own, which the module's tests keep up."""
    with RayBackend(spec(), workers=1, local_options={"num_cpus": 2}) as backend:
        yield backend._folder.path


@pytest.fixture
def start(own_ray):
    """Enter backends on that Ray, and leave them at the end."""
    with ExitStack() as stack:
        yield lambda *args, memory=None, **kwargs: stack.enter_context(
            RayBackend(replace(spec(*args, **kwargs), memory=memory), workers=1)
        )


def well(given):
    """The same job, but its run behaves."""
    trajectory = replace(given.trajectory, params={**given.trajectory.params, "kind": "well"})
    return replace(given, trajectory=trajectory)


def pid_of(backend, slot=0):
    """The process of a Probe's worker."""
    backend.start(slot, well(job()))
    event = backend.next_event(WAIT)
    assert isinstance(event, Measured), event
    backend.release(slot)
    return int(event.measurement.curve[-1].metrics["pid"])


@pytest.mark.parametrize(
    ("behaviour", "kind", "message"),
    [
        ("raise", FailureKind.TRIAL_ERROR, "RuntimeError: boom"),
        ("sys_exit", FailureKind.TRIAL_ERROR, "SystemExit: 4"),
        ("exit", FailureKind.WORKER_LOST, "it was killed, or crashed, or left without a word"),
        ("die", FailureKind.WORKER_LOST, "it was killed, or crashed, or left without a word"),
        ("crash", FailureKind.WORKER_LOST, "it was killed, or crashed, or left without a word"),
        ("hoard", FailureKind.HOST_OUT_OF_MEMORY, "but must hold at most 400 MiB (resources.worker_memory)"),
        ("nonsense", FailureKind.TRIAL_ERROR, "advance(10) gave no measurement"),
        ("twice", FailureKind.TRIAL_ERROR, "but must rise strictly to 10"),
        ("wrong_step", FailureKind.TRIAL_ERROR, "measurement.step is 11, but must be 10, as asked"),
    ],
)
def test_it_ends_as_its_kind_of_failure_and_the_next_run_in_the_slot_works(start, behaviour, kind, message):
    backend = start(behaviour, memory=400 * MIB)
    backend.start(0, job(number=1))
    event = backend.next_event(WAIT)
    assert isinstance(event, RunFailed)
    assert (event.slot, event.trajectory, event.attempt) == (0, 1, 1)
    assert event.failure.kind is kind
    assert message in event.failure.message
    assert "\n" not in event.failure.message
    assert event.failure.traceback or kind is FailureKind.HOST_OUT_OF_MEMORY
    assert_works(backend)


def assert_works(backend):
    backend.start(0, well(job(number=2)))
    event = backend.next_event(WAIT)
    assert isinstance(event, Measured), event
    assert event.trajectory == 2
    assert event.measurement.scores[0].eval_loss == pytest.approx(loss(0.1, 10))


def test_a_loss_that_is_no_number_is_a_result(start):
    backend = start("nan")
    backend.start(0, job())
    assert backend.next_event(WAIT).measurement.diverged
    assert_works(backend)


@pytest.mark.parametrize("behaviour", ["hang", "hang_in_c"])
def test_a_worker_that_hangs_can_be_abandoned(start, behaviour):
    backend = start(behaviour, PROBE)
    pid = pid_of(backend)
    backend.start(0, job(number=1))
    deadline = time.monotonic() + WAIT
    while psutil.Process(pid).cpu_percent(0.2) < 30:  # Until it does hang.
        assert time.monotonic() < deadline
    backend.pause(0)  # Which it does not hear.
    assert backend.next_event(0.1) is None
    backend.abandon(0)
    assert_works(backend)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=WAIT)
    assert not psutil.pid_exists(pid)
    assert backend.next_event(0.1) is None


def test_a_worker_out_of_memory_ends_itself_where_nobody_listens_and_is_told_apart_all_the_same(start):
    backend = start("hoard", PROBE, memory=400 * MIB)
    pid = pid_of(backend)
    backend.start(0, job(number=1))
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=WAIT)
    event = backend.next_event(WAIT)
    assert (event.trajectory, event.failure.kind) == (1, FailureKind.HOST_OUT_OF_MEMORY)
    assert_works(backend)


def test_a_worker_that_is_killed_in_a_run_is_lost_with_its_process_named(start, tmp_path):
    backend = start("well", PROBE)
    pid = pid_of(backend)
    stopped = psutil.Process(pid)
    stopped.suspend()
    backend.start(0, job(number=1))
    os.kill(pid, signal.SIGKILL)
    event = backend.next_event(WAIT)
    assert isinstance(event, RunFailed)
    assert event.failure.kind is FailureKind.WORKER_LOST
    assert event.failure.message.startswith(f"the worker (process {pid} on ")
    assert_works(backend)


def test_a_worker_that_is_killed_while_it_waits_fails_no_run(start):
    backend = start("well", PROBE)
    pid = pid_of(backend)
    os.kill(pid, signal.SIGKILL)
    assert ray.wait([backend._slots[0].watch], timeout=WAIT)[0]  # Until Ray knows of it.
    assert pid_of(backend) != pid


def test_megabytes_that_are_printed_go_to_files_of_a_bounded_size(start, own_ray, capfd):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    backend = start("print")
    for number in range(3):
        backend.start(0, job(number))
        assert isinstance(backend.next_event(WAIT), Measured)
        backend.release(0)
    told = capfd.readouterr()
    assert told.out == told.err == ""
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
    sizes = [path.stat().st_size for path in Path(own_ray).rglob("worker-*") if path.is_file()]
    assert sum(sizes) > ray_backend.LOG_BYTES / 2
    assert max(sizes) <= ray_backend.LOG_BYTES + MIB


def test_a_worker_that_has_grown_gives_way_to_a_fresh_one_between_runs(start):
    backend = start("grow", PROBE, memory=400 * MIB)
    backend.start(0, job())
    first = backend.next_event(WAIT).measurement
    backend.advance(0, 20)
    assert isinstance(backend.next_event(WAIT), Measured)  # Not within a run.
    backend.release(0)
    backend.start(0, job(number=1))
    event = backend.next_event(WAIT)
    assert event.trajectory == 1
    assert event.measurement.curve[-1].metrics["pid"] != first.curve[-1].metrics["pid"]
    assert [score.eval_loss for score in event.measurement.scores] == [s.eval_loss for s in first.scores]


def test_a_pause_reaches_the_fresh_worker_as_well(start):
    backend = start("grow", PACED, memory=400 * MIB, gate="/nowhere")
    backend.start(0, job())
    backend.next_event(WAIT)
    backend.release(0)
    backend.start(0, job(number=1, to_step=LONG))
    backend.pause(0)
    assert isinstance(backend.next_event(WAIT), Paused)


def test_a_trainable_that_a_worker_cannot_import_fails_the_first_run_with_the_cause(start):
    backend = start(trainable="no_such_module:Thing")
    backend.start(0, job())
    event = backend.next_event(WAIT)
    assert event.failure.kind is FailureKind.TRIAL_ERROR
    assert "trainable is 'no_such_module:Thing', but must be package.module:name" in event.failure.message


def test_settings_that_a_worker_cannot_import_fail_the_first_run_with_the_cause(start, monkeypatch, tmp_path):
    (tmp_path / "only_here.py").write_text("class Settings:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    given = replace(spec(), settings=only_here.Settings())
    with RayBackend(given, workers=1) as backend:
        backend.start(0, job())
        event = backend.next_event(WAIT)
    assert isinstance(event, RunFailed)
    assert event.failure.message.endswith("No module named 'only_here'")


RESTART = """
import psutil
from sweeps.backends.ray import RayBackend
from tests.contracts.backend_contract import WAIT, job, spec
from tests.faults.test_workers import PROBE, assert_works, well

quick = {"health_check_period_ms": 200, "health_check_failure_threshold": 2, "health_check_initial_delay_ms": 0}
with RayBackend(spec("hang", PROBE), workers=1, local_options={"_system_config": quick}) as backend:
    backend.start(0, well(job()))
    worker = psutil.Process(int(backend.next_event(WAIT).measurement.curve[-1].metrics["pid"]))
    worker.suspend()
    backend.advance(0, 90)
    worker.kill()
    print(backend.next_event(WAIT).failure.kind)
    backend.start(0, job(number=1))
    (raylet,) = (p for p in psutil.Process().children(recursive=True) if p.name() == "raylet")
    raylet.kill()
    event = backend.next_event(WAIT)
    print(event.trajectory, event.failure.kind)
    assert_works(backend)
"""


def test_a_ray_of_our_own_that_dies_is_started_again_and_its_runs_are_lost():
    """In a process of its own, as a process has one Ray. Its stdout holds nothing but its own words."""
    done = subprocess.run([sys.executable, "-c", RESTART], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "worker lost\n1 worker lost\n"


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("", "the worker is gone: no reason was given"),
        ("Something new.\nAnd more.", "the worker is gone: Something new."),
        (
            "The actor died.\n\tpid: 7\n\tip: 10.0.0.5\nThe actor is dead because its node has died. Node Id: ab",
            "the worker (process 7 on 10.0.0.5) is gone with its node",
        ),
        ("It died: Worker exits with an exit code 4.", "the worker ended by itself, with exit status 4"),
        ("The actor is dead because it was killed by `ray.kill`.", "the worker was ended by towersweep"),
        (
            "The actor died because of an error raised in its creation task, \x1b[36mray::W.__init__()\x1b[39m "
            "(pid=7, ip=10.0.0.5, actor_id=a)\n  File x\nModuleNotFoundError: No module named 'sweeps'",
            "the worker (process 7 on 10.0.0.5) could not be started: "
            "ModuleNotFoundError: No module named 'sweeps'",
        ),
    ],
)
def test_a_lost_worker_is_told_in_a_line(told, message):
    assert lost_message(told) == message
