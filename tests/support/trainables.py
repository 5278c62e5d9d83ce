"""Small real trainables for tests of the orchestrator: no TensorFlow, the whole protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sweeps.records import CurvePoint, Measurement, Score
from sweeps.trainable import Devices


@dataclass(frozen=True)
class RunSettings:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int = 90
    towers: int = 1
    behaviour: str = "well"
    """well, raise, exit, nonsense, wrong_step, few_scores, nan, invalid, or slow."""


@dataclass(frozen=True)
class Settings:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    run: RunSettings = field(default_factory=RunSettings)


class InvalidRunError(ValueError):
    field, value, rule = "rate", 2.0, "below 1"


class Quadratic:
    """Gradient descent on x**2 / 2 from 1: after t steps the loss is (1 - rate)**(2 t) / 2. Readout: an offset."""

    Settings: ClassVar[type[Settings]] = Settings

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def parameters(self) -> Mapping[str, str]:
        return {"rate": "trajectory", "kind": "trajectory", "offset": "readout"}

    @property
    def steps(self) -> int:
        return self.settings.run.steps

    @property
    def num_towers(self) -> int:
        return self.settings.run.towers

    def check(self, params: Mapping[str, Any]) -> None:
        if params.get("rate", 0) >= 1.5:
            raise InvalidRunError(f"rate is {params['rate']}")

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> QuadraticRun:
        if self.settings.run.behaviour == "invalid":
            raise InvalidRunError("rate is 2.0")
        return QuadraticRun(params, readouts, self.settings.run.behaviour, state)


class QuadraticRun:
    def __init__(
        self, params: Mapping[str, Any], readouts: Sequence[Mapping[str, Any]], behaviour: str, state: bytes | None
    ) -> None:
        self.rate = params.get("rate", 0.1)
        self.offsets = [readout.get("offset", 0.0) for readout in readouts]
        self.behaviour = behaviour
        self.step, self.x = json.loads(state) if state else (0, 1.0)

    def advance(self, to_step: int) -> Any:
        behave(self.behaviour)
        points = []
        while self.step < to_step:
            self.x -= self.rate * self.x
            self.step += 1
            points.append(CurvePoint(self.step, self.x**2 / 2))
        scores = tuple(Score(self.x**2 / 2 + offset, 0.5) for offset in self.offsets)
        if self.behaviour == "nan":
            points[-1] = CurvePoint(self.step, float("nan"))
        if self.behaviour == "few_scores":
            scores = scores[:-1]
        step = self.step + (self.behaviour == "wrong_step")
        if self.behaviour == "wrong_step":
            points.append(CurvePoint(step, 0.0))
        if self.behaviour == "nonsense":
            return {"loss": 1.0}
        return Measurement(step, tuple(points), scores, 0.01)

    def state(self) -> bytes:
        return json.dumps([self.step, self.x]).encode()


def behave(behaviour: str) -> None:
    if behaviour == "raise":
        raise RuntimeError("boom\nsecond line")
    if behaviour == "exit":
        os._exit(3)


class Probe(Quadratic):
    """Tells in its metrics which process it runs in, and in ``gpu_*`` which GPUs that process sees."""

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> ProbeRun:
        return ProbeRun(params, readouts, self.settings.run.behaviour, state)


class ProbeRun(QuadraticRun):
    def advance(self, to_step: int) -> Measurement:
        told = super().advance(to_step)
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "unset")
        metrics = {"pid": float(os.getpid()), "threads": float(os.environ.get("OMP_NUM_THREADS", -1))}
        metrics["masked"] = float(visible == "")
        metrics |= {f"gpu_{index}": 1.0 for index in visible.split(",") if index.isdigit()}
        last = told.curve[-1]
        point = CurvePoint(last.step, last.train_loss, last.score, metrics)
        return Measurement(told.step, (*told.curve[:-1], point), told.scores, told.seconds)
