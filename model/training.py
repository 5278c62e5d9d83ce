"""A traced training program for one structure of network, reused by every trajectory of that structure.

Learning rate, weight decay, momenta and decays are tensors: changing them never traces again. Several steps run in
one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model.config import ModelSettings
from model.data import Dataset
from model.devices import Placement
from model.evaluation import Evaluator
from model.moving_averages import effective_decays, initial_statistics, update_shadows, update_statistics
from model.network import Layout
from model.towers import run_towers

# Adam's constants (Kingma & Ba, arXiv 1412.6980), with TensorFlow's epsilon outside the bias correction.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-7

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Snapshot:
    """The whole numeric state of a run: weights and Adam's moments [P], shadows [D, P], statistics [M, 2 S]."""

    weights: Array
    first_moment: Array
    second_moment: Array
    shadows: Array
    moving: Array

    @staticmethod
    def shapes(layout: Layout, num_decays: int, num_momenta: int) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by its name."""
        p, s = layout.num_weights, 2 * layout.num_statistics
        flat = dict.fromkeys(("weights", "first_moment", "second_moment"), (p,))
        return {**flat, "shadows": (num_decays, p), "moving": (num_momenta, s)}

    @classmethod
    def initial(cls, layout: Layout, seed: int, num_decays: int, num_momenta: int) -> Snapshot:
        """A fresh run: shadows start at the initial weights, statistics at (0, 1)."""
        weights = layout.initial_weights(seed)
        zeros = np.zeros_like(weights)
        shadows = np.tile(weights, (num_decays, 1))
        return cls(weights, zeros, zeros, shadows, initial_statistics(num_momenta, layout.num_statistics))


class Program:
    """Variables, data on the devices, and the traced step. One run at a time may own it."""

    def __init__(
        self, layout: Layout, model: ModelSettings, batch_size: int, placement: Placement, data: Dataset
    ) -> None:
        self.layout = layout
        self._model = model
        self._placement = placement
        self.owner: object = None
        with tf.device(placement.variables):
            p, s = layout.num_weights, 2 * layout.num_statistics
            self._weights = tf.Variable(tf.zeros([p]), trainable=False, name="weights")
            self._first = tf.Variable(tf.zeros([p]), trainable=False, name="adam_m")
            self._second = tf.Variable(tf.zeros([p]), trainable=False, name="adam_v")
            # The number of rows differs between trajectories; the traced step serves them all.
            self._shadows = tf.Variable(tf.zeros([0, p]), trainable=False, shape=[None, p], name="shadows")
            self._moving = tf.Variable(tf.zeros([0, s]), trainable=False, shape=[None, s], name="moving")
            self._penalty_mask = tf.constant(layout.penalty_mask())
        self._images, self._labels = [], []
        for device in placement.towers:
            with tf.device(device):
                self._images.append(tf.identity(tf.constant(data.train.images)))
                self._labels.append(tf.identity(tf.constant(data.train.labels)))
        with tf.device(placement.towers[0]):
            self.evaluator = Evaluator(layout, model)
        self._train = tf.function(
            self._train_steps,
            input_signature=[
                tf.TensorSpec([None, batch_size], tf.int32),
                tf.TensorSpec([], tf.int32),
                tf.TensorSpec([], tf.float32),
                tf.TensorSpec([], tf.float32),
                tf.TensorSpec([None], tf.float32),
                tf.TensorSpec([None], tf.float32),
            ],
        )

    def load(self, snapshot: Snapshot) -> None:
        """Set all variables."""
        self._weights.assign(snapshot.weights)
        self._first.assign(snapshot.first_moment)
        self._second.assign(snapshot.second_moment)
        self._shadows.assign(snapshot.shadows)
        self._moving.assign(snapshot.moving)

    def save(self) -> Snapshot:
        """Read all variables."""
        variables = (self._weights, self._first, self._second, self._shadows, self._moving)
        return Snapshot(*(variable.numpy() for variable in variables))

    def train(
        self,
        indices: NDArray[np.int32],
        first_step: int,
        learning_rate: float,
        weight_decay: float,
        momenta: Sequence[float],
        decays: Sequence[float],
    ) -> tuple[Array, Array]:
        """Run ``len(indices)`` steps. Returns each step's cross-entropy and L2 penalty, [steps] each."""
        losses, penalties = self._train(
            tf.constant(indices),
            tf.constant(first_step, tf.int32),
            tf.constant(learning_rate, tf.float32),
            tf.constant(weight_decay, tf.float32),
            tf.constant(momenta, tf.float32, shape=[len(momenta)]),
            tf.constant(decays, tf.float32, shape=[len(decays)]),
        )
        return losses.numpy(), penalties.numpy()

    def weights_for(self, row: int | None) -> tf.Tensor:
        """[P]: the raw weights, or those of a shadow row."""
        return self._weights.read_value() if row is None else self._shadows[row]

    def statistics_for(self, row: int) -> tf.Tensor:
        """[2 S]: the moving statistics of a momentum's row."""
        return self._moving[row]

    def _train_steps(
        self,
        indices: tf.Tensor,
        first_step: tf.Tensor,
        learning_rate: tf.Tensor,
        weight_decay: tf.Tensor,
        momenta: tf.Tensor,
        decays: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        num_steps = tf.shape(indices)[0]
        losses = tf.TensorArray(tf.float32, size=num_steps)
        penalties = tf.TensorArray(tf.float32, size=num_steps)
        for i in tf.range(num_steps):
            loss, penalty = self._step(indices[i], first_step + i, learning_rate, weight_decay, momenta, decays)
            losses = losses.write(i, loss)
            penalties = penalties.write(i, penalty)
        return losses.stack(), penalties.stack()

    def _step(
        self,
        indices: tf.Tensor,
        step: tf.Tensor,
        learning_rate: tf.Tensor,
        weight_decay: tf.Tensor,
        momenta: tf.Tensor,
        decays: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        flat = self._weights.read_value()
        towers = run_towers(
            self.layout, self._model, self._placement.towers, flat, self._images, self._labels, indices
        )
        with tf.device(self._placement.variables):
            penalised = self._penalty_mask * flat
            gradient = tf.add_n([tower.gradient for tower in towers]) / len(towers) + weight_decay * penalised
            done = step + 1
            self._apply_adam(gradient, learning_rate, tf.cast(done, tf.float32))
            self._update_averages([tower.statistics for tower in towers], done, momenta, decays)
            loss = tf.add_n([tower.loss for tower in towers]) / len(towers)
            return loss, weight_decay * tf.nn.l2_loss(penalised)

    def _apply_adam(self, gradient: tf.Tensor, learning_rate: tf.Tensor, t: tf.Tensor) -> None:
        tf.raw_ops.ResourceApplyAdam(
            var=self._weights.handle,
            m=self._first.handle,
            v=self._second.handle,
            beta1_power=tf.pow(BETA1, t),
            beta2_power=tf.pow(BETA2, t),
            lr=learning_rate,
            beta1=BETA1,
            beta2=BETA2,
            epsilon=EPSILON,
            grad=gradient,
        )

    def _update_averages(
        self, statistics: list[tf.Tensor], done: tf.Tensor, momenta: tf.Tensor, decays: tf.Tensor
    ) -> None:
        if self.layout.num_statistics:
            which = self._model.bn_tower_updates
            self._moving.assign(update_statistics(self._moving.read_value(), momenta, statistics, which))
        effective = effective_decays(decays, done, warmup=self._model.ema_warmup)
        self._shadows.assign(update_shadows(self._shadows.read_value(), effective, self._weights.read_value()))
