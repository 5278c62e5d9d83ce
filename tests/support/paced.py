"""The quadratic trainable at a walking pace, so that something can happen to its sweep meanwhile."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sweeps.trainable import Devices
from tests.support.trainables import Quadratic, QuadraticRun


@dataclass(frozen=True)
class PacedRunSettings:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int = 90
    towers: int = 1
    pace: float = 0.0
    """Seconds that each rung takes."""
    padding: int = 0
    """Bytes that each state holds for nothing."""
    behaviour: str = "well"


@dataclass(frozen=True)
class PacedSettings:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    run: PacedRunSettings = field(default_factory=PacedRunSettings)


class Paced(Quadratic):
    Settings: ClassVar[type[Any]] = PacedSettings

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> PacedRun:
        run: Any = self.settings.run
        return PacedRun(params, readouts, run.pace, run.padding, state)


class PacedRun(QuadraticRun):
    def __init__(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        pace: float,
        padding: int,
        state: bytes | None,
    ) -> None:
        super().__init__(params, readouts, "well", state)
        self.pace, self.padding = pace, padding

    def advance(self, to_step: int) -> Any:
        time.sleep(self.pace)
        return super().advance(to_step)

    def state(self) -> bytes:
        return super().state() + b" " * self.padding
