"""The ways to convolve against TensorFlow's own convolution in float64."""

import os
import platform
import subprocess
import sys
from math import prod

import numpy as np
import pytest
import tensorflow as tf

from model import convolution
from model.convolution import convolve, halve, with_fewer_products


@pytest.fixture(params=[True, False], ids=["fast kernels", "slow kernels"])
def fast_kernels(request, monkeypatch):
    monkeypatch.setattr(convolution, "has_fast_kernels", lambda: request.param)
    return request.param


@pytest.mark.parametrize(
    ("height", "width", "size", "channels", "filters"),
    [
        (8, 8, 5, 1, 7),
        (4, 4, 5, 32, 7),
        (4, 4, 4, 3, 7),
        (3, 5, 5, 2, 7),
        (2, 2, 5, 4, 7),
        (1, 1, 5, 3, 7),
        (5, 5, 2, 1, 7),
        (9, 7, 5, 2, 7),
        (12, 12, 5, 64, 64),
        (8, 5, 5, 32, 33),
        (9, 6, 5, 40, 32),
        (10, 10, 3, 54, 64),
        (11, 3, 3, 64, 54),
    ],
)
def test_it_is_a_convolution(height, width, size, channels, filters, fast_kernels):
    rng = np.random.default_rng()
    x = tf.constant(rng.standard_normal((6, height, width, channels)))
    kernel = tf.constant(rng.standard_normal((size, size, channels, filters)))
    weights = tf.constant(rng.standard_normal((6, height, width, filters)))
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
def test_only_small_images_are_multiplied_and_where_the_kernels_are_slow(shape, kernel, products, fast_kernels):
    traced = tf.function(convolve).get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec(kernel))
    kinds = {operation.type for operation in traced.graph.get_operations()}
    assert ("Conv2D" not in kinds) == (products and not fast_kernels)


@pytest.mark.parametrize(
    ("shape", "kernel", "products"),
    [
        ((2, 12, 12, 64), (5, 5, 64, 64), 2 * 10),
        ((2, 8, 12, 64), (5, 5, 64, 64), 2 * 8),
        ((2, 16, 12, 64), (5, 5, 64, 64), 3 * 10),
        ((2, 12, 12, 64), (3, 3, 64, 64), 2 * 8),
        ((2, 8, 12, 64), (3, 3, 64, 64), 2 * 6),
        ((2, 12, 12, 64), (7, 7, 64, 64), 12 * 7),
        ((2, 12, 12, 64), (5, 5, 64, 16), 12 * 5),
        ((2, 6, 12, 64), (5, 5, 64, 64), 6 * 5),
        ((2, 24, 24, 3), (5, 5, 3, 64), 24 * 5),
    ],
)
def test_large_convolutions_take_fewer_products(shape, kernel, products, fast_kernels):
    """Products a column of an image, channel and filter: rows convolved times the kernel's height."""
    traced = tf.function(convolve).get_concrete_function(tf.TensorSpec(shape), tf.TensorSpec(kernel))
    found = [each for each in traced.graph.get_operations() if each.type == "Conv2D"]
    rows = [prod(each.inputs[0].shape[:2]) // shape[0] * each.inputs[1].shape[0] for each in found]
    assert sum(rows) == products


@pytest.mark.parametrize(
    ("size", "height", "bound"), [(3, 8, 1e-6), (3, 12, 1.5e-6), (5, 8, 1.5e-6), (5, 12, 3e-6)]
)
def test_fewer_products_lose_less_than_a_digit(size, height, bound):
    """Of the norm; TensorFlow's own convolution is off by .5e-6."""
    rng = np.random.default_rng()
    x = np.maximum(rng.standard_normal((16, height, 12, 64)), 0)
    kernel = rng.standard_normal((size, size, 64, 64))
    exact = tf.nn.conv2d(tf.constant(x), tf.constant(kernel), 1, "SAME").numpy()
    found = with_fewer_products(tf.constant(x, tf.float32), tf.constant(kernel, tf.float32)).numpy()
    assert np.linalg.norm(found - exact) < bound * np.linalg.norm(exact)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (4, 6), (7, 5), (2, 3)])
def test_halving_is_pooling(height, width, fast_kernels):
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


def test_of_equal_values_one_gets_the_gradient(fast_kernels):
    x = tf.zeros([1, 2, 2, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = halve(x)
    np.testing.assert_array_equal(tape.gradient(y, x), [[[[1], [0]], [[0], [0]]]])


def test_slow_kernels_are_not_called(monkeypatch):
    monkeypatch.setattr(convolution, "has_fast_kernels", lambda: False)
    traced = tf.function(halve).get_concrete_function(tf.TensorSpec([2, 8, 8, 3]))
    assert "MaxPool" not in {operation.type for operation in traced.graph.get_operations()}


@pytest.mark.parametrize(
    ("variables", "answer"),
    [
        ({"TF_ENABLE_ONEDNN_OPTS": "0"}, "False"),
        ({"TF_ENABLE_ONEDNN_OPTS": "1"}, "True"),
        pytest.param(
            {},
            "True",
            marks=pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="for x86 alone"),
        ),
    ],
)
def test_onednn_is_asked_for_unless_the_environment_says_otherwise(variables, answer):
    """In a process of its own, as TensorFlow reads the variable once."""
    code = "from model.convolution import has_fast_kernels; print(has_fast_kernels())"
    others = {name: value for name, value in os.environ.items() if name != "TF_ENABLE_ONEDNN_OPTS"}
    environment = {**others, "CUDA_VISIBLE_DEVICES": "", **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [answer], done.stderr
