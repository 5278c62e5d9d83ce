"""Small images' convolution as a matrix product, against TensorFlow's own convolution in float64."""

import numpy as np
import pytest
import tensorflow as tf

from model.convolution import convolve, halve


@pytest.mark.parametrize(
    ("height", "width", "size", "channels"),
    [
        (8, 8, 5, 1),
        (4, 4, 5, 32),
        (4, 4, 4, 3),
        (3, 5, 5, 2),
        (2, 2, 5, 4),
        (1, 1, 5, 3),
        (5, 5, 2, 1),
        (9, 7, 5, 2),
    ],
)
def test_it_is_a_convolution(height, width, size, channels):
    rng = np.random.default_rng()
    x = tf.constant(rng.standard_normal((6, height, width, channels)))
    kernel = tf.constant(rng.standard_normal((size, size, channels, 7)))
    weights = tf.constant(rng.standard_normal((6, height, width, 7)))
    found = []
    for way in (convolve, lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME")):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = way(x, kernel)
            total = tf.reduce_sum(weights * y)
        found.append([y, *tape.gradient(total, [x, kernel])])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("shape", "kernel", "products"),
    [
        ((2, 8, 8, 1), (5, 5, 1, 4), True),
        ((2, 4, 4, 32), (5, 5, 32, 4), True),
        ((2, 8, 8, 32), (5, 5, 32, 4), False),
    ],
)
def test_only_small_images_are_multiplied(shape, kernel, products):
    traced = tf.function(convolve).get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec(kernel))
    kinds = {operation.type for operation in traced.graph.get_operations()}
    assert ("Conv2D" not in kinds) == products


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6), (7, 5), (2, 3)])
def test_halving_is_pooling(height, width):
    x = tf.constant(np.random.default_rng().standard_normal((6, height, width, 3)))
    found = []
    for way in (halve, lambda x: tf.nn.max_pool2d(x, 2, 2, "VALID")):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = way(x)
            total = tf.reduce_sum(tf.square(y))
        found.append([y, tape.gradient(total, x)])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_of_equal_values_one_gets_the_gradient():
    x = tf.zeros([1, 2, 2, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = halve(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [[[[1], [0]], [[0], [0]]]])
