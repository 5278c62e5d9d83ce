"""The run folder: its layout, and what is read and written whole. What each part promises: docs/durability.md.

sweep.toml  study.journal  curves/curves.jsonl  checkpoints/NNNNN.ckpt  NNNNN-RUNG.state  artifacts/
report.json  trials.csv  report.html  driver.log  driver.json  .lock
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sweeps.curve_log import CurveLog, read_entries
from sweeps.durable import read_sealed, sealed, sync_folder, write_atomically
from sweeps.errors import DamagedFileError, RunFolderError, StorageFullError
from sweeps.writer_lock import WriterLock
from sweeps.writer_lock import is_live as is_held

__all__ = ["CurveLog", "RunFolder", "WriterLock", "is_live", "read_checkpoint", "read_entries", "write_atomically"]

logger = logging.getLogger(__name__)

_MARK = "# These settings are checked: after a change by hand, delete this line and the last one."
_CHECK = "# sha256 "
# What the names of each part begin with; see RunFolder.size.
_PARTS = {
    "sweep.toml": "settings",
    "study": "study",
    "curves": "curves",
    "checkpoints": "checkpoints",
    "artifacts": "artifacts",
    "report": "report",
    "trials.csv": "report",
    "driver.log": "log",
}


@dataclass(frozen=True)
class RunFolder:
    """One sweep's folder on disk. Make it with ``create`` or ``open``."""

    path: Path
    topmost_made: Path | None = None
    """The folder that ``create`` had to make, or its outermost parent that it had to make."""

    @classmethod
    def create(cls, path: Path, sweep_toml: str) -> RunFolder:
        """A new run folder holding ``sweep_toml``. Raises RunFolderError if it exists or cannot be written."""
        if path.exists():
            raise RunFolderError(
                f"--out is {str(path)!r}, but must be a new folder (to go on with it: towersweep resume {path})"
            )
        missing = [parent for parent in (path, *path.parents) if not parent.exists()]
        temporary: Path | None = None
        try:
            if missing[1:]:
                path.parent.mkdir(parents=True)
            # Made beside its place and moved there whole: a death on the way leaves nothing under its name.
            temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            made = cls(temporary)
            for name in ("curves", "checkpoints", "artifacts"):
                (made.path / name).mkdir()
            made.write_settings(sweep_toml)
            made.path.chmod(0o755)
            made.path.rename(path)
            for each in missing:
                sync_folder(each.parent)
        except (OSError, StorageFullError) as error:
            for each in filter(None, (temporary, missing[-1])):
                shutil.rmtree(each, ignore_errors=True)
            cause = error.strerror if isinstance(error, OSError) else "there is no room on its disk"
            raise RunFolderError(
                f"--out is {str(path)!r}, but must be a folder that can be written ({cause})"
            ) from error
        return cls(path, missing[-1])

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises RunFolderError if it is not one, or its settings are damaged."""
        folder = cls(path)
        if not folder.settings.is_file():
            raise RunFolderError(f"run folder is {str(path)!r}, but must be a folder that holds a sweep.toml")
        _check_settings(folder.settings)
        return folder

    @property
    def has_begun(self) -> bool:
        """Whether anything was ever put on record. What has begun is never taken back."""
        return self.curves.exists()

    def remove(self) -> None:
        """Take back a folder that was just created, if the sweep never began."""
        if not self.has_begun:
            shutil.rmtree(self.topmost_made or self.path)

    def write_settings(self, sweep_toml: str) -> None:
        """Write the resolved sweep file, with marks by which damage to it is found."""
        body = f"{_MARK}\n{sweep_toml.rstrip()}\n"
        write_atomically(self.settings, f"{body}{_CHECK}{_digest(body.encode())}\n".encode())

    @property
    def settings(self) -> Path:
        """The resolved sweep file."""
        return self.path / "sweep.toml"

    @property
    def journal(self) -> Path:
        """The embedded Optuna storage."""
        return self.path / "study.journal"

    @property
    def curves(self) -> Path:
        """Every measurement, a JSON object a line."""
        return self.path / "curves" / "curves.jsonl"

    @property
    def log(self) -> Path:
        """The driver's log."""
        return self.path / "driver.log"

    def checkpoint(self, trajectory: int) -> Path:
        """Where the state of ``trajectory`` is kept."""
        return self.path / "checkpoints" / f"{trajectory:05d}.ckpt"

    def keep_checkpoint(self, trajectory: int, state: bytes, drop: int | None) -> None:
        """Write a trajectory's state; then remove that of ``drop``, which it pushed out of the best few.

        ``read_checkpoint`` reads it.
        """
        write_atomically(self.checkpoint(trajectory), sealed(state))
        if drop is not None:
            self.checkpoint(drop).unlink(missing_ok=True)

    def save_state(self, trajectory: int, rung: int, state: bytes) -> None:
        """Write the state of a running trajectory, taken at or on the way from ``rung``; older ones go."""
        path = self._state(trajectory, rung)
        write_atomically(path, sealed(state))
        for older in self._states(trajectory):
            if older != path:
                older.unlink(missing_ok=True)

    def saved_state(self, trajectory: int, rung: int) -> bytes:
        """What ``save_state`` wrote. Raises DamagedFileError."""
        return read_sealed(self._state(trajectory, rung))

    def saved_rungs(self, trajectory: int) -> list[int]:
        """The rungs at which whole states of a trajectory are there to go on from, the latest first."""
        return sorted((_rung(path) for path in self._states(trajectory) if _is_whole(path)), reverse=True)

    def drop_state(self, trajectory: int) -> None:
        """A trajectory has ended: what was saved to go on from is no longer wanted."""
        for path in self._states(trajectory):
            path.unlink(missing_ok=True)

    def _state(self, trajectory: int, rung: int) -> Path:
        return self.path / "checkpoints" / f"{trajectory:05d}-{rung}.state"

    def _states(self, trajectory: int) -> list[Path]:
        return list((self.path / "checkpoints").glob(f"{trajectory:05d}-*.state"))

    def lock(self) -> WriterLock:
        """The right to write this folder; a context manager."""
        return WriterLock(self.path)

    def size(self) -> Mapping[str, int]:
        """How many bytes each part holds: settings, study, curves, checkpoints, artifacts, report, log, other.

        A running sweep's files may come and go meanwhile.
        """
        sizes = dict.fromkeys((*_PARTS.values(), "other"), 0)
        for path in self.path.rglob("*"):
            try:
                num_bytes = path.lstat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue
            sizes[_part(path.relative_to(self.path))] += num_bytes
        return sizes


