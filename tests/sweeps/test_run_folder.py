"""The run folder: made whole or not at all, append-only curves, one writer."""

import json
import subprocess
import sys

import pytest

from sweeps.errors import RunFolderError
from sweeps.run_folder import CurveLog, RunFolder, is_live, read_entries, write_atomically


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
    with CurveLog(folder.curves) as log:
        log.append({"step": 1})
        log.append({"step": 2})
    assert list(read_entries(folder.curves)) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_torn_last_line_is_passed_over_and_later_entries_stay_whole(folder, cut):
    with CurveLog(folder.curves) as log:
        log.append({"step": 1})
        log.append({"step": 22})
    whole = folder.curves.read_bytes()
    folder.curves.write_bytes(whole[:-cut])
    with CurveLog(folder.curves) as log:  # What a resume does.
        log.append({"step": 3})
    entries = list(read_entries(folder.curves))
    assert entries[0] == {"step": 1}
    assert entries[-1] == {"step": 3}
    assert all(entry in ({"step": 1}, {"step": 22}, {"step": 3}) for entry in entries)


def test_a_damaged_line_is_named(folder):
    folder.curves.write_text('{"step": 1}\n{"step": oops}\n' + json.dumps({"step": 3}) + "\n")
    with pytest.raises(RunFolderError, match="line 2 is damaged"):
        list(read_entries(folder.curves))


def test_a_second_writer_is_refused_while_the_first_lives(folder):
    code = (
        "import sys; from pathlib import Path; from sweeps.run_folder import RunFolder\n"
        "with RunFolder.open(Path(sys.argv[1])).lock():\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert is_live(folder)
        with pytest.raises(RunFolderError, match=f"must not be in use .by process {other.pid}"), folder.lock():
            pass
        other.kill()
        other.wait()
        with folder.lock():
            assert is_live(folder)
    assert not is_live(folder)


def test_keeping_a_checkpoint_drops_the_one_it_pushed_out(folder):
    folder.keep_checkpoint(0, b"zero", None)
    folder.keep_checkpoint(7, b"seven", 0)
    assert folder.checkpoint(7).read_bytes() == b"seven"
    assert not folder.checkpoint(0).exists()
