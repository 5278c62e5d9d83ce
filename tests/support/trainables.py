"""Small real trainables for tests of the orchestrator: no TensorFlow, the whole protocol."""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from sweeps.records import CurvePoint, Measurement, Score
from sweeps.trainable import Devices


@dataclass(frozen=True)
class RunSettings:
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    steps: int = 90
    towers: int = 1
    behaviour: str = "well"
    """well; nonsense, wrong_step, twice, few_scores, nan, invalid; or one of those of ``behave``."""
    gate: str = ""
    """A file; a ``Paced`` run is slow until it is there."""


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
        if params.get("kind", self.settings.run.behaviour) == "invalid":
            raise InvalidRunError("rate is 2.0")
        return QuadraticRun(params, readouts, self.settings.run.behaviour, state)


class QuadraticRun:
    def __init__(
        self, params: Mapping[str, Any], readouts: Sequence[Mapping[str, Any]], behaviour: str, state: bytes | None
    ) -> None:
        behaviour = params.get("kind", behaviour)
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
        if self.behaviour == "twice":
            points.append(points[-1])
            return SimpleNamespace(step=step, curve=points, scores=scores, seconds=0.01)
        if self.behaviour == "nonsense":
            return {"loss": 1.0}
        return Measurement(step, tuple(points), scores, 0.01)

    def state(self) -> bytes:
        return json.dumps([self.step, self.x]).encode()


HOARDED: list[bytes] = []


def behave(behaviour: str) -> None:
    """Do what no trainable should: see the names."""
    match behaviour:
        case "raise":
            raise RuntimeError("boom\nsecond line")
        case "exit":
            os._exit(3)
        case "sys_exit":
            sys.exit(4)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "crash":
            ctypes.string_at(0)
        case "hang":
            while True:
                pass
        case "hang_in_c":  # Without ever letting another thread of Python run.
            re.match(r"(a+)+$", "a" * 64 + "b")
        case "hoard":
            hoarded = []
            while len(hoarded) < 512:  # 4 GiB, in case nobody stops it.
                hoarded.append(b"x" * 2**23)
                time.sleep(0.005)
            raise RuntimeError("nobody minded 4 GiB")
        case "grow":
            HOARDED.extend([b"x" * 280 * 2**20] * (not HOARDED))
        case "print":
            for _ in range(2**10):
                print("o" * 2**15)
                print("e" * 2**15, file=sys.stderr)
        case "slow":
            time.sleep(0.03)  # Training takes time.


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


class Reader(Quadratic):
    """Has several readouts, and breaks its word about them as its behaviour says: see ReaderRun."""

    @property
    def parameters(self) -> Mapping[str, str]:
        readouts = dict.fromkeys(("offset", "scale", "average", "decay"), "readout")
        return {"rate": "trajectory", "kind": "trajectory", **readouts}

    def check(self, params: Mapping[str, Any]) -> None:
        super().check(params)
        if self.settings.run.behaviour == "picky" and params.get("offset") and params.get("scale"):
            raise InvalidRunError("offset and scale are both above 0")

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> ReaderRun:
        for readout in readouts:
            self.check({**params, **readout})
        return ReaderRun(params, readouts, self.settings.run.behaviour, state)


class ReaderRun(QuadraticRun):
    """``leak X``: X, of the first readout, changes the rate; ``leak product``: offset times scale does.

    ``scoring``: measuring a readout leaves x changed by its offset; ``count``: it does so by how many there are.
    ``random``: no two runs are the same; ``drift``: each run of a process is unlike the one before.
    ``talk``: it prints.
    """

    started: ClassVar[int] = 0

    def __init__(
        self, params: Mapping[str, Any], readouts: Sequence[Mapping[str, Any]], behaviour: str, state: bytes | None
    ) -> None:
        super().__init__(params, readouts, behaviour, state)
        ReaderRun.started += 1
        first = readouts[0]
        leaks = {**first, "product": first.get("offset", 0.0) * first.get("scale", 0.0)}
        verb, _, leaking = behaviour.partition(" ")
        if verb == "leak":
            self.rate *= 1 + float(leaks.get(leaking, 0.0))
        if behaviour == "random":
            self.rate *= random.random()
        if behaviour == "drift":
            self.rate /= ReaderRun.started

    def advance(self, to_step: int) -> Any:
        if self.behaviour == "talk":
            print("a word of its own")
        told = super().advance(to_step)
        if self.behaviour == "scoring":
            self.x += 1e-9 * self.offsets[0]
        if self.behaviour == "count":
            self.x += 1e-9 * (len(self.offsets) - 1)
        return told


class Lattice(Quadratic):
    """Two readouts, tilt and shift, and a lattice of them; the best pair is the last of each (see LatticeRun)."""

    scores_lattice: ClassVar[bool] = True

    @property
    def parameters(self) -> Mapping[str, str]:
        return {"rate": "trajectory", "tilt": "readout", "shift": "readout"}

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> LatticeRun:
        return LatticeRun(params, readouts, self.settings.run.behaviour, state)


class LatticeRun(QuadraticRun):
    """A readout's loss is the quadratic's plus (1 - tilt)**2 + (1 - shift)**2."""

    def __init__(
        self, params: Mapping[str, Any], readouts: Sequence[Mapping[str, Any]], behaviour: str, state: bytes | None
    ) -> None:
        super().__init__(params, [], behaviour, state)
        self.offsets = [(1 - r.get("tilt", 1.0)) ** 2 + (1 - r.get("shift", 1.0)) ** 2 for r in readouts]
        self.asked: list[int | None] = []

    def advance(self, to_step: int, num_scored: int | None = None) -> Measurement:
        every, self.offsets = self.offsets, self.offsets[:num_scored]
        told: Measurement = super().advance(to_step)
        self.offsets = every
        if num_scored is not None:
            return told
        tests = [None if index else score for index, score in enumerate(told.scores)]
        return Measurement(told.step, told.curve, told.scores, told.seconds, test_scores=tuple(tests))


class Paced(Lattice):
    """A ``Lattice`` that can be stopped every 5 steps; slow, each time it is advanced, until its gate is there."""

    pause_every: ClassVar[int] = 5

    def start(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        seed: int,
        devices: Devices,
        state: bytes | None,
    ) -> PacedRun:
        return PacedRun(params, readouts, self.settings.run, state)


class PacedRun(LatticeRun):
    def __init__(
        self,
        params: Mapping[str, Any],
        readouts: Sequence[Mapping[str, Any]],
        settings: RunSettings,
        state: bytes | None,
    ) -> None:
        super().__init__(params, readouts, settings.behaviour, state)
        self.gate = Path(settings.gate)

    def advance(self, to_step: int, num_scored: int | None = None) -> Measurement:
        if not self.gate.exists():
            time.sleep(0.1)
        return super().advance(to_step, num_scored)
