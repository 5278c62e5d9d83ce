"""The folder of a Ray of our own: what killed drivers left goes, what live ones use stays."""

import signal
import subprocess
import sys
import tempfile

import pytest

from sweeps.backends.ray_folder import RayFolder

HOLD = (
    "from sweeps.backends.ray_folder import RayFolder; held = RayFolder(); print(held.path, flush=True); input()"
)


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def other_driver():
    """A process that holds a folder, and the folder's name."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_what_a_killed_driver_left_is_removed(temporary, other_driver):
    process, left = other_driver
    (temporary / left / "session").mkdir()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (temporary / left).exists()
    ours = RayFolder()
    assert {path.name for path in temporary.iterdir()} == {ours.path.name, f"{ours.path.name}.lock"}
    ours.remove()
    assert list(temporary.iterdir()) == []


def test_what_a_live_driver_uses_stays(temporary, other_driver):
    _, held = other_driver
    RayFolder().remove()
    assert (temporary / held).is_dir()


def test_folders_that_are_not_ours_stay(temporary):
    (temporary / "ts-else").mkdir()
    RayFolder().remove()
    assert [path.name for path in temporary.iterdir()] == ["ts-else"]
