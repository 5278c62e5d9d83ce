"""A traced training program for one structure of network, reused by every trajectory of that structure.

Learning rates, decays, momenta, clip norms and seeds are tensors: changing them never traces again. Several steps
run in one call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.data import Dataset
from model.devices import Placement
from model.diagnostics import Diagnostics
from model.evaluation import Evaluator
from model.feeding import Feed, NextBatches
from model.moving_averages import (
    effective_decays,
    initial_statistics,
    update_shadows,
    update_statistics,
    zero_debiased,
)
from model.network import Layout, make_layout
from model.preprocessing import Preprocessing
from model.shadows import Shadows
from model.towers import TowerResult, run_towers

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Structure:
    """All that a traced step depends on: settings that differ in nothing else share one."""

    data: DataSettings
    model: ModelSettings
    batch_size: int
    optimizer: str
    smoothed: bool

    @classmethod
    def of(cls, settings: TrialSettings) -> Structure:
        """The structure of a trial; its readouts are tensors."""
        model = ModelSettings(**{**vars(settings.model), "bn_momentum": 0.0, "ema_decay": 0.0})
        train = settings.train
        return cls(settings.data, model, train.batch_size, train.optimizer, train.label_smoothing > 0)


@dataclass(frozen=True)
class Snapshot:
    """The whole numeric state of a run.

    weights [P]; the optimizer's slots [P] (SGD has one: the second is empty); shadows [D, P]; moving statistics
    [M, 2 S] (not debiased); their averages [D, M, 2 S], empty unless they are asked for.
    """

    weights: Array
    first_moment: Array
    second_moment: Array
    shadows: Array
    moving: Array
    moving_shadows: Array

    @staticmethod
    def shapes(
        layout: Layout, structure: Structure, num_decays: int, num_momenta: int
    ) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by its name."""
        p, s = layout.num_weights, 2 * layout.num_statistics
        averaged = num_decays if structure.model.ema_statistics else 0
        return {
            "weights": (p,),
            "first_moment": (p,),
            "second_moment": (p if structure.optimizer == "adam" else 0,),
            "shadows": (num_decays, p),
            "moving": (num_momenta, s),
            "moving_shadows": (averaged, num_momenta, s),
        }

    @classmethod
    def initial(
        cls, layout: Layout, structure: Structure, seed: int, num_decays: int, num_momenta: int
    ) -> Snapshot:
        """A fresh run: shadows start at the initial weights and statistics."""
        model, weights = structure.model, layout.initial_weights(seed)
        moving = initial_statistics(
            num_momenta, layout.num_statistics, model.bn_initial_mean, model.bn_initial_variance
        )
        arrays = {
            name: np.zeros(shape, np.float32)
            for name, shape in cls.shapes(layout, structure, num_decays, num_momenta).items()
        }
        arrays["shadows"][:] = weights
        arrays["moving_shadows"][:] = moving
        return cls(**{**arrays, "weights": weights, "moving": moving})


@dataclass(frozen=True)
class Hyper:
    """A trajectory's numbers that its traced step takes as tensors. ``clip_norm`` is infinite where it is off."""

    weight_decay: float
    clip_norm: float
    label_smoothing: float
    beta1: float
    """Adam's, or SGD's momentum."""
    beta2: float
    epsilon: float

    @classmethod
    def of(cls, train: TrainSettings) -> Hyper:
        """A trial's."""
        return cls(
            weight_decay=train.weight_decay,
            clip_norm=train.clip_norm or float("inf"),
            label_smoothing=train.label_smoothing,
            beta1=train.adam_beta1 if train.optimizer == "adam" else train.sgd_momentum,
            beta2=train.adam_beta2,
            epsilon=train.adam_epsilon,
        )


@dataclass(frozen=True)
class Readouts:
    """The distinct momenta and decays, a row each, and the rows (momentum, decay) that the diagnostics watch."""

    momenta: Sequence[float]
    decays: Sequence[float]
    watched: tuple[int, int]


@dataclass(frozen=True)
class StepLog:
    """What a call's steps were like, a row each: [steps]; diagnostics [steps, names] where they were asked."""

    losses: Array
    penalties: Array
    gradient_norms: Array
    diagnostics: Array


