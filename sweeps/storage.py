"""Where the Optuna study lives: the embedded journal file, or any Optuna storage by its URL."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweeps.errors import StorageError

PASSWORD_VARIABLE = "TOWERSWEEP_STORAGE_PASSWORD"


def open_storage(url: str, journal: Path) -> BaseStorage:
    """The storage at ``url``, or the embedded journal file if ``url`` is empty.

    The password may come from the environment variable TOWERSWEEP_STORAGE_PASSWORD. Raises StorageError, whose
    message never holds a password.
    """
    if not url:
        return EmbeddedStorage(journal)
    rule = "an Optuna storage that can be opened"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StorageError(
            "storage.url cannot be read, but must be like postgresql+psycopg://host/name"
        ) from error
    password = os.environ.get(PASSWORD_VARIABLE)
    if password and parsed.password is None and parsed.username:
        parsed = parsed.set(password=password)
    shown = parsed.render_as_string(hide_password=True)
    try:
        return RDBStorage(parsed.render_as_string(hide_password=False))
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        if parsed.password:
            cause = cause.replace(str(parsed.password), "***")
        raise StorageError(f"storage.url is {shown!r}, but must be {rule} ({cause})") from None


@contextmanager
def later(storage: BaseStorage) -> Iterator[None]:
    """Within: reports, attributes and ends may wait for ``flush``, where the storage can let them.

    Not for what gives something back, as making a trial does.
    """
    if isinstance(storage, EmbeddedStorage):
        with storage.journal.holding():
            yield
    else:
        yield


def flush(storage: BaseStorage) -> None:
    """Make all that waits durable."""
    if isinstance(storage, EmbeddedStorage):
        storage.journal.flush()


def create_trials(storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial]) -> list[int]:
    """New trials, durable when this returns; their ids, in order."""
    if isinstance(storage, EmbeddedStorage):
        return storage.create_trials(study_id, trials)
    return [storage.create_new_trial(study_id, template_trial=trial) for trial in trials]


class EmbeddedStorage(JournalStorage):
    """Optuna's journal file, written many operations at a time. Any other Optuna program can open the file."""

    def __init__(self, path: Path) -> None:
        self.journal = _HoldingJournal(str(path))
        self._has_created = False
        super().__init__(self.journal)

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


class _HoldingJournal(JournalFileBackend):
    """Optuna locks, appends, syncs and reads back for every operation; here that waits while ``holding``.

    What waits is keyed by the number of a trial that exists, so it commutes with whatever another program (the
    viewer, where it may write) appends meanwhile.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._waiting: list[dict[str, Any]] = []
        self._held = False

    @contextmanager
    def holding(self) -> Iterator[None]:
        self._held = True
        try:
            yield
        finally:
            self._held = False

    def flush(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            super().append_logs(waiting)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._waiting += logs
        if not self._held:
            self.flush()

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        if not self._held:
            self.flush()
            yield from super().read_logs(log_number_from)
