"""A disk that fills up in the middle of a sweep: one clear line, and the sweep goes on when there is room.

The disk is a tmpfs of a few megabytes, where this user may mount one; a limit on the size of files is the quota.
"""

import os
import resource
import subprocess
from contextlib import suppress

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeps.curve_log import CurveLog, read_entries
from sweeps.durable import write_atomically
from sweeps.embedded import EmbeddedStorage
from sweeps.errors import StorageFullError
from tests.faults.sweeping import SWEEP, assert_sound, begin, command, environment, essence, measured, run, until


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(autouse=True)
def empty(request):
    """Nothing is left on the disk by the test before."""
    yield
    if "disk" in request.fixturenames:
        disk = request.getfixturevalue("disk")
        subprocess.run(["find", disk, "-mindepth", "1", "-delete"], check=True)


def trials(out):
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return optuna.load_study(study_name="faulty", storage=storage).trials


def fill(disk):
    """Take all the room there is, to the last byte."""
    with (disk / "filler").open("ab", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(b"x" * 4096)
    assert os.statvfs(disk).f_bavail == 0


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "my.toml").write_text(SWEEP)
    done = run("launch", folder / "my.toml", "--out", folder / "run", "--backend", "inline")
    assert done.returncode == 0, done.stderr
    return essence(trials(folder / "run"))


def names_a_file(errors, out):
    assert errors.count("\n") == 1, errors
    assert errors.startswith(f"error: {out}/"), errors
    assert "cannot be written: No space left on device" in errors
    assert "make room, then go on with towersweep resume" in errors


@pytest.mark.parametrize("at", [1, 8, 21])
def test_a_sweep_whose_disk_fills_up_ends_in_one_line_and_goes_on_when_there_is_room(
    disk, tmp_path, undisturbed, at
):
    (tmp_path / "my.toml").write_text(SWEEP)
    out = disk / "run"
    with begin("launch", tmp_path / "my.toml", "--out", out, "--quiet") as sweep:
        until(measured(out, at), "measurements")
        fill(disk)
        _, errors = sweep.communicate(timeout=100)
    assert sweep.returncode == 1
    names_a_file(errors, out)
    assert run("status", out).returncode == 0
    # Still no room: the same again, and still nothing is lost.
    again = run("resume", out, "--backend", "inline", "--quiet")
    assert again.returncode in (1, 2), again.stderr
    assert again.stderr.count("\n") == 1
    (disk / "filler").unlink()
    done = run("resume", out, "--backend", "inline")
    assert done.returncode == 0, done.stderr
    assert_sound(out, trials(out))
    assert essence(trials(out)) == undisturbed


def test_a_checkpoint_that_does_not_fit_ends_the_sweep_and_leaves_the_others(disk, tmp_path):
    """Each state is 4 MB of 16; three are kept, and a fourth is written before one of them goes."""
    (tmp_path / "my.toml").write_text(SWEEP)
    out = disk / "run"
    padded = ("--set", "run.padding=4300000", "--set", "run.pace=0", "--set", "search.pruner=none")
    done = run("launch", tmp_path / "my.toml", "--out", out, "--quiet", "--backend", "inline", *padded)
    assert done.returncode == 1
    names_a_file(done.stderr, out)
    assert ".ckpt cannot be written" in done.stderr
    assert len(list((out / "checkpoints").iterdir())) == 3
    refused = run("launch", tmp_path / "my.toml", "--out", disk / "other", "--backend", "inline", *padded)
    assert refused.returncode in (1, 2)
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    try:
        done = run("resume", out, "--backend", "inline")
        assert done.returncode == 0, done.stderr
        assert_sound(out, trials(out))
    finally:
        subprocess.run(["find", disk, "-mindepth", "1", "-delete"], check=True)
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)


def test_a_launch_on_a_full_disk_leaves_nothing(disk, tmp_path):
    (tmp_path / "my.toml").write_text(SWEEP)
    fill(disk)
    done = run("launch", tmp_path / "my.toml", "--out", disk / "deep" / "run", "--backend", "inline")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --out is '{disk}/deep/run', but must be a folder that can be written (")
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_quota_does_the_same(tmp_path, undisturbed):
    """No file may grow past a limit: the curves reach it first."""
    (tmp_path / "my.toml").write_text(SWEEP)
    out = tmp_path / "run"

    def limit():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, 24_000))

    args = command("launch", tmp_path / "my.toml", "--out", out, "--backend", "inline", "--quiet")
    done = subprocess.run(
        args, env=environment(), capture_output=True, text=True, check=False, preexec_fn=limit, timeout=100
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {out}/")
    assert "cannot be written: File too large" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run("resume", out, "--backend", "inline")
    assert done.returncode == 0, done.stderr
    assert_sound(out, trials(out))
    assert essence(trials(out)) == undisturbed


def test_an_append_leaves_all_of_it_or_nothing(disk):
    with CurveLog(disk / "curves.jsonl") as log:
        log.append({"kind": "first"})
        fill(disk)
        before = (disk / "curves.jsonl").read_bytes()
        for _ in range(3):
            with pytest.raises(StorageFullError, match=r"curves\.jsonl cannot be written"):
                log.append({"kind": "second", "padding": "x" * 10_000})
        assert (disk / "curves.jsonl").read_bytes() == before
        (disk / "filler").unlink()
        log.append({"kind": "third"})
    assert [entry["kind"] for entry in read_entries(disk / "curves.jsonl")] == ["first", "third"]


def test_what_waits_for_room_in_the_study_goes_on_waiting(disk):
    storage = EmbeddedStorage(disk / "study.journal")
    study = optuna.create_study(storage=storage, study_name="s")
    trial = study.ask()
    fill(disk)
    before = (disk / "study.journal").read_bytes()
    with storage.journal.holding():
        storage.set_trial_user_attr(trial._trial_id, "note", "x" * 10_000)
    for _ in range(3):
        with pytest.raises(StorageFullError, match=r"study\.journal cannot be written"):
            storage.journal.flush()
    assert (disk / "study.journal").read_bytes() == before
    (disk / "filler").unlink()
    storage.journal.flush()
    stock = JournalStorage(JournalFileBackend(str(disk / "study.journal")))
    assert len(optuna.load_study(study_name="s", storage=stock).trials[0].user_attrs["note"]) == 10_000


def test_an_atomic_write_without_room_leaves_the_old_content(disk):
    path = disk / "report.json"
    write_atomically(path, b"old")
    fill(disk)
    with pytest.raises(StorageFullError, match=r"report\.json cannot be written: No space left on device"):
        write_atomically(path, b"new" * 10_000)
    assert path.read_bytes() == b"old"
    assert sorted(entry.name for entry in disk.iterdir()) == ["filler", "report.json"]
