"""A sweep on a real PostgreSQL that is stopped and started again, loses answers, and is shared."""

import gc
import json
import logging
import os
import shutil
import signal
import socket
import time
import warnings
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

import optuna
import pytest

from search_spaces import Categorical, Float, Space
from sweeps.errors import StorageError, StorageLostError, WriterLostError
from sweeps.lease import KEY
from sweeps.records import CurvePoint, Measurement, Outcome, Score, TrialState
from sweeps.storage import open_storage
from sweeps.study import SamplerSettings, Study, quiet
from sweeps.writer_lock import Holder
from tests.faults.sweeping import SWEEP, assert_sound, begin, essence, measured, run, until
from tests.support.postgres import Server, Wire

SPACE = Space.of(
    [Float("rate", 0.1, 1.0), Categorical("d", (0.0, 0.9, 0.99))], {"rate": "trajectory", "d": "readout"}
)
SETTINGS = SamplerSettings("random", readouts_per_trajectory=2)


# Optuna's constructor, where it fails, leaves its connections to the collector of garbage.
pytestmark = pytest.mark.filterwarnings("ignore:<psycopg.Connection object:ResourceWarning")


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@contextmanager
def optunas(url):
    """Optuna's own storage, for a while."""
    storage = optuna.storages.RDBStorage(url)
    yield storage
    storage.engine.dispose()


@pytest.fixture
def clean(server):
    """The server without any study."""
    quiet()
    yield server
    server.start()
    with optunas(server.url()) as storage:
        for study in storage.get_all_studies():
            storage.delete_study(study._study_id)


@pytest.fixture
def sweep_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(SWEEP)
    return path


def trials(url, name="faulty"):
    with optunas(url) as storage:
        return optuna.load_study(study_name=name, storage=storage).trials


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The same sweep with the embedded storage and without any fault."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "my.toml").write_text(SWEEP)
    args = ("launch", folder / "my.toml", "--out", folder / "run", "--backend", "inline", "--set", "run.pace=0")
    done = run(*args)
    assert done.returncode == 0, done.stderr
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "run" / "study.journal"))
    study = optuna.load_study(study_name="faulty", storage=optuna.storages.JournalStorage(backend))
    return essence(study.trials)


def away(server, seconds):
    """Stopped, for so long as another program needs to notice it."""
    server.stop()
    time.sleep(seconds)
    server.start()


@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_server_that_is_stopped_for_a_while_costs_nothing(clean, sweep_file, tmp_path, undisturbed, seconds):
    url, out = clean.url(), tmp_path / "run"
    with begin("launch", sweep_file, "--out", out, "--set", f"storage.url={url}") as sweep:
        until(measured(out, 9), "measurements")
        away(clean, seconds)
        _, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, errors
    assert_sound(out, trials(url))
    assert essence(trials(url)) == undisturbed
    log = (out / "driver.log").read_text()
    assert log.count("went away") == log.count("is back after") == 1


@pytest.mark.parametrize("stops", [pytest.param(12, marks=pytest.mark.soak)])
def test_a_server_that_is_stopped_again_and_again_costs_nothing(clean, sweep_file, tmp_path, undisturbed, stops):
    url, out = clean.url(), tmp_path / "run"
    with begin("launch", sweep_file, "--out", out, "--set", f"storage.url={url}") as sweep:
        for stop in range(stops):
            until(lambda goal=2 * stop + 3: measured(out, goal)() or sweep.poll() is not None, "measurements")
            away(clean, 0.3)
        _, errors = sweep.communicate(timeout=200)
    assert sweep.returncode == 0, errors
    assert_sound(out, trials(url))
    assert essence(trials(url)) == undisturbed


def test_past_its_patience_a_sweep_ends_in_one_line_and_can_be_resumed(clean, sweep_file, tmp_path, undisturbed):
    url, out = clean.url(), tmp_path / "run"
    settings = ("--set", f"storage.url={url}", "--set", "storage.patience=1s")
    with begin("launch", sweep_file, "--out", out, "--quiet", *settings) as sweep:
        until(measured(out, 9), "measurements")
        clean.stop()
        _, errors = sweep.communicate(timeout=100)
    assert sweep.returncode == 1
    assert errors.startswith("error: storage postgresql+psycopg://postgres@/postgres?host=")
    assert "went away, and was not back in storage.patience=1 s" in errors
    assert "go on with towersweep resume" in errors
    assert errors.count("\n") == 1
    refused = run("resume", out, "--backend", "inline")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: storage.url is 'postgresql+psycopg://")
    clean.start()
    done = run("resume", out, "--backend", "inline")
    assert done.returncode == 0, done.stderr
    assert_sound(out, trials(url))
    assert essence(trials(url)) == undisturbed


