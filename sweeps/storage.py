"""Where the Optuna study lives: the embedded journal file, or any Optuna storage by its URL.

postgresql+psycopg://, mysql+pymysql:// and sqlite:/// are databases (whatever SQLAlchemy knows);
journal+file:// and redis:// are Optuna's journals. A database that goes away is waited for (``sweeps.patient``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from optuna.exceptions import OptunaError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalRedisBackend
from optuna.trial import FrozenTrial
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from sweeps.embedded import EmbeddedStorage
from sweeps.errors import StorageError, without_passwords
from sweeps.passwords import PASSWORD_VARIABLE, Passwords
from sweeps.patient import PatientStorage

__all__ = [
    "PASSWORD_VARIABLE",
    "create_trials",
    "describe",
    "flush",
    "is_shared",
    "later",
    "open_storage",
    "try_flush",
]

CONNECT_SECONDS = 10
JOURNAL = "journal+file://"
# How each driver is told not to wait for ever: for a connection, and for an answer on one that is dead.
_ALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 60_000}
_TIMEOUTS: dict[str, dict[str, Any]] = {
    "psycopg": {"connect_timeout": CONNECT_SECONDS, **_ALIVE},
    "psycopg2": {"connect_timeout": CONNECT_SECONDS, **_ALIVE},
    "pymysql": {"connect_timeout": CONNECT_SECONDS},
    "mysqldb": {"connect_timeout": CONNECT_SECONDS},
}


def open_storage(url: str, journal: Path, patience: float = 0.0) -> BaseStorage:
    """The storage at ``url``, or the embedded journal file if ``url`` is empty.

    Once open, a database that goes away is waited for, for ``patience`` seconds. The password may come from the
    environment variable TOWERSWEEP_STORAGE_PASSWORD. Raises StorageError, whose message never holds a password.
    """
    if not url:
        return _journal_file(journal)
    if url.startswith(JOURNAL):
        return _journal_file(Path(unquote(url.removeprefix(JOURNAL))), shared=True)
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StorageError(
            "storage.url cannot be read, but must be like postgresql+psycopg://host/name"
        ) from error
    password = os.environ.get(PASSWORD_VARIABLE)
    if password and parsed.password is None and parsed.username:
        parsed = parsed.set(password=password)
    shown = without_passwords(parsed.render_as_string(hide_password=True))
    passwords = Passwords.of(parsed.render_as_string(hide_password=False))
    try:
        if parsed.drivername == "redis":
            return _redis(parsed)
        return PatientStorage(_database(parsed), shown, passwords, patience)
    except (SQLAlchemyError, OptunaError, ImportError, RuntimeError, ValueError, OSError) as error:
        told = error.__cause__ if isinstance(error, OptunaError) and error.__cause__ else error
        cause = passwords.hidden_in(str(getattr(told, "orig", None) or told).splitlines()[0])
        hint = "" if password or parsed.password else f"; a password may be in {PASSWORD_VARIABLE}"
        rule = f"an Optuna storage that can be opened ({cause}{hint})"
        raise StorageError(f"storage.url is {shown!r}, but must be {rule}") from None


def describe(storage: BaseStorage) -> str:
    """Which storage it is, without its password."""
    if isinstance(storage, EmbeddedStorage):
        return str(storage.journal.path)
    return storage.shown if isinstance(storage, PatientStorage) else "storage"


def is_shared(storage: BaseStorage) -> bool:
    """Whether drivers of other run folders can reach it."""
    return not isinstance(storage, EmbeddedStorage) or storage.shared


def _journal_file(path: Path, *, shared: bool = False) -> EmbeddedStorage:
    try:
        return EmbeddedStorage(path, shared=shared)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened, but must be a journal file ({error.strerror})") from error


def _database(url: URL) -> RDBStorage:
    timeouts = _TIMEOUTS.get(url.get_driver_name(), {})
    arguments = {name: value for name, value in timeouts.items() if name not in url.query}
    options = {"pool_pre_ping": True, "connect_args": arguments}
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


def _redis(url: URL) -> JournalStorage:
    if find_spec("redis") is None:
        raise ImportError("its driver is missing: pip install redis")
    return JournalStorage(JournalRedisBackend(url.render_as_string(hide_password=False)))


@contextmanager
def later(storage: BaseStorage) -> Iterator[None]:
    """Within: reports, attributes and ends may wait for ``flush``, where the storage can let them.

    Not for what gives something back, as making a trial does.
    """
    if isinstance(storage, EmbeddedStorage):
        with storage.journal.holding():
            yield
    elif isinstance(storage, PatientStorage):
        with storage.deferring():
            yield
    else:
        yield


def flush(storage: BaseStorage) -> None:
    """Make all that waits durable; waits for a storage that went away."""
    if isinstance(storage, EmbeddedStorage):
        storage.journal.flush()
    elif isinstance(storage, PatientStorage):
        storage.flush()


def try_flush(storage: BaseStorage) -> None:
    """Make all that waits durable, unless the storage went away: then it goes on waiting, and this returns."""
    if isinstance(storage, PatientStorage):
        storage.try_flush()
    else:
        flush(storage)


def create_trials(storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial]) -> list[int]:
    """New trials, durable when this returns; their ids, in order."""
    if isinstance(storage, EmbeddedStorage):
        return storage.create_trials(study_id, trials)
    return [storage.create_new_trial(study_id, template_trial=trial) for trial in trials]