class Program:
    """Variables, data on the devices, and the traced step. One run at a time may own it."""

    def __init__(self, structure: Structure, placement: Placement, data: Dataset) -> None:
        self.structure = structure
        self.preprocessing = Preprocessing(structure.data, data.mean, data.deviation)
        self.layout = make_layout(
            structure.model, self.preprocessing.output_shape(data.image_shape), data.num_classes
        )
        self.owner: object = None
        self._model = structure.model
        self._placement = placement
        self._feed = Feed(data.train, placement, self.preprocessing, structure.batch_size)
        self.diagnostics = Diagnostics(self.layout, structure.model.bn_epsilon)
        with tf.device(placement.variables):
            self._variables = _make_variables(self.layout, structure)
            self._shadows = Shadows(
                self._variables["shadows"], self.layout.num_weights, warmup=structure.model.ema_warmup
            )
            self._penalty_mask = tf.constant(self.layout.penalty_mask())
        with tf.device(placement.towers[0]):
            self.evaluator = Evaluator(
                self.layout, structure.model, self.preprocessing, placement.towers[0], data.train
            )
        vector, whole = tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)
        self._train = tf.function(
            self._train_steps,
            autograph=False,
            input_signature=[
                tf.TensorSpec([None, structure.batch_size], tf.int32),
                tf.TensorSpec([None], tf.bool),
                vector,
                whole,
                whole,
                tf.TensorSpec([len(fields(Hyper))], tf.float32),
                vector,
                vector,
                tf.TensorSpec([2], tf.int32),
            ],
        )

    def load(self, snapshot: Snapshot) -> None:
        """Set all variables."""
        for name, variable in self._variables.items():
            variable.assign(getattr(snapshot, name))

    def save(self) -> Snapshot:
        """Read all variables."""
        return Snapshot(**{name: variable.numpy() for name, variable in self._variables.items()})

    def train(
        self,
        indices: NDArray[np.int32],
        reported: NDArray[np.bool_],
        learning_rates: Array,
        first_step: int,
        seed: int,
        hyper: Hyper,
        readouts: Readouts,
    ) -> StepLog:
        """Run ``len(indices)`` steps. ``reported`` [steps] says after which ones the diagnostics are taken.

        ``seed`` (below 2**63) is the augmentation's.
        """
        log = self._train(
            tf.constant(indices),
            tf.constant(reported),
            tf.constant(learning_rates),
            tf.constant(first_step, tf.int64),
            tf.constant(seed, tf.int64),
            tf.constant([getattr(hyper, each.name) for each in fields(Hyper)], tf.float32),
            tf.constant(readouts.momenta, tf.float32, shape=[len(readouts.momenta)]),
            tf.constant(readouts.decays, tf.float32, shape=[len(readouts.decays)]),
            tf.constant(readouts.watched, tf.int32),
        )
        return StepLog(*(column.numpy() for column in log))

    def weights_for(self, row: int | None) -> tf.Tensor:
        """[P]: the raw weights, or those of a shadow row."""
        return self._weights.read_value() if row is None else self._shadows.variable[row]

    def statistics_for(self, row: int, momentum: float, step: int) -> tf.Tensor:
        """[2 S]: the moving statistics of a momentum's row after ``step`` steps, debiased where that is asked."""
        moving = self._moving[row : row + 1]
        return self._debiased(moving, tf.constant([momentum]), tf.constant(step, tf.int64))[0]

    def averaged_statistics_for(self, momentum_row: int, decay_row: int) -> tf.Tensor:
        """[2 S]: the average that follows a momentum's moving statistics with a decay."""
        return self._variables["moving_shadows"][decay_row, momentum_row]

    @cached_property
    def _weights(self) -> tf.Variable:
        return self._variables["weights"]

    @cached_property
    def _moving(self) -> tf.Variable:
        return self._variables["moving"]

    def _debiased(self, moving: tf.Tensor, momenta: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        if not self._model.bn_zero_debias:
            return moving
        return zero_debiased(moving, momenta, step * self._model.updates_per_step)

    def _train_steps(
        self,
        indices: tf.Tensor,
        reported: tf.Tensor,
        learning_rates: tf.Tensor,
        first_step: tf.Tensor,
        seed: tf.Tensor,
        hyper: tf.Tensor,
        momenta: tf.Tensor,
        decays: tf.Tensor,
        watched: tf.Tensor,
    ) -> tuple[tf.Tensor, ...]:
        numbers = Hyper(*tf.unstack(hyper))
        next_batches = self._feed.start(indices, seed)
        num_steps = tf.shape(indices)[0]
        scalars = tf.TensorArray(tf.float32, size=num_steps, element_shape=[3])
        diagnostics = tf.TensorArray(tf.float32, size=num_steps, element_shape=[len(self.diagnostics.names)])

        def one_step(i: tf.Tensor, scalars: tf.TensorArray, diagnostics: tf.TensorArray) -> tuple[Any, ...]:
            done = first_step + tf.cast(i, tf.int64) + 1
            towers = self._run_towers(next_batches, i, done - 1, numbers)
            scalars = scalars.write(i, self._update(towers, done, learning_rates[i], numbers, momenta, decays))
            last = tf.equal(i, num_steps - 1)
            with tf.device(self._placement.variables):
                self._shadows.follow(self._weights.read_value(), decays, i, done, last)

            def shadow() -> tf.Tensor:
                return self._shadows.row(watched[1], decays, i, done, last)

            taken = self._diagnose_if(
                reported[i], towers, done, learning_rates[i], numbers, momenta, watched[0], shadow
            )
            return i + 1, scalars, diagnostics.write(i, taken)

        # A loop that is written out: AutoGraph would take seconds to rewrite all that is called within it.
        _, scalars, diagnostics = tf.while_loop(
            lambda i, *_: i < num_steps, one_step, (tf.constant(0), scalars, diagnostics)
        )
        return (*tf.unstack(scalars.stack(), axis=1), diagnostics.stack())

    def _run_towers(
        self,
        next_batches: NextBatches,
        i: tf.Tensor,
        step: tf.Tensor,
        hyper: Hyper,
    ) -> list[TowerResult]:
        batches = next_batches(i, step)
        smoothing = hyper.label_smoothing if self.structure.smoothed else None
        flat = self._weights.read_value()
        return run_towers(self.layout, self._model, self._placement.towers, flat, batches, smoothing)

    def _update(
        self,
        towers: list[TowerResult],
        done: tf.Tensor,
        learning_rate: tf.Tensor,
        hyper: Hyper,
        momenta: tf.Tensor,
        decays: tf.Tensor,
    ) -> tf.Tensor:
        """One step of the optimizer and of the averages. Returns the step's row of scalars, in StepLog's order."""
        num_towers = len(towers)
        with tf.device(self._placement.variables):
            # The towers' sum, not their mean: dividing takes a pass over all weights, and clipping does it anyway.
            total, penalty = self._penalise(tf.add_n([tower.gradient for tower in towers]), num_towers, hyper)
            norm = tf.sqrt(2 * tf.nn.l2_loss(total)) / num_towers
            # As tf.clip_by_global_norm; with nothing to clip the factor is exactly 1.
            factor = tf.minimum(1.0, hyper.clip_norm / norm)
            self._apply(total * (factor / num_towers), learning_rate, done, hyper)
            self._update_averages([tower.statistics for tower in towers], done, momenta, decays)
            loss = tf.add_n([tower.loss for tower in towers]) / num_towers
            return tf.stack([loss, penalty, norm])

    def _penalise(self, total: tf.Tensor, num_towers: int, hyper: Hyper) -> tuple[tf.Tensor, tf.Tensor]:
        """The sum [P] of the towers' gradients with that of the L2 penalty, and the penalty []."""

        def with_penalty() -> tuple[tf.Tensor, tf.Tensor]:
            penalised = self._penalty_mask * self._weights.read_value()
            penalty = hyper.weight_decay * tf.nn.l2_loss(penalised)
            return total + num_towers * hyper.weight_decay * penalised, penalty

        with_it, penalty = tf.cond(hyper.weight_decay > 0, with_penalty, lambda: (total, tf.constant(0.0)))
        return with_it, penalty

    def _apply(self, gradient: tf.Tensor, learning_rate: tf.Tensor, done: tf.Tensor, hyper: Hyper) -> None:
        """Adam (Kingma & Ba, arXiv 1412.6980; epsilon outside the bias correction), or TensorFlow's Momentum."""
        first, second = self._variables["first_moment"], self._variables["second_moment"]
        if self.structure.optimizer == "adam":
            t = tf.cast(done, tf.float32)
            tf.raw_ops.ResourceApplyAdam(
                var=self._weights.handle,
                m=first.handle,
                v=second.handle,
                beta1_power=tf.pow(hyper.beta1, t),
                beta2_power=tf.pow(hyper.beta2, t),
                lr=learning_rate,
                beta1=hyper.beta1,
                beta2=hyper.beta2,
                epsilon=hyper.epsilon,
                grad=gradient,
            )
        else:
            tf.raw_ops.ResourceApplyMomentum(
                var=self._weights.handle,
                accum=first.handle,
                lr=learning_rate,
                grad=gradient,
                momentum=hyper.beta1,
            )

    def _update_averages(
        self, statistics: list[tf.Tensor], done: tf.Tensor, momenta: tf.Tensor, decays: tf.Tensor
    ) -> None:
        model = self._model
        if self.layout.num_statistics and model.updates_per_step:
            self._moving.assign(
                update_statistics(self._moving.read_value(), momenta, statistics, model.bn_tower_updates)
            )
        if self.layout.num_statistics and model.ema_statistics:
            effective = effective_decays(decays, done, warmup=model.ema_warmup)
            averaged, moving = self._variables["moving_shadows"], self._moving.read_value()
            averaged.assign(
                update_shadows(averaged.read_value(), effective, self._debiased(moving, momenta, done))
            )

    def _last_change(self, learning_rate: tf.Tensor, done: tf.Tensor, hyper: Hyper) -> tf.Tensor:
        """[P]: what the optimizer has just added to the weights, from its slots; a copy would cost every step."""
        first, second = self._variables["first_moment"], self._variables["second_moment"]
        if self.structure.optimizer == "sgd":
            return -learning_rate * first
        t = tf.cast(done, tf.float32)
        rate = learning_rate * tf.sqrt(1.0 - tf.pow(hyper.beta2, t)) / (1.0 - tf.pow(hyper.beta1, t))
        return -rate * first / (tf.sqrt(second) + hyper.epsilon)

    def _diagnose_if(
        self,
        wanted: tf.Tensor,
        towers: list[TowerResult],
        done: tf.Tensor,
        learning_rate: tf.Tensor,
        hyper: Hyper,
        momenta: tf.Tensor,
        row: tf.Tensor,
        shadow: Callable[[], tf.Tensor],
    ) -> tf.Tensor:
        def diagnose() -> tf.Tensor:
            moving = self._debiased(self._moving[row : row + 1], momenta[row : row + 1], done)[0]
            batch = tf.add_n([tower.statistics for tower in towers]) / len(towers)
            change, logits = self._last_change(learning_rate, done, hyper), [tower.logits for tower in towers]
            return self.diagnostics.take(change, self._weights.read_value(), logits, shadow(), moving, batch)

        with tf.device(self._placement.variables):
            return tf.cond(wanted, diagnose, lambda: tf.zeros([len(self.diagnostics.names)]))


def _make_variables(layout: Layout, structure: Structure) -> dict[str, tf.Variable]:
    """By their names in a snapshot. Rows differ between trajectories; the traced step serves any number."""
    rows = {"shadows": 1, "moving": 1, "moving_shadows": 2}
    found = {}
    for name, shape in Snapshot.shapes(layout, structure, 0, 0).items():
        free = rows.get(name, 0)
        declared = [None] * free + list(shape[free:])
        found[name] = tf.Variable(tf.zeros(shape), trainable=False, shape=declared, name=name)
    return found
