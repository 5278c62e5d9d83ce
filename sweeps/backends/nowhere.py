"""A backend without a slot: for a driver that only has to end what an earlier one left unfinished."""

from __future__ import annotations

from sweeps.backends import BackendEvent, Job
from sweeps.errors import ResourceError


class Nowhere:
    """See ``sweeps.backends.Backend``. No command can be given, as there is no slot to name."""

    @property
    def num_slots(self) -> int:
        """None."""
        return 0

    def start(self, slot: int, job: Job) -> None:
        """Raises ResourceError."""
        self._refuse(slot)

    def advance(self, slot: int, to_step: int) -> None:
        """Raises ResourceError."""
        self._refuse(slot)

    def take_state(self, slot: int) -> None:
        """Raises ResourceError."""
        self._refuse(slot)

    def pause(self, slot: int) -> None:
        """Raises ResourceError."""
        self._refuse(slot)

    def release(self, slot: int) -> None:
        """Raises ResourceError."""
        self._refuse(slot)

    def abandon(self, slot: int) -> None:
        """Raises ResourceError."""
        self._refuse(slot)

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """Nothing ever happens."""
        return None

    def __enter__(self) -> Nowhere:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def _refuse(self, slot: int) -> None:
        raise ResourceError(f"slot is {slot}, but there is none")
