"""A trajectory under way: trains to a step, measures every readout there, and can be saved at any rung."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from model import checkpoint
from model.config import ModelSettings, TrialSettings
from model.data import Dataset, Part, batch_indices, load
from model.devices import Placement, place
from model.measurement import CurvePoint, Measurement, Score
from model.network import make_layout
from model.training import Program, Snapshot

if TYPE_CHECKING:
    from model.trial import Devices

NOT_A_NUMBER = Score(float("nan"), float("nan"))

# Traced programs of this process, by structure. A worker meets few structures, and each takes about a second.
_programs: dict[tuple[Any, ...], Program] = {}


def _program(settings: TrialSettings, data: Dataset, placement: Placement) -> Program:
    model = settings.model
    # Readouts are tensors; two settings that differ in nothing else share a program.
    structure = ModelSettings(**{**vars(model), "bn_momentum": 0.0, "ema_decay": 0.0})
    key = (structure, settings.data, settings.train.batch_size, placement)
    if key not in _programs:
        layout = make_layout(model, data.train.images.shape[1:], data.num_classes)
        _programs[key] = Program(layout, model, settings.train.batch_size, placement, data)
    return _programs[key]


class TrainingRun:
    """One run. ``pairs`` are its readouts, (BN momentum, EMA decay) each."""

    def __init__(
        self,
        settings: TrialSettings,
        pairs: Sequence[tuple[float, float]],
        seed: int,
        devices: Devices,
        key: str,
        state: bytes | None,
    ) -> None:
        placement = place(
            devices.num_towers, devices.gpus_per_tower, devices.threads, settings.model.variable_placement
        )
        self._settings, self._pairs, self._seed, self._key = settings, list(pairs), seed, key
        self._momenta = sorted({momentum for momentum, _ in pairs})
        self._decays = sorted({decay for _, decay in pairs if decay > 0})
        self._data = load(settings.data)
        self._program = _program(settings, self._data, placement)
        counts = len(self._decays), len(self._momenta)
        if state is None:
            snapshot, self._step = Snapshot.initial(self._program.layout, seed, *counts), 0
        else:
            snapshot, self._step = checkpoint.load(state, key, Snapshot.shapes(self._program.layout, *counts))
        self._program.owner = self
        self._program.load(snapshot)

    def advance(self, to_step: int) -> Measurement:
        """Train up to ``to_step`` and measure every readout there.

        A loss that is no longer finite ends the training at once: the measurement then says so at ``to_step``.
        """
        began = time.monotonic()
        self._check(to_step)
        every = self._settings.train.eval_every
        points: list[CurvePoint] = []
        while self._step < to_step:
            target = min(to_step, (self._step // every + 1) * every)
            losses, penalties = self._train_to(target)
            chunk = self._points(target, losses, penalties)
            if not np.isfinite(losses).all():
                last = CurvePoint(to_step, float("nan"), NOT_A_NUMBER)
                self._step = to_step
                scores = (NOT_A_NUMBER,) * len(self._pairs)
                points += [point for point in chunk if point.step < to_step]
                return Measurement(to_step, (*points, last), scores, time.monotonic() - began)
            if target < to_step:
                chunk[-1] = _with_score(chunk[-1], self._score(self._pairs[0], self._data.eval))
            points += chunk
        scores = tuple(self._score(pair, self._data.eval) for pair in self._pairs)
        points[-1] = _with_score(points[-1], scores[0])
        return Measurement(to_step, tuple(points), scores, time.monotonic() - began)

    def state(self) -> bytes:
        """Everything that is needed to go on from here in another process."""
        self._check(self._step + 1)
        return checkpoint.dump(self._program.save(), self._step, self._key)

    def weights(self) -> NDArray[np.float32]:
        """[P]: the raw weights, flat."""
        return self._program.save().weights

    def evaluation_matrix(self, which: int) -> list[dict[str, Any]]:
        """Loss and accuracy for each kind of weights, of statistics, and each held-out part."""
        momentum, decay = self._pairs[which]
        weights = {"raw": self._program.weights_for(None)}
        if decay > 0:
            weights["averaged"] = self._program.weights_for(self._decays.index(decay))
        rows = []
        for weights_name, flat in weights.items():
            for statistics_name, statistics in self._statistics(flat, momentum).items():
                for part_name in ("eval", "test"):
                    part: Part = getattr(self._data, part_name)
                    score = self._program.evaluator.score(flat, statistics, part)
                    rows.append(
                        {
                            "weights": weights_name,
                            "statistics": statistics_name,
                            "part": part_name,
                            "loss": score.eval_loss,
                            "accuracy": score.eval_accuracy,
                        }
                    )
        return rows

    def _statistics(self, flat: Any, momentum: float) -> dict[str, Any]:
        moving = self._program.statistics_for(self._momenta.index(momentum))
        if not self._settings.model.sites:
            return {"none": moving}
        batch = self._settings.train.batch_size
        again = self._program.evaluator.reestimate(flat, self._data.train, batch)
        return {"batch": None, "moving": moving, "re-estimated": again}

    def _check(self, to_step: int) -> None:
        if self._program.owner is not self:
            raise RuntimeError("this run was given up: another run of the same structure began in this process")
        if to_step <= self._step:
            raise ValueError(f"to_step is {to_step}, but must be above the current step, {self._step}")

    def _train_to(self, target: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        train = self._settings.train
        num_images = len(self._data.train.labels)
        indices = batch_indices(self._seed, num_images, train.batch_size, self._step, target)
        return self._program.train(
            indices, self._step, train.learning_rate, train.weight_decay, self._momenta, self._decays
        )

    def _points(
        self, target: int, losses: NDArray[np.float32], penalties: NDArray[np.float32]
    ) -> list[CurvePoint]:
        """Points at every ``report_every``-th step up to ``target``, and one at ``target``; moves to it."""
        every, first = self._settings.train.report_every, self._step
        ends = [*(step for step in range(first + 1, target) if step % every == 0), target]
        points, start = [], 0
        for end in ends:
            window = slice(start, end - first)
            loss = float(np.mean(losses[window], dtype=np.float64))
            points.append(CurvePoint(end, loss, metrics={"l2_loss": float(penalties[window][-1])}))
            start = end - first
        self._step = target
        return points

    def _score(self, pair: tuple[float, float], part: Part) -> Score:
        momentum, decay = pair
        weights = self._program.weights_for(self._decays.index(decay) if decay > 0 else None)
        statistics = self._program.statistics_for(self._momenta.index(momentum))
        return self._program.evaluator.score(weights, statistics, part)


def _with_score(point: CurvePoint, score: Score) -> CurvePoint:
    return CurvePoint(point.step, point.train_loss, score, point.metrics)
