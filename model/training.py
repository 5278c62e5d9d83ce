"""A traced training program for one structure of network, reused by every trajectory of that structure.

Learning rates, decays, momenta, clip norms and seeds are tensors: changing them never traces again. Several steps
run in one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model.data import Dataset
from model.devices import Placement
from model.diagnostics import Diagnostics
from model.evaluation import Evaluator
from model.feeding import Feed, NextBatches
from model.moving_averages import (
    effective_decays,
    update_shadows,
    update_statistics,
    zero_debiased,
)
from model.network import Layout, make_layout
from model.preprocessing import Preprocessing
from model.shadows import Shadows, block_sizes
from model.towers import TowerResult, run_towers
from model.trajectory import Array, Hyper, Readouts, Snapshot, StepLog, Structure

# What the diagnostics look at of a tower's step: its statistics [2 S] and logits [N, classes]
Seen = tuple["tf.Tensor", "tf.Tensor"]


class Program:
    """Variables, data on the devices, and the traced step. One run at a time may own it."""

    def __init__(self, structure: Structure, placement: Placement, data: Dataset) -> None:
        self.structure = structure
        self.preprocessing = Preprocessing(structure.data, data.mean, data.deviation)
        self.layout = make_layout(
            structure.model, self.preprocessing.output_shape(data.image_shape), data.num_classes
        )
        self.owner: object = None
        self._num_classes = data.num_classes
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
                tf.TensorSpec([None], tf.int32),
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
            tf.constant(block_sizes(reported)),
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
        return self._weights.read_value() if row is None else self._shadows.variable.sparse_read(row)

    def statistics_for(self, rows: Sequence[int], momenta: Sequence[float], step: int) -> tf.Tensor:
        """[rows, 2 S]: the moving statistics of momenta after ``step`` steps, debiased where that is asked."""
        moving = self._moving.sparse_read(rows)
        return self._debiased(moving, tf.constant([momenta[row] for row in rows]), tf.constant(step, tf.int64))

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
        blocks: tf.Tensor,
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

        def one_block(
            block: tf.Tensor, start: tf.Tensor, scalars: tf.TensorArray, diagnostics: tf.TensorArray
        ) -> tuple[Any, ...]:
            end = start + blocks[block]

            def one_step(i: tf.Tensor, scalars: tf.TensorArray, *_: Seen) -> tuple[Any, ...]:
                done = first_step + tf.cast(i, tf.int64) + 1
                towers = self._run_towers(next_batches, i, done - 1, numbers)
                row = self._update(towers, done, learning_rates[i], numbers, momenta, decays)
                with tf.device(self._placement.variables):
                    self._shadows.put_aside(self._weights.read_value(), decays, i - start)
                return i + 1, scalars.write(i, row), *((tower.statistics, tower.logits) for tower in towers)

            _, scalars, *seen = tf.while_loop(
                lambda i, *_: i < end, one_step, (start, scalars, *self._nothing_seen())
            )
            last, done = end - 1, first_step + tf.cast(end, tf.int64)
            with tf.device(self._placement.variables):
                self._shadows.take_in(decays, end - start, done)
            rate = learning_rates[last]
            taken = self._diagnose_if(reported[last], seen, done, rate, numbers, momenta, watched)
            return block + 1, end, scalars, diagnostics.write(last, taken)

        # Loops that are written out: AutoGraph would take seconds to rewrite all that is called within them. One
        # within the other, as what a step may leave out (a condition) costs it nearly as much as what it does.
        num_blocks, zero = tf.size(blocks), tf.constant(0)
        _, _, scalars, diagnostics = tf.while_loop(
            lambda block, *_: block < num_blocks, one_block, (zero, zero, scalars, diagnostics)
        )
        return (*tf.unstack(scalars.stack(), axis=1), diagnostics.stack())

    def _nothing_seen(self) -> list[Seen]:
        share = self.structure.batch_size // len(self._placement.towers)
        found = []
        for device in self._placement.towers:
            with tf.device(device):
                found.append((tf.zeros([2 * self.layout.num_statistics]), tf.zeros([share, self._num_classes])))
        return found

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

    def _last_change(self, learning_rate: tf.Tensor, done: tf.Tensor, hyper: Hyper) -> tuple[tf.Tensor, tf.Tensor]:
        """What the optimizer has just taken from the weights, as a rate [] times a direction [P].

        From its slots; a copy of the weights would cost every step.
        """
        first, second = self._variables["first_moment"], self._variables["second_moment"]
        if self.structure.optimizer == "sgd":
            return learning_rate, first.read_value()
        t = tf.cast(done, tf.float32)
        rate = learning_rate * tf.sqrt(1.0 - tf.pow(hyper.beta2, t)) / (1.0 - tf.pow(hyper.beta1, t))
        return rate, first / (tf.sqrt(second) + hyper.epsilon)

    def _diagnose_if(
        self,
        wanted: tf.Tensor,
        seen: list[Seen],
        done: tf.Tensor,
        learning_rate: tf.Tensor,
        hyper: Hyper,
        momenta: tf.Tensor,
        watched: tf.Tensor,
    ) -> tf.Tensor:
        def diagnose() -> tf.Tensor:
            row = watched[0]
            moving = self._debiased(self._moving[row : row + 1], momenta[row : row + 1], done)[0]
            batch = tf.add_n([statistics for statistics, _ in seen]) / len(seen)
            shadow = self._shadows.variable[watched[1] : watched[1] + 1]  # Up to date, as a block has just ended.
            return self.diagnostics.take(
                *self._last_change(learning_rate, done, hyper),
                self._weights.read_value(),
                [logits for _, logits in seen],
                shadow,
                moving,
                batch,
            )

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
