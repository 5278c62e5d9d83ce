"""The run folder: made whole or not at all, append-only curves, one writer."""

import json
import os
import socket
import subprocess
import sys
import tomllib
from contextlib import contextmanager

import pytest

from sweeps.errors import DamagedFileError, RunFolderError, WriterLostError
from sweeps.run_folder import (
    CurveLog,
    RunFolder,
    WriterLock,
    is_live,
    read_checkpoint,
    read_entries,
    write_atomically,
)


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", 'name = "x"\n')


def test_an_existing_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious").write_text("mine")
    with pytest.raises(RunFolderError, match=r"must be a new folder .*towersweep resume"):
        RunFolder.create(tmp_path / "run", "")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="must be a folder that can be written"):
        RunFolder.create(tmp_path / "file" / "run", "")


def test_opening_something_else_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"must be a folder that holds a sweep\.toml"):
        RunFolder.open(tmp_path)


def test_an_atomic_write_that_fails_leaves_the_old_content(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_entries_come_back_as_they_were_appended(folder):
    entries = [{"step": 1, "text": 'a "crc": "no" \u00e9', "inner": {"crc": "x"}}, {"step": 2}]
    with CurveLog(folder.curves) as log:
        for entry in entries:
            log.append(entry)
    assert list(read_entries(folder.curves)) == entries
    assert [json.loads(line)["step"] for line in folder.curves.read_text().splitlines()] == [1, 2]


def test_entries_of_a_version_without_checksums_are_read(folder):
    folder.curves.write_text('{"kind":"session","time":1.5,"finished":true}\n')
    assert list(read_entries(folder.curves)) == [{"kind": "session", "time": 1.5, "finished": True}]


def whole_curves(folder):
    with CurveLog(folder.curves) as log:
        log.append({"step": 1})
        log.append({"step": 22, "loss": 0.125})
    return folder.curves.read_bytes()


def test_a_torn_last_line_is_passed_over_and_cut_off_by_the_next_start(folder):
    whole = whole_curves(folder)
    first = whole.index(b"\n") + 1
    for length in range(len(whole)):
        for tail in (b"", b"\0" * 7, b"\xff\x00"):
            folder.curves.write_bytes(whole[:length] + tail)
            readable = list(read_entries(folder.curves)) if length + len(tail) != first + len(tail) else None
            with CurveLog(folder.curves) as log:  # What a resume does.
                log.append({"step": 3})
            entries = list(read_entries(folder.curves))
            whole_lines = [{"step": 1}] * (length >= first - 1 and (not tail or length >= first))
            whole_lines += [{"step": 22, "loss": 0.125}] * (length == len(whole) - 1 and not tail)
            assert entries == [*whole_lines, {"step": 3}], (length, tail)
            assert readable is None or readable == whole_lines


def changed(whole, line, old, new):
    lines = whole.splitlines(keepends=True)
    assert old in lines[line]
    lines[line] = lines[line].replace(old, new)
    return b"".join(lines)


@pytest.mark.parametrize(
    ("line", "old", "new", "says"),
    [
        (0, b"1", b"3", "line 1 is damaged: its checksum does not fit"),
        (1, b"0.125", b"0.625", "line 2 is damaged: its checksum does not fit"),
        (0, b'{"step"', b"\0\0\0\0\0\0\0", "line 1 is damaged: it is not JSON"),
        (0, b"step", b"st\xffp", "line 1 is damaged: it is not JSON"),
        (0, b"step", b"st\np", "line 1 is damaged: it is not JSON"),
        (1, b'{"step":22,"loss":0.125,', b'{"a":1}, {', "line 2 is damaged: it is not JSON"),
    ],
)
def test_a_damaged_line_is_named_and_what_to_do_helps(folder, line, old, new, says):
    whole = whole_curves(folder)
    damaged = changed(whole, line, old, new)
    folder.curves.write_bytes(damaged)
    with pytest.raises(DamagedFileError) as caught:
        list(read_entries(folder.curves))
    message = str(caught.value)
    assert message.startswith(f"{folder.curves}: {says}")
    assert "\n" not in message
    assert folder.curves.read_bytes() == damaged
    while "sed -i" in message:  # A line break in the middle of a line damages two.
        subprocess.run(message[message.index("sed -i") : -1], shell=True, check=True)
        try:
            entries = list(read_entries(folder.curves))
        except DamagedFileError as error:
            message = str(error)
        else:
            break
    assert entries == [{"step": 22, "loss": 0.125} if line == 0 else {"step": 1}]


@pytest.mark.parametrize("foreign", [b"\x7fELF\n\n", b"[1, 2]\n", b"null\n", b'{"step": 1}\n', b"PK\x03\x04\n"])
def test_a_foreign_file_is_named(folder, foreign):
    folder.curves.write_bytes(foreign)
    with pytest.raises(DamagedFileError, match=r"curves\.jsonl: line 1 is damaged"):
        list(read_entries(folder.curves))


HOLD = (
    "import sys; from pathlib import Path; from sweeps.run_folder import RunFolder\n"
    "with RunFolder.open(Path(sys.argv[1])).lock():\n"
    "    print('held', flush=True); sys.stdin.read()"
)


@contextmanager
def another_driver(folder):
    """A process that holds the folder's lock until it is killed."""
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


def test_a_second_writer_is_refused_and_told_who_the_first_is(folder):
    with another_driver(folder) as other:
        assert is_live(folder)
        who = rf"process {other.pid} on {socket.gethostname()} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
        with pytest.raises(RunFolderError, match=f"must not be in use .by {who}"), folder.lock():
            pass
        other.kill()
        # Dead, but nobody has asked how: it is still among the processes.
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
        assert not is_live(folder)
        with folder.lock() as lock:
            assert lock.epoch == 2
            assert is_live(folder)
    assert not is_live(folder)


def test_a_living_holder_is_refused_even_where_the_lock_file_was_removed(folder):
    with another_driver(folder) as other:
        (folder.path / ".lock").unlink()
        with pytest.raises(RunFolderError, match=f"must not be in use .by process {other.pid} on"), folder.lock():
            pass


def test_every_taking_raises_the_epoch(folder):
    for epoch in (1, 2, 3):
        with folder.lock() as lock:
            assert lock.epoch == epoch


def leave_record(folder, **changes):
    """The record of a holder that never left."""
    with folder.lock() as lock:
        holder = lock.holder
    record = folder.path / "driver.json"
    record.write_text(json.dumps({**holder.as_mapping(), **changes}))
    return record


@pytest.mark.parametrize(
    "changes",
    [{"process": 2**22 + 1}, {"began": "1"}, {"machine": "elsewhere", "host": "b"}],
    ids=["no such process", "a later process of that number", "silent on another machine"],
)
def test_a_left_over_record_of_a_dead_holder_is_taken_over(folder, changes):
    leave_record(folder, **changes)
    assert is_live(folder) == ("machine" in changes)
    waits = []
    with WriterLock(folder.path, wait=waits.append) as lock:
        assert lock.epoch == 2
    assert sum(waits) == (20 if "machine" in changes else 0)


def test_a_holder_on_another_machine_that_shows_life_is_refused(folder):
    record = leave_record(folder, machine="elsewhere", host="b", process=77)
    waits = []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 7:
            os.utime(record)

    with pytest.raises(RunFolderError, match="by process 77 on b since"), WriterLock(folder.path, wait=wait):
        pass
    assert len(waits) == 7
    with (
        pytest.raises(RunFolderError, match="must not be in use"),
        WriterLock(folder.path, wait=wait_and_touch(record)),
    ):
        pass  # The refusal has let go of the system's lock, and the record still stands.


def wait_and_touch(record):
    return lambda seconds: os.utime(record)


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"{", b"[]", b'{"epoch": "one"}', b"\xff"])
def test_a_damaged_record_holds_nobody_up(folder, content):
    (folder.path / "driver.json").write_bytes(content)
    assert not is_live(folder)
    with folder.lock() as lock:
        assert lock.epoch == 1
    with folder.lock() as lock:
        assert lock.epoch == 2


