"""A trainable that does nothing, so that what is left is the orchestrator's own time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sweeps.records import CurvePoint, Measurement, Score
from sweeps.trainable import Devices


@dataclass(frozen=True)
class RunSettings:
    """One section, as sweep files need one."""

    steps: int = 10
    state_bytes: int = 0


@dataclass(frozen=True)
class Settings:
    """The trainable's part of a sweep file."""

    run: RunSettings = field(default_factory=RunSettings)


class NoOp:
    """Two trajectory parameters and two readouts; the loss is a sum of squares."""

    Settings: ClassVar[type[Settings]] = Settings
    num_towers = 1

    def __init__(self, settings: Settings) -> None:
        self.steps = settings.run.steps
        self._state_bytes = settings.run.state_bytes

    @property
    def parameters(self) -> Mapping[str, str]:
        """By role."""
        return {"a": "trajectory", "b": "trajectory", "c": "readout", "d": "readout"}

    def check(self, params: Mapping[str, Any]) -> None:
        """Everything can be run."""

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> NoOpRun:
        """A run at its end already."""
        losses = [sum(v**2 for v in {**params, **readout}.values()) for readout in readouts]
        return NoOpRun(losses, self._state_bytes)


class NoOpRun:
    """Reports the same losses at every rung."""

    def __init__(self, losses: list[float], state_bytes: int) -> None:
        self._losses = losses
        self._state_bytes = state_bytes

    def advance(self, to_step: int) -> Measurement:
        """At once."""
        scores = tuple(Score(loss / to_step, 0.5) for loss in self._losses)
        return Measurement(to_step, (CurvePoint(to_step, 1.0),), scores)

    def state(self) -> bytes:
        """As many zeros as it was told to."""
        return bytes(self._state_bytes)
