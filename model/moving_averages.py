"""Averages that training writes and only evaluation reads: moving statistics and shadow variables.

All are stacked, one row a distinct momentum or decay, so that many readouts cost a few operations. Neither can
change the weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def initial_statistics(
    num_momenta: int, num_statistics: int, mean: float = 0.0, variance: float = 1.0
) -> NDArray[np.float32]:
    """[momenta, 2 S]: means, then variances; by default 0 and 1, as tf.contrib.layers.batch_norm starts."""
    row = np.repeat(np.array([mean, variance], np.float32), num_statistics)
    return np.tile(row, (num_momenta, 1))


def update_statistics(moving: tf.Tensor, momenta: tf.Tensor, towers: Sequence[tf.Tensor], which: str) -> tf.Tensor:
    """``moving <- momentum * moving + (1 - momentum) * batch``.

    moving: [M, 2 S]; momenta: [M]; towers: each tower's batch statistics [2 S]. ``which``: "mean" of the towers,
    the "first", the "last", or "all": each in turn, so that the effective momentum is momentum ** len(towers).
    """
    chosen = {
        "mean": [tf.add_n(list(towers)) / len(towers)],
        "first": towers[:1],
        "last": towers[-1:],
        "all": towers,
    }
    weight = 1.0 - momenta[:, tf.newaxis]
    for batch in chosen[which]:
        moving = moving - weight * (moving - batch)
    return moving


def zero_debiased(moving: tf.Tensor, momenta: tf.Tensor, updates: tf.Tensor) -> tf.Tensor:
    """Moving means that started at 0, divided by what weight ``updates`` batches have together.

    moving: [M, 2 S]; momenta: [M]; updates: []. The variances stay as they are, as in
    tf.contrib.layers.batch_norm(zero_debias_moving_mean=True). Before the first update nothing is divided.
    """
    means, variances = tf.split(moving, 2, axis=1)
    weight = 1.0 - tf.pow(momenta, tf.cast(updates, tf.float32))
    return tf.concat([means / tf.where(weight > 0, weight, 1.0)[:, tf.newaxis], variances], axis=1)


def effective_decays(decays: tf.Tensor, step: tf.Tensor, *, warmup: bool) -> tf.Tensor:
    """``decays`` [D] at a step [], or at several [K]: then [K, D].

    With warm-up ``min(decay, (1 + t) / (10 + t))``, t being the steps done (num_updates in TensorFlow).
    """
    t = tf.cast(step, tf.float32)[..., tf.newaxis]
    return tf.minimum(decays, (1.0 + t) / (10.0 + t) if warmup else tf.ones_like(t))


def blend_shadows(shadows: tf.Tensor, decays: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """What ``update_shadows`` makes of several steps in turn, as one matrix product.

    shadows: [D, P]; decays: [K, D], a row a step; values: [K, P]. Only rounding differs.
    """
    after = tf.math.cumprod(decays, axis=0, exclusive=True, reverse=True)
    kept = tf.reduce_prod(decays, axis=0)[:, tf.newaxis]
    return kept * shadows + tf.matmul((1.0 - decays) * after, values, transpose_a=True)


def update_shadows(shadows: tf.Tensor, decays: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """``shadow <- decay * shadow + (1 - decay) * value``. shadows: [D, ...]; decays: [D]; values: [...]."""
    weight = tf.reshape(1.0 - decays, [-1] + [1] * values.shape.rank)
    return shadows - weight * (shadows - values)