def test_a_driver_that_lost_its_lock_writes_nothing_more(folder):
    with folder.lock() as mine, CurveLog(folder.curves, mine.check) as log:
        log.append({"step": 1})
        (folder.path / ".lock").unlink()  # As on a shared file system whose locks do not reach other hosts.
        leave = folder.path / "driver.json"
        leave.write_text(json.dumps({**mine.holder.as_mapping(), "machine": "elsewhere"}))
        with WriterLock(folder.path, wait=lambda seconds: None) as theirs:
            assert theirs.epoch == 2
            with pytest.raises(WriterLostError, match=r"epoch 2 was taken by process .*; this driver's was 1"):
                log.append({"step": 2})
    assert list(read_entries(folder.curves)) == [{"step": 1}]
    assert json.loads(leave.read_text())["epoch"] == 2


def test_temporary_files_of_a_dead_writer_are_removed(folder):
    left = folder.path / "checkpoints" / ".00003.ckpt.abc.tmp"
    fresh = folder.path / ".report.json.abc.tmp"  # Of a report that is being written, perhaps.
    old = folder.path / ".report.html.abc.tmp"
    for path in (left, fresh, old):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    with folder.lock():
        assert [path.exists() for path in (left, fresh, old)] == [False, True, False]


def test_keeping_a_checkpoint_drops_the_one_it_pushed_out(folder):
    folder.keep_checkpoint(0, b"zero", None)
    folder.keep_checkpoint(7, b"seven", 0)
    assert read_checkpoint(folder.checkpoint(7)) == b"seven"
    assert not folder.checkpoint(0).exists()