def test_ctrl_c_ends_the_waiting(clean, sweep_file, tmp_path):
    url, out = clean.url(), tmp_path / "run"
    with begin("launch", sweep_file, "--out", out, "--quiet", "--set", f"storage.url={url}") as sweep:
        until(measured(out, 9), "measurements")
        clean.stop()
        until(lambda: "went away" in (out / "driver.log").read_text(), "the loss to be noticed")
        sweep.send_signal(signal.SIGINT)
        _, errors = sweep.communicate(timeout=30)
    assert sweep.returncode == 130, errors
    clean.start()
    assert run("resume", out, "--backend", "inline").returncode == 0
    assert_sound(out, trials(url))


def measurement(step, losses):
    scores = tuple(Score(loss, 0.5) for loss in losses)
    return Measurement(step, (CurvePoint(step, 1.0, scores[0]),), scores, 1.0)


def tell_a_story(url, path):
    """Two trajectories asked for, measured and ended: every kind of writing."""
    study = Study.create(open_storage(url, path, patience=60.0), "told", SPACE, SETTINGS)
    with study.held_by(Holder.here(1)):
        for number, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED)):
            trajectory = study.ask(number)
            for step in (10, 30):
                study.report(trajectory, measurement(step, [1.0 / step, 2.0 / step]))
            last = measurement(30, [0.25, 0.5])
            study.tell(trajectory, Outcome(state, "so it was"), last, {"verdict": "improving", "attempts": 1})
        study.flush()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.soak)])
def test_an_answer_that_is_lost_doubles_nothing(clean, tmp_path, caplog, after, every):
    """The connection is cut at each COMMIT in turn: before it is sent, or after it was carried out."""
    wire = Wire(clean, 0, after=after)
    tell_a_story(clean.url(sockets=wire.folder), tmp_path / "unused")
    wire.close()
    told, first = essence(trials(clean.url(), "told")), None
    assert [row[0] for row in told] == [0, 1, 2, 3]
    assert [row[1] for row in told] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
    commits = wire.commits
    assert commits > 20
    doubles = 0
    # Making the tables and the study comes first: it is refused, in one line, when it fails.
    for cut_at in range(1, commits + 1, every):
        with optunas(clean.url()) as storage:
            optuna.delete_study(study_name="told", storage=storage)
        wire = Wire(clean, cut_at, after=after)
        caplog.clear()
        try:
            tell_a_story(clean.url(sockets=wire.folder), tmp_path / "unused")
        except (StorageError, StorageLostError):
            assert first is None, "only the making of the study may be refused"
            with optunas(clean.url()) as storage:
                if not any(study.study_name == "told" for study in storage.get_all_studies()):
                    optuna.create_study(storage=storage, study_name="told")
            continue
        finally:
            wire.close()
        first = first or cut_at
        doubles += "went away" in caplog.text
        assert essence(trials(clean.url(), "told")) == told, f"cut at COMMIT {cut_at}"
    assert doubles > 20 // every


def test_a_copy_of_the_run_folder_cannot_write_the_same_study(clean, sweep_file, tmp_path):
    url, out = clean.url(), tmp_path / "run"
    with begin("launch", sweep_file, "--out", out, "--quiet", "--set", f"storage.url={url}") as sweep:
        until(measured(out, 3), "measurements")
        shutil.copytree(out, tmp_path / "copy", ignore=shutil.ignore_patterns(".lock", "driver.json"))
        refused = run("resume", tmp_path / "copy", "--backend", "inline")
        assert refused.returncode == 2
        place = f"postgresql+psycopg://postgres@/postgres?host={quote(str(clean.sockets), safe='')}"
        who = f"(by process {sweep.pid} on {socket.gethostname()} since 20"
        assert refused.stderr.startswith(f"error: the study in {place} must not be in use {who}")
        os.kill(sweep.pid, signal.SIGKILL)
        sweep.communicate()
    done = run("resume", tmp_path / "copy", "--backend", "inline")
    assert done.returncode == 0, done.stderr
    # The copy's curves lack what came later; the study holds all of it.
    found = trials(url)
    assert [trial.number for trial in found] == list(range(32))
    assert {trial.state.name for trial in found} <= {"COMPLETE", "PRUNED"}


