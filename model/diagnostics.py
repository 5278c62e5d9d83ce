"""What is looked at besides the loss, at every report: how far weights and averages are from each other."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from model.network import Layout


class Diagnostics:
    """Taken inside the traced step; ``names`` are the entries of what ``take`` returns.

    - update_ratio/LAYER: ``||dW|| / ||W||`` of the layer's kernel, as this step changed and left it. With BN it is
      the rate at which a scale-invariant layer turns (van Laarhoven, arXiv 1706.05350).
    - logits_stddev: the deviation of a logit over a tower's images, as a root mean square over classes and towers.
    - ema_distance: ``||shadow - W|| / ||W||``, 0 without an average.
    - bn_mean_distance: root mean square over channels of (moving mean - batch mean) / batch deviation.
    - bn_variance_distance: root mean square over channels of ln((moving variance + eps) / (batch variance + eps)).
    """

    def __init__(self, layout: Layout, epsilon: float) -> None:
        self._sizes = layout.sizes
        self._kernels = [i for i, v in enumerate(layout.variables) if v.name.endswith("/kernel")]
        self._epsilon = epsilon
        layers = [layout.variables[i].name.removesuffix("/kernel") for i in self._kernels]
        self.names = [*(f"update_ratio/{layer}" for layer in layers), "logits_stddev", "ema_distance"]
        if layout.num_statistics:
            self.names += ["bn_mean_distance", "bn_variance_distance"]
        self._has_bn = bool(layout.num_statistics)

    def take(
        self,
        rate: tf.Tensor,
        direction: tf.Tensor,
        weights: tf.Tensor,
        logits: Sequence[tf.Tensor],
        shadow: tf.Tensor,
        moving: tf.Tensor,
        batch: tf.Tensor,
    ) -> tf.Tensor:
        """[names]. rate [] times direction [P] was taken from the weights [P], which are as they are now; logits:
        each tower's [N, classes]; shadow: [1, P], or [0, P] without one; moving, batch: [2 S]."""
        directions, kernels = tf.split(direction, self._sizes), tf.split(weights, self._sizes)
        values = [_ratio(rate * _norm(directions[i]), _norm(kernels[i])) for i in self._kernels]
        variances = [tf.reduce_mean(tf.math.reduce_variance(each, axis=0)) for each in logits]
        values.append(tf.sqrt(tf.add_n(variances) / len(variances)))
        values.append(_ratio(_norm(shadow - weights), _norm(weights)))
        if self._has_bn:
            (moving_mean, moving_variance), (mean, variance) = tf.split(moving, 2), tf.split(batch, 2)
            values.append(_root_mean_square((moving_mean - mean) / tf.sqrt(variance + self._epsilon)))
            ratio = (moving_variance + self._epsilon) / (variance + self._epsilon)
            values.append(_root_mean_square(tf.math.log(ratio)))
        return tf.stack(values)


def _norm(values: tf.Tensor) -> tf.Tensor:
    """In one operation more than the sum itself; tf.norm makes copies."""
    return tf.sqrt(2 * tf.nn.l2_loss(values))


def _ratio(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(numerator, denominator)


def _root_mean_square(values: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(tf.square(values)))