def test_every_damage_to_a_checkpoint_is_found(folder):
    folder.keep_checkpoint(0, b"a state\nof several lines\n", None)
    path = folder.checkpoint(0)
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole))]
    damaged += [whole + b"\n", b"\0" * len(whole), b"PK\x03\x04"]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(
            DamagedFileError, match=r"^.*00000\.ckpt: .*to go on without it, remove 00000\.ckpt\)$"
        ):
            read_checkpoint(path)


def test_every_damage_to_the_settings_is_found(tmp_path):
    folder = RunFolder.create(tmp_path / "run", 'name = "x"\n[search]\nseed = 1\n')
    whole = folder.settings.read_bytes()
    assert tomllib.loads(whole.decode()) == {"name": "x", "search": {"seed": 1}}
    RunFolder.open(folder.path)
    for length in range(len(whole) - 1):
        folder.settings.write_bytes(whole[:length])
        with pytest.raises(DamagedFileError, match=r"sweep\.toml: (holds nothing|is not as it was written)"):
            RunFolder.open(folder.path)
    for empty in (b"", b"\n", b"\0" * 512):
        folder.settings.write_bytes(empty)
        with pytest.raises(DamagedFileError, match=r"sweep\.toml: holds nothing"):
            RunFolder.open(folder.path)
    folder.settings.write_bytes(whole.replace(b"seed = 1", b"seed = 7"))
    with pytest.raises(DamagedFileError, match="delete its first line and its last"):
        RunFolder.open(folder.path)
    folder.settings.write_bytes(b"".join(whole.replace(b"seed = 1", b"seed = 7").splitlines(keepends=True)[1:-1]))
    RunFolder.open(folder.path)


def test_the_size_is_told_by_part(folder):
    folder.keep_checkpoint(0, b"x" * 1000, None)
    whole_curves(folder)
    folder.journal.write_bytes(b"y" * 300)
    (folder.path / "study.journal.torn-1").write_bytes(b"y" * 30)
    folder.log.write_bytes(b"z" * 20)
    (folder.path / "driver.log.1").write_bytes(b"z" * 2)
    (folder.path / "report.html").write_bytes(b"r" * 5)
    (folder.path / "trials.csv").write_bytes(b"r" * 6)
    (folder.path / "mine.txt").write_bytes(b"m" * 9)
    size = folder.size()
    assert size["study"] == 330
    assert size["log"] == 22
    assert size["report"] == 11
    assert size["other"] == 9
    assert size["curves"] == folder.curves.stat().st_size
    assert size["settings"] == folder.settings.stat().st_size
    assert size["checkpoints"] == folder.checkpoint(0).stat().st_size > 1000
    assert sum(size.values()) == sum(p.stat().st_size for p in folder.path.rglob("*") if p.is_file())


def test_a_folder_that_has_begun_is_never_taken_back(folder):
    folder.remove()
    assert not folder.path.exists()
    begun = RunFolder.create(folder.path, "")
    whole_curves(begun)
    begun.remove()
    assert begun.curves.exists()
