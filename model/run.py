"""A trajectory under way: trains to a step, measures every readout there, and can be saved at any rung."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model import checkpoint
from model.config import TrialSettings, check_images
from model.data import Dataset, Part, batch_indices, load
from model.devices import Placement, memory_mib, place
from model.measurement import CurvePoint, Measurement, Score
from model.preprocessing import Preprocessing
from model.readings import Reading, reading, reading_of
from model.reference_losses import references
from model.schedule import learning_rates
from model.training import Program
from model.trajectory import Hyper, Readouts, Snapshot, StepLog, Structure

if TYPE_CHECKING:
    from model.trial import Devices

NOT_A_NUMBER = Score(float("nan"), float("nan"))

# Metrics that tell of the machine, not of the trial: they differ from run to run.
OF_THE_MACHINE = ("images_per_second", "memory_mib")

# Traced programs of this process, by structure, the latest used last. Each takes about a second to trace, and
# holds a graph and a copy of the data.
_programs: dict[tuple[Structure, Placement], Program] = {}
MAX_PROGRAMS = 16


def _program(settings: TrialSettings, data: Dataset, placement: Placement) -> Program:
    key = (Structure.of(settings), placement)
    program = _programs.pop(key, None) or Program(key[0], placement, data)
    _programs[key] = program
    if len(_programs) > MAX_PROGRAMS:
        del _programs[next(iter(_programs))]
    return program


def place_for(settings: TrialSettings, data: Dataset, devices: Devices) -> Placement:
    """Set up the devices of this process for a trial on this data."""
    height, width, _ = Preprocessing(settings.data, data.mean, data.deviation).output_shape(data.image_shape)
    where = settings.model.variable_placement
    return place(devices.num_towers, devices.gpus_per_tower, devices.threads, where, pixels=height * width)


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
        self._data = load(settings.data)
        check_images(settings, len(self._data.train.labels), self._data.image_shape)
        placement = place_for(settings, self._data, devices)
        train = settings.train
        self._settings, self._pairs, self._key, self._placement = settings, list(pairs), key, placement
        self._order_seed = seed if train.order_seed is None else train.order_seed
        self._momenta = sorted({momentum for momentum, _ in pairs})
        self._decays = sorted({decay for _, decay in pairs if decay > 0})
        self._references = references(settings, self._data.num_classes, self._data.label_entropy())
        self._program = _program(settings, self._data, placement)
        shape = self._program.layout, self._program.structure
        counts = len(self._decays), len(self._momenta)
        if state is None:
            init_seed = seed if train.init_seed is None else train.init_seed
            snapshot, self._step = Snapshot.initial(*shape, init_seed, *counts), 0
        else:
            snapshot, self._step = checkpoint.load(state, key, Snapshot.shapes(*shape, *counts))
        self._program.owner = self
        self._program.load(snapshot)

    def advance(self, to_step: int, num_scored: int | None = None) -> Measurement:
        """Train up to ``to_step`` and measure every readout there, or only the first ``num_scored``.

        A loss that is no longer finite ends the training at once: the measurement then says so at ``to_step``, and
        where training halted before that.
        """
        began = time.monotonic()
        self._check(to_step)
        pairs = self._pairs[:num_scored]
        every = self._settings.train.eval_every
        points: list[CurvePoint] = []
        while self._step < to_step:
            target = min(to_step, (self._step // every + 1) * every)
            chunk, finite = self._train_to(target)
            points += chunk
            if not finite:
                self._step = to_step
                points[-1] = replace(points[-1], train_loss=float("nan"), score=NOT_A_NUMBER)
                if target < to_step:
                    points.append(CurvePoint(to_step, float("nan"), NOT_A_NUMBER))
                return self._measurement(points, (NOT_A_NUMBER,) * len(pairs), began)
            if target < to_step:
                points[-1] = replace(points[-1], score=self._scores(pairs[:1], self._data.eval)[0])
        scores = self._scores(pairs, self._data.eval)
        points[-1] = replace(points[-1], score=scores[0])
        ended = to_step >= self._settings.train.steps
        test_scores = self._test_scores(pairs, scores) if ended else ()
        return replace(self._measurement(points, scores, began), test_scores=test_scores)

    def state(self) -> bytes:
        """Everything that is needed to go on from here in another process."""
        self._check(self._step + 1)
        return checkpoint.dump(self._program.save(), self._step, self._key)

    def weights(self) -> NDArray[np.float32]:
        """[P]: the raw weights, flat."""
        return self._program.save().weights

    def evaluation_matrix(self, which: int) -> list[dict[str, Any]]:
        """Loss and accuracy for each kind of weights, of statistics, and each held-out part."""
        pair = self._pairs[which]
        rows = []
        for weights in ("raw", "averaged") if pair[1] > 0 else ("raw",):
            for kind in self._kinds_of_statistics(pair[1]):
                read = reading_of(*self._where(), pair, kind, averaged=weights == "averaged")
                for part in ("eval", "test"):
                    (score,) = self._read(read.weights, [read], getattr(self._data, part))
                    rows.append(
                        {
                            "weights": weights,
                            "statistics": kind,
                            "part": part,
                            "loss": score.eval_loss,
                            "accuracy": score.eval_accuracy,
                        }
                    )
        return rows

    def _kinds_of_statistics(self, decay: float) -> list[str]:
        model = self._settings.model
        if not model.sites:
            return ["none"]
        averaged = ["averaged"] if model.ema_statistics and decay > 0 else []
        return ["batch", "moving", *averaged, "re-estimated"]

    def _measurement(self, points: list[CurvePoint], scores: tuple[Score, ...], began: float) -> Measurement:
        return Measurement(self._step, tuple(points), scores, time.monotonic() - began, self._references)

    def _check(self, to_step: int) -> None:
        if self._program.owner is not self:
            raise RuntimeError("this run was given up: another run of the same structure began in this process")
        if to_step <= self._step:
            raise ValueError(f"to_step is {to_step}, but must be above the current step, {self._step}")

    def _train_to(self, target: int) -> tuple[list[CurvePoint], bool]:
        """The curve up to ``target``, and whether all its losses are finite."""
        began, first = time.monotonic(), self._step
        ends = self._ends(first, target)
        log = self._run_steps(first, target, ends)
        seconds = time.monotonic() - began
        self._step = target
        points = self._points(first, ends, log)
        of_the_machine = {
            "images_per_second": (target - first) * self._settings.train.batch_size / seconds,
            "memory_mib": memory_mib(self._placement),
        }
        points[-1] = replace(points[-1], metrics={**points[-1].metrics, **of_the_machine})
        return points, bool(np.isfinite(log.losses).all())

    def _run_steps(self, first: int, target: int, ends: Sequence[int]) -> StepLog:
        train = self._settings.train
        num_images = len(self._data.train.labels)
        reported = np.zeros(target - first, bool)
        reported[np.array(ends) - first - 1] = True
        momentum, decay = self._pairs[0]
        watched = self._momenta.index(momentum), self._decays.index(decay) if decay > 0 else len(self._decays)
        return self._program.train(
            batch_indices(self._order_seed, num_images, train.batch_size, first, target),
            reported,
            learning_rates(train, first, target),
            first,
            self._order_seed % 2**63,
            Hyper.of(train),
            Readouts(self._momenta, self._decays, watched),
        )

    def _ends(self, first: int, target: int) -> list[int]:
        """Every ``report_every``-th step up to ``target``, and ``target``."""
        every = self._settings.train.report_every
        return [*(step for step in range(first + 1, target) if step % every == 0), target]

    def _points(self, first: int, ends: Sequence[int], log: StepLog) -> list[CurvePoint]:
        points, start = [], 0
        for end in ends:
            window, last = slice(start, end - first), end - first - 1
            metrics = {
                "l2_loss": _mean(log.penalties[window]),
                "gradient_norm": _mean(log.gradient_norms[window]),
            }
            diagnostics = zip(self._program.diagnostics.names, log.diagnostics[last], strict=True)
            metrics |= {name: float(value) for name, value in diagnostics}
            points.append(CurvePoint(end, _mean(log.losses[window]), metrics=metrics))
            start = end - first
        return points

    def _where(self) -> tuple[TrialSettings, list[float], list[float], int]:
        return self._settings, self._momenta, self._decays, self._step

    def _scores(self, pairs: Sequence[tuple[float, float]], part: Part) -> tuple[Score, ...]:
        """One a pair. Readouts that read the same are scored once, those with the same weights in one pass."""
        readings = [reading(*self._where(), pair) for pair in pairs]
        found: dict[Reading, Score] = {}
        for weights in dict.fromkeys(read.weights for read in readings):
            wanted = list(dict.fromkeys(read for read in readings if read.weights == weights))
            found |= zip(wanted, self._read(weights, wanted, part), strict=True)
        return tuple(found[read] for read in readings)

    def _test_scores(
        self, pairs: Sequence[tuple[float, float]], scores: Sequence[Score]
    ) -> tuple[Score | None, ...]:
        """The best readout's. Only the best of a run can be the best of a sweep; the others would cost as much."""
        finite = [index for index, score in enumerate(scores) if isfinite(score.eval_loss)]
        told: list[Score | None] = [None] * len(scores)
        if finite:
            best = min(finite, key=lambda index: scores[index].eval_loss)
            (told[best],) = self._scores([pairs[best]], self._data.test)
        return tuple(told)

    def _read(self, row: int | None, readings: Sequence[Reading], part: Part) -> list[Score]:
        """Scores of readings that have the weights' ``row`` and the kind of statistics in common."""
        program, evaluator = self._program, self._program.evaluator
        weights, batch_size = program.weights_for(row), self._settings.train.batch_size
        match readings[0].statistics:
            case "batch":
                return [evaluator.score_by_batch(weights, part, batch_size // self._settings.model.towers)]
            case "averaged":
                given = tf.stack([program.averaged_statistics_for(read.momentum, read.decay) for read in readings])
            case "re-estimated":
                given = evaluator.reestimate(weights, self._data.train, batch_size)[tf.newaxis]
            case _:
                rows = [read.momentum for read in readings]
                given = program.statistics_for(rows, self._momenta, self._step)
        return evaluator.scores(weights, given, part)


def _mean(values: NDArray[np.float32]) -> float:
    return float(np.mean(values, dtype=np.float64))
