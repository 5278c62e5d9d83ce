"""The embedded storage: Optuna's journal file, written many operations at a time.

Any other Optuna program can open the file, and write to it as well: each append is made under Optuna's own lock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial

from sweeps.durable import append_whole, sync_folder, torn_bytes, writing
from sweeps.errors import DamagedFileError

# An append takes milliseconds; what is locked for so long when a process first appends was left by a dead one.
LEFTOVER_SECONDS = 3.0
_NUM_OPERATIONS = 11


class EmbeddedStorage(JournalStorage):
    """The journal file at ``path``; ``shared`` if it is no run folder's own.

    Raises DamagedFileError, naming the line, if it cannot be read.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.shared = shared
        self.journal = HoldingJournal(path)
        self._has_created = False
        try:
            super().__init__(self.journal)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError) as error:
            raise self.journal.damaged("it is no operation that Optuna knows") from error

    def create_trials(self, study_id: int, trials: Sequence[FrozenTrial]) -> list[int]:
        """All in one locked append, so that the ids that the journal gives them follow one another."""
        alone = [] if self._has_created else trials[:1]  # JournalStorage must have made one to hold another.
        ids = [self.create_new_trial(study_id, template_trial=trial) for trial in alone]
        self._has_created = True
        *held, last = trials[len(alone) :] or (None,)
        if last is None:
            return ids
        with self.journal.holding():
            for trial in held:
                self.create_new_trial(study_id, template_trial=trial)
        last_id = self.create_new_trial(study_id, template_trial=last)
        return [*ids, *range(last_id - len(held), last_id + 1)]


class HoldingJournal(BaseJournalBackend):
    """Optuna locks, appends, syncs and reads back for every operation; here that waits while ``holding``.

    What waits is keyed by the number of a trial that exists, so it commutes with whatever another program (the
    viewer, where it may write) appends meanwhile. A torn end that a dead writer left is cut off before the next
    append, and kept beside the file: Optuna would append to it, and could never read the file again.
    """

    def __init__(self, path: Path) -> None:
        # Absolute: the lock is a link to the file, and Optuna waits for ever on one that leads nowhere.
        self.path = path.resolve()
        self._link = JournalFileSymlinkLock(str(self.path))
        self.path.touch()
        self._offsets = [0]
        self._waiting: list[dict[str, Any]] = []
        self._held = False
        self._has_appended = False
        self._line = 0

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Within: what is appended waits for ``flush``."""
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def flush(self) -> None:
        """Append all that waits, durably: all of it, or nothing if there is no room (StorageFullError)."""
        if self._waiting:
            self._append(self._waiting)
            self._waiting = []

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations, now or, while ``holding``, later."""
        self._waiting += logs
        if not self._held:
            self.flush()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Operations from a number on. Raises DamagedFileError.

        A last line without an end is being written at this moment, or torn; it is left for later.
        """
        if self._held:
            return
        self.flush()
        with self.path.open("rb") as stream:
            stream.seek(self._offsets[log_number_from])
            for number, line in enumerate(stream, start=log_number_from + 1):
                if not line.endswith(b"\n"):
                    return
                self._line = number
                if number == len(self._offsets):
                    self._offsets.append(self._offsets[-1] + len(line))
                yield self._parsed(line)

    def _parsed(self, line: bytes) -> dict[str, Any]:
        try:
            log = json.loads(line)
        except ValueError as error:  # That of a byte which is not UTF-8 included.
            raise self.damaged("it is not JSON") from error
        if not isinstance(log, dict) or log.get("op_code") not in range(_NUM_OPERATIONS):
            raise self.damaged("it is no operation that Optuna knows")
        return log

    def damaged(self, problem: str) -> DamagedFileError:
        """The error for the line that was read last."""
        return DamagedFileError(
            f"{self.path}: line {self._line} is damaged: {problem} "
            f"(restore the line or the file from a copy; the lines before it are whole)"
        )

    def _append(self, logs: Sequence[dict[str, Any]]) -> None:
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with writing(self.path), self._locked():
            handle = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                self._cut_torn_end(handle)
                append_whole(handle, content)
                os.fsync(handle)
            finally:
                os.close(handle)
            if not self._has_appended:
                sync_folder(self.path.parent)
        self._has_appended = True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self._has_appended:
            self._remove_leftover_link()
        self._link.acquire()
        try:
            yield
        finally:
            self._link.release()

    def _remove_leftover_link(self) -> None:
        link = Path(f"{self.path}.lock")
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while link.is_symlink():
            if time.monotonic() > deadline:
                link.unlink(missing_ok=True)
            time.sleep(0.01)

    def _cut_torn_end(self, handle: int) -> None:
        size = os.fstat(handle).st_size
        if size == 0 or os.pread(handle, 1, size - 1) == b"\n":
            return
        torn = torn_bytes(self.path.read_bytes())
        taken = sum(1 for _ in self.path.parent.glob(f"{self.path.name}.torn-*"))
        beside = Path(f"{self.path}.torn-{taken + 1}")
        beside.write_bytes(os.pread(handle, torn, size - torn))
        os.ftruncate(handle, size - torn)
