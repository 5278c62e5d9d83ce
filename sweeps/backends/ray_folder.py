"""Where a Ray of our own keeps its files: a folder of a short path, locked for as long as its driver lives."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock, Timeout

# Below the system's temporary folder; Ray's sockets lie deep below it, and their paths must be short.
PREFIX, LOCK_SUFFIX = "ts-", ".lock"


class RayFolder:
    """A new folder, ``path``. Those that killed drivers left are removed first."""

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        # Beside the folder: until the lock is held there is no file by which another driver could find the folder.
        self._lock = FileLock(_lock_of(self.path))
        self._lock.acquire()

    def remove(self) -> None:
        """Once Ray has ended."""
        shutil.rmtree(self.path, ignore_errors=True)
        _lock_of(self.path).unlink(missing_ok=True)
        self._lock.release()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + LOCK_SUFFIX)


def _remove_abandoned() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*{LOCK_SUFFIX}"):
        try:
            with FileLock(path, timeout=0):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        except (Timeout, OSError):  # In use, or another user's.
            continue
