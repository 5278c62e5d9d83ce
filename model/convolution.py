"""Convolution and pooling in ways that are faster than TensorFlow's own on a CPU; the same but for rounding.

TensorFlow has two sets of kernels for CPUs: oneDNN's, which this package asks for on x86, and its own, for other
CPUs and where the environment says ``TF_ENABLE_ONEDNN_OPTS=0``. oneDNN's are fast on small images too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

# An image of no more numbers than this makes too short sums for a convolution's kernels to be worth their while.
FEW_INPUTS = 64

# How many rows of output can be made together, and the points at which their polynomials are evaluated, by the
# number of points: rows + size - 1, the last of them infinity. Chosen so that few digits are lost: errors of
# 0.7e-6 to 1.2e-6 of the norm with 6 and 8 points, 2.6e-6 with 10 (the best of some hundred sets of fractions;
# with 0, 1, 2, 1/2, 3/2 and their negatives it is 4.2e-6).
SIZES, ROWS = (3, 5), (4, 6)
POINTS = {
    6: (0, 1, -1, 2, -2),
    8: (0, 1, -1, 2, -2, 1 / 2, -1 / 2),
    10: (0, 2 / 5, -2 / 5, 4 / 5, -4 / 5, 5 / 4, -5 / 4, 5 / 2, -5 / 2),
}
# Images lower than this, or sums shorter (channels times the kernel's size), gain nothing.
FEW_ROWS, SHORT_SUMS = 8, 160


@cache
def has_fast_kernels() -> bool:
    """Whether TensorFlow's kernels for small images are fast here: those of a GPU, and oneDNN's."""
    if tf.config.list_logical_devices("GPU"):
        return True
    try:
        # The only place that answers it: the environment (TF_ENABLE_ONEDNN_OPTS) and the CPU both have a say.
        from tensorflow.python.util._pywrap_util_port import IsMklEnabled
    except ImportError:
        return False
    return bool(IsMklEnabled())


def convolve(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """[N, H, W, C] with [K, K, C, F] -> [N, H, W, F]: stride 1, padded with zeros to the same size."""
    _, height, width, channels = x.shape
    size, filters = kernel.shape[0], kernel.shape[-1]
    few = height * width <= size**2 or height * width * channels <= FEW_INPUTS
    if few and not has_fast_kernels():
        return as_one_product(x, kernel)
    gains = size in SIZES and height >= FEW_ROWS and size * min(channels, filters) >= SHORT_SUMS
    if gains and not tf.config.list_logical_devices("GPU"):  # cuDNN takes such ways of itself.
        return with_fewer_products(x, kernel)
    return tf.nn.conv2d(x, kernel, strides=1, padding="SAME")


def as_one_product(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The same convolution as a product of two matrices.

    Where the kernel reaches as many pixels as the image has, each output pixel depends on nearly every input
    pixel, and one matrix product does no more work than a convolution does, in fewer and larger operations.
    Without oneDNN it made a step of the small network on 8x8x1 images a third faster on one CPU core (11.6 ms
    instead of 16.9); with oneDNN it would make it a third slower.
    """
    _, height, width, channels = x.shape
    size, filters, pixels = kernel.shape[0], kernel.shape[-1], height * width
    places = tf.constant(_places(height, width, size), kernel.dtype)
    # [pixels in, pixels out, C, F]: which weight leads from where to where; products with 0 and 1 are exact.
    matrix = tf.matmul(places, tf.reshape(kernel, [size**2, channels * filters]))
    matrix = tf.transpose(tf.reshape(matrix, [pixels, pixels, channels, filters]), [0, 2, 1, 3])
    y = tf.matmul(tf.reshape(x, [-1, pixels * channels]), tf.reshape(matrix, [-1, pixels * filters]))
    return tf.reshape(y, [-1, height, width, filters])


