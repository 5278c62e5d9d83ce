"""Batch normalization of one site: with the batch's own statistics in training, with given ones in evaluation.

Variances are the population's (divided by the number of values), as tf.nn.moments and TensorFlow r0.11 have it.
What is normalized is the sum of ``x`` and ``bias``, which nobody need add: only the mean depends on the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

# normalized features, mean [C], variance [C]
Normalized = tuple["tf.Tensor", "tf.Tensor", "tf.Tensor"]


def normalize_batch(
    x: tf.Tensor, bias: tf.Tensor | None, gamma: tf.Tensor | None, beta: tf.Tensor | None, epsilon: float
) -> Normalized:
    """Training mode: ``gamma * (x + bias - mean) / sqrt(variance + epsilon) + beta``, over all axes but the last.

    x: images [N, H, W, C] or features [N, C]. Returns the normalized sum, its batch mean [C] and variance [C].
    """
    channels = x.shape[-1]
    scale = tf.ones([channels]) if gamma is None else gamma
    offset = tf.zeros([channels]) if beta is None else beta
    x = x if bias is None else _with_no_effect(x, bias)
    if x.shape.rank == 4:
        normalized, mean, variance = _fused(x, scale, offset, epsilon)
    else:
        normalized, mean, variance = _two_pass(x, scale, offset, tf.constant(epsilon))
    return normalized, mean if bias is None else mean + bias, variance


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types.
def _with_no_effect(x: tf.Tensor, bias: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
    """x as it is; the bias' gradient is 0, as that of a bias before normalization is but for rounding."""
    return tf.identity(x), lambda upstream: (upstream, tf.zeros_like(bias))


def _fused(x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: float) -> Normalized:
    """TensorFlow's own kernel: of all ways the fastest for images. Bessel's correction is taken out again."""
    normalized, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=[], variance=[], epsilon=epsilon, is_training=True
    )
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), tf.float32)
    return normalized, mean, variance * tf.maximum(count - 1.0, 1.0) / count


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types.
def _two_pass(
    x: tf.Tensor, scale: tf.Tensor, offset: tf.Tensor, epsilon: tf.Tensor
) -> tuple[Normalized, Callable[..., tuple[tf.Tensor, ...]]]:
    """Written out: for features [N, C], whose few values the fused kernel takes several times as long for.

    The gradient is Ioffe & Szegedy's (arXiv 1502.03167, section 3), gathered into two sums over the batch.
    """
    mean = tf.reduce_mean(x, axis=0)
    centred = x - mean
    variance = tf.reduce_mean(centred * centred, axis=0)
    inverse = tf.math.rsqrt(variance + epsilon)
    normal = centred * inverse

    def gradient(upstream: tf.Tensor, _mean: tf.Tensor, _variance: tf.Tensor) -> tuple[tf.Tensor | None, ...]:
        # Mean and variance leave for the moving statistics alone, which nothing is trained through.
        count = tf.cast(tf.shape(x)[0], x.dtype)
        mean_offset = tf.reduce_mean(upstream, axis=0)
        mean_scale = tf.reduce_mean(upstream * normal, axis=0)
        inner = scale * inverse * (upstream - mean_offset - normal * mean_scale)
        return inner, count * mean_scale, count * mean_offset, None

    return (normal * scale + offset, mean, variance), gradient


def normalize_synchronized(
    towers: Sequence[tf.Tensor],
    biases: Sequence[tf.Tensor | None],
    gammas: Sequence[tf.Tensor | None],
    betas: Sequence[tf.Tensor | None],
    epsilon: float,
    devices: Sequence[str],
) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor]:
    """Training mode with the statistics of all towers' equal shares together; differentiated across towers.

    Returns each tower's normalized features, and the mean [C] and variance [C] that they share. Two rounds between
    the towers, one for the mean and one for the variance, so that large offsets cost no digits.
    """

    def mean_over_towers(values: Callable[[tf.Tensor], tf.Tensor]) -> tf.Tensor:
        parts = []
        for device, x in zip(devices, towers, strict=True):
            with tf.device(device):
                parts.append(tf.reduce_mean(values(x), axis=list(range(x.shape.rank - 1))))
        with tf.device(devices[0]):
            return tf.add_n(parts) / len(parts)

    towers = [x if bias is None else _with_no_effect(x, bias) for x, bias in zip(towers, biases, strict=True)]
    mean = mean_over_towers(lambda x: x)
    variance = mean_over_towers(lambda x: tf.math.squared_difference(x, mean))
    normalized = []
    for device, x, gamma, beta in zip(devices, towers, gammas, betas, strict=True):
        with tf.device(device):
            normalized.append(tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon))
    return normalized, mean if biases[0] is None else mean + biases[0], variance


def normalize_with(
    x: tf.Tensor,
    bias: tf.Tensor | None,
    gamma: tf.Tensor | None,
    beta: tf.Tensor | None,
    epsilon: float,
    mean: tf.Tensor,
    variance: tf.Tensor,
) -> tf.Tensor:
    """Evaluation: the same with given ``mean`` and ``variance`` [C]."""
    mean = mean if bias is None else mean - bias
    if x.shape.rank != 4:
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, epsilon)
    scale = tf.ones_like(mean) if gamma is None else gamma
    offset = tf.zeros_like(mean) if beta is None else beta
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=scale, offset=offset, mean=mean, variance=variance, epsilon=epsilon, is_training=False
    )[0]
