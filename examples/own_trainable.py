"""A trainable of one's own, in plain Python: what a sweep needs is `start`, `advance` and `state`.

    .venv/bin/towersweep launch examples/own_trainable.toml --out runs/own

It fits y = 3 x by gradient descent on noisy data. The noise floor stalls it; the learning rate decides how soon.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sweeps.records import CurvePoint, Measurement, Score
from sweeps.trainable import Devices


@dataclass(frozen=True)
class LineSettings:
    """The section [line] of the sweep file."""

    steps: int = 60
    noise: float = 0.1


@dataclass(frozen=True)
class Settings:
    """One field a section."""

    line: LineSettings = field(default_factory=LineSettings)


class Line:
    """Fits a slope. `rate` changes the weight's path; `shrink`, applied when reading it, cannot: a readout."""

    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def parameters(self) -> Mapping[str, str]:
        """Names and roles."""
        return {"rate": "trajectory", "shrink": "readout"}

    @property
    def steps(self) -> int:
        """Steps of a whole trajectory."""
        return self.settings.line.steps

    @property
    def num_towers(self) -> int:
        """One device is enough."""
        return 1

    def check(self, params: Mapping[str, Any]) -> None:
        """Every rate can be run."""

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> LineRun:
        """Begin at slope 0, or go on."""
        step, slope = json.loads(state) if state else (0, 0.0)
        return LineRun(
            params["rate"], [r["shrink"] for r in readouts], seed, self.settings.line.noise, step, slope
        )


@dataclass
class LineRun:
    """A fit under way."""

    rate: float
    shrinks: list[float]
    seed: int
    noise: float
    step: int
    slope: float

    def advance(self, to_step: int) -> Measurement:
        """One noisy sample a step; it depends on (seed, step) alone, so that a run can be taken up anywhere."""
        points = []
        while self.step < to_step:
            rng = random.Random(self.seed * 1_000_003 + self.step)
            x = rng.uniform(-1, 1)
            error = self.slope * x - (3 * x + rng.gauss(0, self.noise))
            self.slope -= self.rate * error * x
            self.step += 1
            points.append(CurvePoint(self.step, error**2 / 2))
        scores = tuple(Score((self.slope * shrink - 3) ** 2 / 6, 0.0) for shrink in self.shrinks)
        return Measurement(to_step, tuple(points), scores)

    def state(self) -> bytes:
        """All there is to know."""
        return json.dumps([self.step, self.slope]).encode()