def with_fewer_products(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """The same convolution by Toom and Cook's method along the height, as in Winograd's convolution.

    (Lavin & Gray, arXiv 1509.09308, have it along both axes; along one it loses less than a digit: errors of up to
    2.6e-6 of a 5x5 convolution's norm where TensorFlow's own are 0.5e-6.) R rows of output take R + K - 1 products
    a value instead of R K: a step of the tutorial's network on two towers takes .7 of the time.
    """
    _, height, width, channels = x.shape
    size, filters = kernel.shape[0], kernel.shape[-1]
    rows_together = _rows_together(height, size)
    into, out, of_kernel = (tf.constant(each, x.dtype) for each in _toom_cook(height, size, rows_together))
    num_points = size + rows_together - 1
    rows = tf.reshape(tf.transpose(x, [1, 0, 2, 3]), [height, -1])
    values = tf.unstack(tf.reshape(tf.matmul(into, rows), [num_points, -1, 1, width, channels]))
    kernels = tf.matmul(of_kernel, tf.reshape(kernel, [size, -1]))
    kernels = tf.unstack(tf.reshape(kernels, [num_points, 1, size, channels, filters]))
    products = [tf.nn.conv2d(v, k, strides=1, padding="SAME") for v, k in zip(values, kernels, strict=True)]
    y = tf.matmul(out, tf.reshape(tf.stack(products), [out.shape[1], -1]))
    return tf.transpose(tf.reshape(y, [height, -1, width, filters]), [1, 0, 2, 3])


def _rows_together(height: int, size: int) -> int:
    """The number that takes the fewest products; of equals the smaller, whose sums are shorter."""
    return min(ROWS, key=lambda rows: (-(-height // rows) * (rows + size - 1), rows))


@cache
def _toom_cook(
    height: int, size: int, rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What leads from rows to values [points * tiles, H], from products to rows [H, points * tiles], and from a
    kernel's rows to its values [points, K]; the padding is within.

    Multiplying polynomials is evaluating them, multiplying the values and interpolating; correlating is the
    transpose of that (in one of the factors).
    """
    num_points = size + rows - 1
    points = np.array(POINTS[num_points])

    def evaluate(terms: int) -> NDArray[np.float64]:
        at_infinity = np.eye(terms)[-1:]
        return np.concatenate([np.vander(points, terms, increasing=True), at_infinity])

    tiles, before = -(-height // rows), (size - 1) // 2
    into, out = np.zeros([num_points, tiles, height]), np.zeros([height, num_points, tiles])
    interpolate = np.linalg.inv(evaluate(num_points))
    for tile in range(tiles):
        first = tile * rows
        for offset in range(num_points):
            if 0 <= first + offset - before < height:
                into[:, tile, first + offset - before] = interpolate[offset]
        for offset in range(min(rows, height - first)):
            out[first + offset, :, tile] = evaluate(rows)[:, offset]
    return into.reshape(-1, height), out.reshape(height, -1), evaluate(size)


def halve(x: tf.Tensor) -> tf.Tensor:
    """[N, H, W, C] -> [N, H // 2, W // 2, C]: the largest of each 2x2 pixels; an odd last row or column goes."""
    if has_fast_kernels():
        return tf.nn.max_pool2d(x, ksize=2, strides=2, padding="VALID")
    return halve_by_pairs(x)


def halve_by_pairs(x: tf.Tensor) -> tf.Tensor:
    """The same by two maxima; of equal values the upper one counts in the backward pass, then the left one.

    Without oneDNN the general kernel takes several times as long: 1.5 ms instead of .23 for 128 images [8, 8, 32],
    forward and backward on one core.
    """
    _, height, width, channels = x.shape
    if height % 2 or width % 2:
        height, width = height // 2 * 2, width // 2 * 2
        x = x[:, :height, :width]
    upper, lower = tf.unstack(tf.reshape(x, [-1, 2, width * channels]), axis=1)
    left, right = tf.unstack(tf.reshape(_larger(upper, lower), [-1, 2, channels]), axis=1)
    return tf.reshape(_larger(left, right), [-1, height // 2, width // 2, channels])


@tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow has no types.
def _larger(first: tf.Tensor, second: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
    """The maximum; where the two are equal the first has the gradient. tf.maximum's takes twice as long."""

    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        of_second = tf.raw_ops.ReluGrad(gradients=upstream, features=second - first)
        return upstream - of_second, of_second

    return tf.maximum(first, second), gradient


def _places(height: int, width: int, size: int) -> NDArray[np.float32]:
    """[pixels in * pixels out, K * K]: 1 at the place in the kernel that leads from the one to the other."""
    before = (size - 1) // 2  # As TensorFlow pads for "SAME".
    rows = np.arange(height)[:, None] - np.arange(height) + before
    columns = np.arange(width)[:, None] - np.arange(width) + before
    down, across = rows[:, None, :, None], columns[None, :, None, :]
    reached = (down >= 0) & (down < size) & (across >= 0) & (across < size)
    place = np.where(reached, down * size + across, -1).reshape(-1)
    return np.equal(place[:, None], np.arange(size**2)).astype(np.float32)
