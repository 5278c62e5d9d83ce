"""The right to write a study that others can reach: one driver per study, whatever its host and its run folder.

It is kept in the study itself, as a user attribute, the way a run folder keeps it in ``driver.json``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage

from sweeps.errors import HaltedError, StorageError, WriterLostError
from sweeps.patient import ConnectionLostError, PatientStorage
from sweeps.storage import describe
from sweeps.writer_lock import Heartbeat, Holder, is_beating

logger = logging.getLogger(__name__)

KEY = "towersweep:writer"
Result = TypeVar("Result")


class Lease:
    """Held while a sweep runs; a context manager. ``holder`` is the driver, as its run folder's lock knows it.

    Raises StorageError, naming the holder, if another driver holds the study. Two that take it in the same instant
    may both be let in; the first to ask after that finds out (``check``). A driver on another machine that writes
    to a journal shows no sign of life, and is taken for dead.
    """

    def __init__(
        self, storage: BaseStorage, study_id: int, holder: Holder, wait: Callable[[float], None] = time.sleep
    ) -> None:
        self._storage, self._study_id, self._wait = storage, study_id, wait
        self._holder = holder
        self._beats = 0
        self._taken_by: Holder | None = None
        self._heart = Heartbeat(self._beat)

    def check(self) -> None:
        """Raises WriterLostError if another driver is known to have taken over."""
        if self._taken_by is not None:
            raise WriterLostError(
                f"the study in {describe(self._storage)} must be held to be written "
                f"(epoch {self._taken_by.epoch} was taken by {self._taken_by}; "
                f"this driver's was {self._holder.epoch})"
            )

    def look(self) -> None:
        """``check``, after a look into the study."""
        self._compare(self._read(self._storage))
        self.check()

    def __enter__(self) -> Lease:
        before = self._read(self._storage)
        if before is not None and before.held and self._is_alive(before):
            raise StorageError(f"the study in {describe(self._storage)} must not be in use (by {before})")
        self._holder = replace(self._holder, epoch=before.epoch + 1 if before else 1)
        self._write(self._storage, self._holder)
        if isinstance(self._storage, PatientStorage):
            self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._heart.stop()
        if isinstance(error, HaltedError) or self._taken_by is not None:
            return  # The storage is away or full, or another's: to the next driver, this one is dead.
        try:
            self._once(self._leave)
        except KeyError:
            pass  # The study was deleted: the sweep never began.
        except (ConnectionLostError, StorageInternalError) as problem:
            logger.warning("the study could not be told that its writer has left: %s", problem)

    def _leave(self, storage: BaseStorage) -> None:
        found = self._read(storage)
        if found is not None and found.token == self._holder.token:
            self._write(storage, replace(self._holder, held=False))

    def _is_alive(self, holder: Holder) -> bool:
        if holder.is_here:
            return holder.lives
        return is_beating(lambda: self._storage.get_study_user_attrs(self._study_id).get(KEY), self._wait)

    def _beat(self) -> None:
        """In a thread of its own; a storage that is away is the main thread's business."""
        self._beats += 1
        try:
            self._compare(self._once(self._read))
            if self._taken_by is None:
                self._once(lambda storage: self._write(storage, self._holder))
        except ConnectionLostError:
            pass  # The driver waits for it, and says so.
        except (StorageInternalError, KeyError) as error:
            raise OSError(f"the study does not take it: {error}") from error

    def _compare(self, found: Holder | None) -> None:
        if found is not None and found.token != self._holder.token:
            self._taken_by = found

    def _once(self, operation: Callable[[BaseStorage], Result]) -> Result:
        if isinstance(self._storage, PatientStorage):
            return self._storage.once(operation)
        return operation(self._storage)

    def _read(self, storage: BaseStorage) -> Holder | None:
        return Holder.from_mapping(storage.get_study_user_attrs(self._study_id).get(KEY))

    def _write(self, storage: BaseStorage, holder: Holder) -> None:
        storage.set_study_user_attr(self._study_id, KEY, {**holder.as_mapping(), "beats": self._beats})