def test_a_holder_elsewhere_is_refused_while_it_shows_life_and_told_when_it_lost(clean, tmp_path):
    study = Study.create(open_storage(clean.url(), tmp_path / "x", 60.0), "told", SPACE, SETTINGS)
    other = Study.load(open_storage(clean.url(), tmp_path / "x", 60.0), "told", SPACE, SETTINGS)
    here = Holder.here(1)
    there = Holder(1, "b", 77, "elsewhere", "5", "2026-01-01 00:00:00 UTC", "t0k3n")
    with study.held_by(here):
        study.ask(0)
        study_id, storage = other._study._study_id, other._storage
        storage.set_study_user_attr(study_id, KEY, {**there.as_mapping(), "beats": 0})
        with pytest.raises(WriterLostError, match=r"epoch 1 was taken by process 77 on b"):
            study.ask(1)
    assert len(other.stored_trials()) == 2
    beats = iter(range(1, 100))

    def alive(seconds):
        storage.set_study_user_attr(study_id, KEY, {**there.as_mapping(), "beats": next(beats)})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeps.lease.Lease.__init__.__defaults__", (alive,))
        with pytest.raises(StorageError, match=r"must not be in use .by process 77 on b"), other.held_by(here):
            pass
        patch.setattr("sweeps.lease.Lease.__init__.__defaults__", (lambda seconds: None,))
        with other.held_by(here):
            mine = storage.get_study_user_attrs(study_id)[KEY]
            assert (mine["epoch"], mine["token"], mine["held"]) == (2, here.token, True)
    assert storage.get_study_user_attrs(study_id)[KEY]["held"] is False


def test_errors_that_do_not_pass_are_not_waited_for(clean, tmp_path):
    storage = open_storage(clean.url(), tmp_path / "x", 600.0)
    waits = []
    storage.wait = waits.append
    study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "told")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        storage.set_study_user_attr(study_id, "k" * 600, 1)  # Longer than the column.
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "told")
    with pytest.raises(KeyError):
        storage.get_study_id_from_name("unknown")
    assert waits == []


def test_the_waits_grow_and_end(clean, tmp_path, caplog):
    """Time is the test's own."""
    now, waits = [0.0], []

    def wait(seconds):
        waits.append(round(seconds, 6))
        now[0] += seconds

    storage = open_storage(clean.url("s3cret"), tmp_path / "x", 60.0)
    storage.wait, storage._clock = wait, lambda: now[0]
    study_id = storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "told")
    clean.stop()
    with caplog.at_level(logging.WARNING), pytest.raises(StorageLostError, match=r"storage\.patience=60 s"):
        storage.get_all_trials(study_id)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10, 10, 10]
    assert caplog.text.count("went away") == 1
    assert "s3cret" not in caplog.text
    clean.start()
    assert storage.get_all_trials(study_id) == []
    assert caplog.text.count("is back after") == 1


SECRET = "s3c/r@t %x"


def everything_written(folder):
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def assert_no_secret(folder, *outputs):
    texts = [everything_written(folder), *(text.encode() for text in outputs)]
    for shape in (SECRET, quote(SECRET, safe=""), quote(SECRET), quote_plus(SECRET), json.dumps(SECRET)[1:-1]):
        assert not any(shape.encode() in text for text in texts), shape


def test_the_password_is_nowhere(sweep_file, tmp_path):
    """Runs that succeed, cannot connect, get a wrong password, and lose the connection half-way."""
    server = Server()
    try:
        server.require(SECRET)
        in_url, in_environment = server.url(SECRET), {"TOWERSWEEP_STORAGE_PASSWORD": SECRET}
        said = []

        def told(done, status):
            assert done.returncode == status, done.stderr
            said.extend([done.stdout, done.stderr])

        quick = ("--backend", "inline", "--set", "run.pace=0")
        url = f"storage.url={in_url}"
        told(run("launch", sweep_file, "--out", tmp_path / "a", "--set", url, *quick), 0)
        told(run("status", tmp_path / "a"), 2)  # The folder holds no password, and none is in the environment.
        for name in ("status", "report"):
            told(run(name, tmp_path / "a", **in_environment), 0)
        told(run("status", tmp_path / "a", "--json", **in_environment), 0)
        told(run("launch", sweep_file, "--out", tmp_path / "b", "--set", f"{url}x", *quick), 2)
        told(
            run("launch", sweep_file, "--out", tmp_path / "b", "--set", url, "--set", "storage.urll=1", *quick), 2
        )
        told(run("launch", sweep_file, "--out", tmp_path / "b", "--set", f"storage.urll={in_url}", *quick), 2)
        wrong = {"TOWERSWEEP_STORAGE_PASSWORD": f"{SECRET}no"}
        told(run("status", tmp_path / "a", **wrong), 2)
        other = ("--set", f"storage.url={server.url()}", "--set", "name=other", "--set", "storage.patience=1")
        with begin("launch", sweep_file, "--out", tmp_path / "c", *other, **in_environment) as sweep:
            until(measured(tmp_path / "c", 5), "measurements")
            server.stop()
            said += sweep.communicate(timeout=100)
        assert sweep.returncode == 1
        told(run("resume", tmp_path / "c", "--backend", "inline", **in_environment), 2)
        sweep_file.unlink()
        assert_no_secret(tmp_path, *said)
        assert "postgres:***@" in "".join(said)
    finally:
        server.close()