def is_live(folder: RunFolder) -> bool:
    """Whether a driver is at work on the folder at this moment."""
    return is_held(folder.path)


def read_checkpoint(path: Path) -> bytes:
    """The state in a checkpoint that ``RunFolder.keep_checkpoint`` wrote. Raises DamagedFileError."""
    return read_sealed(path)


def _rung(path: Path) -> int:
    return int(path.stem.partition("-")[2])


def _is_whole(path: Path) -> bool:
    try:
        read_sealed(path)
    except DamagedFileError as error:
        logger.warning("%s", error)
        return False
    return True


def _check_settings(path: Path) -> None:
    """Raises DamagedFileError if marked settings are not as they were written. Settings without marks pass."""
    content = path.read_bytes()
    if _MARK.encode().startswith(content.strip(b"\0\n ")):
        raise DamagedFileError(
            f"{path}: holds nothing, but must hold the sweep's settings (restore it from a copy)"
        )
    if not content.startswith(_MARK.encode()):
        return
    body, _, told = content.rstrip(b"\n").rpartition(b"\n")
    if told != (_CHECK + _digest(body + b"\n")).encode():
        raise DamagedFileError(
            f"{path}: is not as it was written: cut short, or changed "
            f"(restore it from a copy; if it was changed by hand, delete its first line and its last)"
        )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _part(path: Path) -> str:
    return next((part for prefix, part in _PARTS.items() if path.parts[0].startswith(prefix)), "other")
