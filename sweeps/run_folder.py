"""The run folder: layout, atomic writes, the append-only curves, and the writer's lock.

sweep.toml  study.journal  curves/curves.jsonl  checkpoints/NNNNN.ckpt, NNNNN-RUNG.state  artifacts/
report.json  trials.csv  report.html  driver.log
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

from sweeps.errors import RunFolderError


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` holds either the old bytes or all of the new, whatever happens."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
        try:
            path.mkdir(parents=True)
            for name in ("curves", "checkpoints", "artifacts"):
                (path / name).mkdir()
            folder = cls(path, missing[-1])
            write_atomically(folder.settings, sweep_toml.encode())
        except OSError as error:
            raise RunFolderError(
                f"--out is {str(path)!r}, but must be a folder that can be written ({error.strerror})"
            ) from error
        return folder

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises RunFolderError if it is not one."""
        if not (path / "sweep.toml").is_file():
            raise RunFolderError(f"run folder is {str(path)!r}, but must be a folder that holds a sweep.toml")
        return cls(path)

    def remove(self) -> None:
        """Take back a folder that was just created: the sweep never began."""
        shutil.rmtree(self.topmost_made or self.path)

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
        """Write a trajectory's state; then remove that of ``drop``, which it pushed out of the best few."""
        write_atomically(self.checkpoint(trajectory), state)
        if drop is not None:
            self.checkpoint(drop).unlink(missing_ok=True)

    def save_state(self, trajectory: int, rung: int, state: bytes) -> None:
        """Write the state of a running trajectory, taken at or on the way from ``rung``; older ones go."""
        path = self._state(trajectory, rung)
        write_atomically(path, state)
        for older in self._states(trajectory):
            if older != path:
                older.unlink(missing_ok=True)

    def saved_state(self, trajectory: int, rung: int) -> bytes:
        """What ``save_state`` wrote."""
        return self._state(trajectory, rung).read_bytes()

    def saved_rungs(self, trajectory: int) -> list[int]:
        """The rungs at which states of a trajectory are there to go on from, the latest first."""
        return sorted((int(path.stem.partition("-")[2]) for path in self._states(trajectory)), reverse=True)

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


class WriterLock:
    """One driver per run folder: held while a sweep runs, released by the system if the driver dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._holder = folder / "driver.pid"
        self._lock = FileLock(folder / ".lock")

    def __enter__(self) -> WriterLock:
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            holder = self._holder.read_text().strip() if self._holder.exists() else "another process"
            raise RunFolderError(
                f"run folder is {str(self._folder)!r}, but must not be in use (by {holder})"
            ) from error
        self._holder.write_text(f"process {os.getpid()}\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._holder.unlink(missing_ok=True)
        self._lock.release()


def is_live(folder: RunFolder) -> bool:
    """Whether a driver holds the folder's lock at this moment."""
    lock = FileLock(folder.path / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


class CurveLog:
    """Appends to ``curves.jsonl``; durable entries are on the disk when ``append`` returns. A context manager."""

    def __init__(self, path: Path) -> None:
        _end_last_line(path)
        self._stream: IO[str] = path.open("a", encoding="utf-8")
        self._dirty = False

    def append(self, *entries: Mapping[str, Any], durable: bool = True) -> None:
        """Append entries. Those that are not to be ``durable`` by themselves are so with the next that are; until
        then they outlive this process, but not a loss of power.
        """
        if not entries:
            return
        self._stream.write("".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries))
        self._stream.flush()
        self._dirty = not durable
        if durable:
            os.fsync(self._stream.fileno())

    def sync(self) -> None:
        """Make all entries durable."""
        if self._dirty:
            os.fsync(self._stream.fileno())
            self._dirty = False

    def __enter__(self) -> CurveLog:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """All whole entries. A line cut short by a crash was never acted on, and is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                if line.endswith("\n") and not _is_torn(line):
                    raise RunFolderError(f"{path}: line {number} is damaged, but must be JSON") from error


def _is_torn(line: str) -> bool:
    """A torn write that a later start closed with a newline: an object that never ended."""
    return not line.rstrip().endswith("}")


def _end_last_line(path: Path) -> None:
    """After a crash the last line may lack its end; close it, so that the next entry starts a line."""
    if not path.exists() or path.stat().st_size == 0:
        return
    with path.open("rb+") as stream:
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.write(b"\n")
