"""A storage by URL that may go away: what it was asked is asked again, with back-off, until it is back.

A lost connection leaves open whether the last operation was carried out. All can be repeated but two: a trial that
is made carries a token, by which it is found again; an end that is told twice must be the same end.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any, TypeVar
from uuid import uuid4

from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext

from sweeps.errors import StorageFullError, StorageLostError
from sweeps.passwords import Passwords

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.2, 10.0
TOKEN = "towersweep:token"

# SQLSTATE classes that pass: connection, lack of resources, operator intervention, deadlock.
_PASSING = ("08", "53", "57P", "40")
# The same of MySQL, by its own numbers: too many connections, shutdown, lost connections, deadlock.
_PASSING_NUMBERS = frozenset({1040, 1042, 1047, 1053, 1077, 1129, 1205, 1213, 2002, 2003, 2006, 2013, 2055})


class ConnectionLostError(Exception):
    """The database cannot be reached, or not served, at this moment; what it was asked may or may not be done."""


class PatientStorage(BaseStorage):
    """Optuna's RDBStorage, waited for: for at most ``patience`` seconds at a time, then StorageLostError.

    Within ``deferring``, what gives nothing back waits for ``flush``; every other operation flushes first.
    ``wait`` is called with seconds, and may raise to end the waiting; ``shown`` is the URL without its password.
    """

    def __init__(
        self,
        rdb: RDBStorage,
        shown: str,
        passwords: Passwords,
        patience: float = 0.0,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = get_storage(rdb)  # As Optuna's own programs do: with a cache of ended trials.
        self.shown, self.wait, self.patience = shown, wait, patience
        self._passwords, self._clock = passwords, clock
        self._waiting: deque[Callable[[], object]] = deque()
        self._deferred = False
        self._lost_at: float | None = None
        self._retry_at, self._pause = 0.0, FIRST_WAIT_SECONDS
        event.listen(rdb.engine, "handle_error", _tell_lost_connections)
        weakref.finalize(self, rdb.engine.dispose)  # Nobody closes a storage; its connections are closed with it.

    @contextmanager
    def deferring(self) -> Iterator[None]:
        """Within: reports, attributes and ends wait for ``flush``."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def flush(self) -> None:
        """Carry out all that waits; returns when it is durable. Raises StorageLostError."""
        while not self._carried_out():
            self._pause_once()

    def try_flush(self) -> None:
        """Carry out what waits, unless the storage is away. Never waits; raises StorageLostError in the end."""
        if self._lost_at is None or self._clock() >= self._retry_at:
            self._carried_out()

    def _carried_out(self) -> bool:
        """Whether nothing waits any more; False if the connection was lost before that."""
        while self._waiting:
            try:
                self._waiting[0]()
            except ConnectionLostError as error:
                self._note_loss(error)
                return False
            self._note_success()
            self._waiting.popleft()
        return True

    def _call(self, operation: Callable[[], Result], again: Callable[[], Result] | None = None) -> Result:
        """The result of ``operation``; of ``again`` if an earlier try may have been carried out."""
        attempt = operation
        while True:
            self.flush()
            try:
                result = attempt()
            except ConnectionLostError as error:
                self._note_loss(error)
                attempt = again or operation
                self._pause_once()
            else:
                self._note_success()
                return result

    def _later(self, operation: Callable[[], object], again: Callable[[], object] | None = None) -> None:
        tries = iter((operation,))
        self._waiting.append(lambda: next(tries, again or operation)())
        if not self._deferred:
            self.flush()

    def _note_loss(self, error: ConnectionLostError) -> None:
        now = self._clock()
        cause = self._passwords.hidden_in(str(error))
        if self._lost_at is None:
            self._lost_at, self._pause = now, FIRST_WAIT_SECONDS
            if self.patience:
                logger.warning("storage %s went away (%s); waiting up to %g s", self.shown, cause, self.patience)
        if not self.patience:
            self._lost_at = None
            raise StorageLostError(f"storage {self.shown} cannot be reached at this moment ({cause})") from None
        if now - self._lost_at >= self.patience:
            raise StorageLostError(
                f"storage {self.shown} went away, and was not back in storage.patience={self.patience:g} s "
                f"({cause}); nothing that was measured is lost: when it is back, go on with towersweep resume"
            ) from None
        self._retry_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_WAIT_SECONDS)

    def _pause_once(self) -> None:
        self.wait(max(0.0, self._retry_at - self._clock()))

    def _note_success(self) -> None:
        if self._lost_at is not None:
            logger.warning("storage %s is back after %.1f s", self.shown, self._clock() - self._lost_at)
            self._lost_at = None

    def once(self, operation: Callable[[BaseStorage], Result]) -> Result:
        """The result of ``operation``, tried once; from any thread. Raises ConnectionLostError."""
        return operation(self._storage)

    # What could be doubled

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        """Not repeated: a name that is taken by then could be this study's or another's."""
        try:
            return self._storage.create_new_study(directions, study_name)
        except ConnectionLostError as error:
            cause = self._passwords.hidden_in(str(error))
            raise StorageLostError(f"storage {self.shown} went away as the study was made ({cause})") from None

    def delete_study(self, study_id: int) -> None:
        """Delete it, if it is still there."""

        def again() -> None:
            if study_id in (study._study_id for study in self._storage.get_all_studies()):
                self._storage.delete_study(study_id)

        self._call(lambda: self._storage.delete_study(study_id), again)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """The new trial carries a token, by which it is found if only the answer was lost."""
        if template_trial is None:
            raise ValueError("template_trial is None, but must be a trial that can carry a token")
        token = uuid4().hex
        template = copy(template_trial)
        template._system_attrs = {**template.system_attrs, TOKEN: token}

        def again() -> int:
            for trial in self._storage.get_all_trials(study_id, deepcopy=False):
                if trial.system_attrs.get(TOKEN) == token:
                    return trial._trial_id
            return self._storage.create_new_trial(study_id, template)

        return self._call(lambda: self._storage.create_new_trial(study_id, template), again)

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """An end that was told already is fine if it is this one."""

        def again() -> None:
            try:
                self._storage.set_trial_state_values(trial_id, state, values)
            except UpdateFinishedTrialError:
                stored = self._storage.get_trial(trial_id)
                if (stored.state, stored.values) != (state, None if values is None else list(values)):
                    raise

        self._later(lambda: self._storage.set_trial_state_values(trial_id, state, values), again)
        return True  # Only a taking of a WAITING trial may fail, and this program makes none.

    # What can be repeated

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call(lambda: self._storage.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call(lambda: self._storage.set_study_system_attr(study_id, key, value))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._call(lambda: self._storage.set_trial_param(trial_id, param_name, param_value_internal, distribution))

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._later(lambda: self._storage.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._later(lambda: self._storage.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._later(lambda: self._storage.set_trial_system_attr(trial_id, key, value))

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._call(lambda: self._storage.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._call(lambda: self._storage.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._call(lambda: self._storage.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._call(lambda: self._storage.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._call(lambda: self._storage.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[Any]:
        return self._call(self._storage.get_all_studies)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._call(lambda: self._storage.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._call(lambda: self._storage.get_trial(trial_id))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return self._call(lambda: self._storage.get_best_trial(study_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._call(lambda: self._storage.get_all_trials(study_id, deepcopy, states))


def _tell_lost_connections(context: ExceptionContext) -> None:
    """SQLAlchemy calls this for every error of the database's driver; what it raises takes the error's place.

    Past this point Optuna would repeat the making of a trial by itself, and could double it.
    """
    error = context.original_exception
    if context.is_disconnect or context.connection is None or _passes(error):
        raise ConnectionLostError(" ".join(str(error).split()))
    if "disk is full" in str(error):  # SQLite's.
        raise StorageFullError(
            f"the study's storage cannot be written: {error}; what was there before is whole: "
            f"make room, then go on with towersweep resume"
        )


def _passes(error: BaseException) -> bool:
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state:
        return str(state).startswith(_PASSING)
    number = error.args[0] if error.args else None
    return number in _PASSING_NUMBERS or "database is locked" in str(error)
