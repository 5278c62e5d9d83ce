"""The right to write: one driver per run folder, known by an epoch that rises with every taking.

The system's file lock decides where it can. It cannot where a shared file system keeps locks to each host, or
where somebody removed the lock file; then the holder's record does, ``driver.json``. A holder of this machine is
looked up among its processes; one of another machine is watched, as it keeps touching its record while it lives.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from sweeps.durable import TEMPORARY, write_atomically
from sweeps.errors import RunFolderError, WriterLostError

logger = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
# A holder elsewhere that was silent for this long is dead.
SILENCE_SECONDS = 20.0
# For as long, another program may hold the lock to see whether it is free.
PATIENCE_SECONDS = 0.5


@dataclass(frozen=True)
class Holder:
    """Who writes, or last wrote. ``epoch`` rises with every taking; ``token`` is a taking's own.

    ``machine`` tells hosts, their boots and their process namespaces apart; ``began`` tells a process from a later
    one of the same number; ``held`` is false once the holder has left of its own accord.
    """

    epoch: int
    host: str
    process: int
    machine: str
    began: str
    since: str
    token: str
    held: bool = True

    @classmethod
    def here(cls, epoch: int) -> Holder:
        """This process."""
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        process = os.getpid()
        return cls(epoch, socket.gethostname(), process, _machine(), _began(process), since, uuid.uuid4().hex)

    @classmethod
    def from_mapping(cls, mapping: object) -> Holder | None:
        """The holder that ``as_mapping`` told, or None if it did not."""
        if not isinstance(mapping, Mapping):
            return None
        told: dict[str, Any] = {field.name: mapping.get(field.name) for field in fields(cls)}
        kinds = {"epoch": int, "process": int, "held": bool}
        if any(not isinstance(value, kinds.get(name, str)) for name, value in told.items()):
            return None
        return cls(**told)

    def as_mapping(self) -> dict[str, Any]:
        """As JSON would hold it."""
        return asdict(self)

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine, so that ``lives`` can tell."""
        return self.machine == _machine()

    @property
    def lives(self) -> bool:
        """Whether its process is there. Of no other machine's."""
        return self.is_here and _began(self.process) == self.began != ""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host} since {self.since}"


class WriterLock:
    """Held while a sweep runs; a context manager. ``epoch`` and ``holder`` are there once it is held.

    ``wait`` is called with seconds. Raises RunFolderError, naming the holder, if another driver holds it.
    """

    def __init__(self, folder: Path, wait: Callable[[float], None] = time.sleep) -> None:
        self._folder = folder
        self._record = folder / "driver.json"
        self._lock = FileLock(folder / ".lock")
        self._wait = wait
        self._holder: Holder | None = None
        self._beat = Heartbeat(lambda: os.utime(self._record))

    @property
    def holder(self) -> Holder:
        """This driver's own record."""
        if self._holder is None:
            raise RunFolderError(f"run folder is {str(self._folder)!r}, but must be held to tell its epoch")
        return self._holder

    @property
    def epoch(self) -> int:
        """How often the folder was taken, this time included."""
        return self.holder.epoch

    def check(self) -> None:
        """Raises WriterLostError if another driver has taken over since. A file read, and cheap."""
        found = read_holder(self._record)
        if found is not None and found.token != self.holder.token:
            raise WriterLostError(
                f"run folder is {str(self._folder)!r}, but must be held to be written "
                f"(epoch {found.epoch} was taken by {found}; this driver's was {self.epoch})"
            )

    def __enter__(self) -> WriterLock:
        try:
            self._lock.acquire(timeout=PATIENCE_SECONDS)
        except Timeout as error:
            raise self._refusal(read_holder(self._record)) from error
        except OSError as error:
            raise RunFolderError(
                f"run folder is {str(self._folder)!r}, but must be a folder that can be written ({error.strerror})"
            ) from error
        try:
            self._take_over()
        except BaseException:
            self._lock.release()
            raise
        return self

    def _take_over(self) -> None:
        before = read_holder(self._record)
        if before is not None and before.held and self._is_alive(before):
            raise self._refusal(before)
        self._holder = Holder.here(before.epoch + 1 if before else 1)
        write_atomically(self._record, json.dumps(self._holder.as_mapping()).encode())
        _remove_leftovers(self._folder)
        self._beat.start()

    def _is_alive(self, holder: Holder) -> bool:
        if holder.is_here:
            return holder.lives
        return is_beating(lambda: (read_holder(self._record), _touched(self._record)), self._wait)

    def _refusal(self, holder: Holder | None) -> RunFolderError:
        by = holder if holder is not None and holder.held else "another process"
        return RunFolderError(f"run folder is {str(self._folder)!r}, but must not be in use (by {by})")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beat.stop()
        try:
            found = read_holder(self._record)
            if found is not None and found.token == self.holder.token:
                # In place, not atomically: there is room for it even on a full disk. If it is cut short, the
                # record of a holder that has left is lost, and the next one starts at epoch 1.
                with self._record.open("r+b") as stream:
                    stream.write(json.dumps(replace(found, held=False).as_mapping()).encode().ljust(_size(stream)))
        finally:
            self._lock.release()


class Heartbeat:
    """Calls ``beat`` every few seconds, from a thread of its own, until ``stop``.

    An OSError of ``beat`` ends the beating: to others, the holder then falls silent.
    """

    def __init__(self, beat: Callable[[], object], seconds: float = BEAT_SECONDS) -> None:
        self._beat, self._seconds = beat, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for a beat that is under way."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._beat()
            except OSError as error:
                logger.warning("the writer's record can no longer be kept fresh: %s", error)
                return


def is_beating(look: Callable[[], object], wait: Callable[[float], None]) -> bool:
    """Whether what ``look`` sees changes before a living holder must have shown itself."""
    seen = look()
    for _ in range(round(SILENCE_SECONDS)):
        wait(1.0)
        if look() != seen:
            return True
    return False


def read_holder(path: Path) -> Holder | None:
    """The holder on record, or None if the record is missing or damaged: nothing else hangs on it."""
    try:
        return Holder.from_mapping(json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError):
        return None


def is_live(folder: Path) -> bool:
    """Whether a driver is at work on the folder at this moment. Needs no right to write."""
    holder = read_holder(folder / "driver.json")
    if holder is None or not holder.held:
        return False
    if holder.is_here:
        return holder.lives
    return time.time() - _touched(folder / "driver.json") < 3 * SILENCE_SECONDS


def _remove_leftovers(folder: Path) -> None:
    """What atomic writes left that a death cut short. ``report`` needs no lock, so a fresh one may be in use."""
    for temporary in (*folder.glob(f".*{TEMPORARY}"), *folder.glob(f"checkpoints/.*{TEMPORARY}")):
        if temporary.parent != folder or time.time() - _touched(temporary) > 600:
            temporary.unlink(missing_ok=True)


def _touched(path: Path) -> float:
    """When the file was last touched; opened first, as shared file systems may look afresh only then."""
    try:
        with path.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _size(stream: Any) -> int:
    return os.fstat(stream.fileno()).st_size


def _machine() -> str:
    """This boot of this host, and this namespace of processes (a container has its own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115  No path: a name of the kernel's.
    except OSError:
        return socket.gethostname()


def _began(process: int) -> str:
    """When a process of this machine began, as the system tells it; empty if it is not there."""
    if Path("/proc/self/stat").exists():
        try:
            # The name, in parentheses, may hold anything; after it come the state and, 19 fields on, the start.
            told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if told[0] in "ZX" else told[19]  # Z: it died, and nobody has asked how.
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    return "running"
