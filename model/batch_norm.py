"""Batch normalization of one site: with the batch's own statistics in training, with given ones in evaluation."""

from __future__ import annotations

import tensorflow as tf


def _as_image(x: tf.Tensor) -> tf.Tensor:
    """[N, C] -> [N, 1, 1, C]: the fused kernel takes images only."""
    return x if x.shape.rank == 4 else tf.reshape(x, [-1, 1, 1, x.shape[-1]])


def _scale_and_offset(
    channels: int, gamma: tf.Tensor | None, beta: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    scale = tf.ones([channels]) if gamma is None else gamma
    return scale, tf.zeros([channels]) if beta is None else beta


def normalize_batch(
    x: tf.Tensor, gamma: tf.Tensor | None, beta: tf.Tensor | None, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Training mode: ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, over all axes but the last.

    Returns the normalized x, the batch mean [C] and the batch's population variance [C] (divided by N*H*W, as
    tf.nn.moments and TensorFlow r0.11 have it; the fused kernel's own output has Bessel's correction).
    """
    images = _as_image(x)
    scale, offset = _scale_and_offset(x.shape[-1], gamma, beta)
    normalized, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=images, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.reduce_prod(tf.shape(images)[:-1]), tf.float32)
    return tf.reshape(normalized, tf.shape(x)), mean, variance * tf.maximum(count - 1.0, 1.0) / count


def normalize_with(
    x: tf.Tensor,
    gamma: tf.Tensor | None,
    beta: tf.Tensor | None,
    epsilon: float,
    mean: tf.Tensor,
    variance: tf.Tensor,
) -> tf.Tensor:
    """Evaluation: the same with given ``mean`` and ``variance`` [C]."""
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
