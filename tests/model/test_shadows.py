"""Shadows brought up to date by blocks, against their recurrence in float64, step by step."""

import numpy as np
import pytest
import tensorflow as tf

from model.moving_averages import blend_shadows
from model.shadows import BLOCK, Shadows

DECAYS = np.array([0.3, 0.9, 0.9999])
SIZE = 7


def recurrence(initial, path, first, warmup):
    """[steps, D, P] in float64."""
    shadows, found = np.tile(initial, (len(DECAYS), 1)).astype(np.float64), []
    for t, weights in enumerate(path, start=first):
        d = np.minimum(DECAYS, (1 + t) / (10 + t)) if warmup else DECAYS
        shadows = d[:, None] * shadows + (1 - d[:, None]) * weights
        found.append(shadows)
    return np.array(found)


def train(shadows, path, first, decays, watched=0):
    """As a traced call does: follows each step, and reads a row after it."""

    @tf.function
    def call(path):
        rows = tf.TensorArray(tf.float32, size=len(path), element_shape=[1, SIZE])
        for i in tf.range(len(path)):
            done, last = first + tf.cast(i, tf.int64), tf.equal(i, len(path) - 1)
            shadows.follow(path[i], decays, i, done, last)
            rows = rows.write(i, shadows.row(tf.constant(watched), decays, i, done, last))
        return rows.stack()

    return call(tf.constant(path)).numpy()[:, 0]


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("steps", [1, BLOCK - 1, BLOCK, BLOCK + 1, 50])
def test_blocks_follow_the_recurrence(steps, warmup):
    rng = np.random.default_rng()
    initial, path = rng.normal(size=SIZE).astype(np.float32), rng.normal(size=(steps, SIZE)).astype(np.float32)
    variable = tf.Variable(np.tile(initial, (3, 1)), trainable=False, shape=[None, SIZE])
    shadows = Shadows(variable, SIZE, warmup=warmup)
    rows = train(shadows, path, 1, tf.constant(DECAYS, tf.float32), watched=1)
    expected = recurrence(initial, path, 1, warmup)
    np.testing.assert_allclose(variable.numpy(), expected[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows, expected[:, 1], rtol=1e-5, atol=1e-6)


def test_calls_follow_one_another_and_what_was_in_the_block_before_does_not_matter():
    rng = np.random.default_rng()
    initial, path = rng.normal(size=SIZE).astype(np.float32), rng.normal(size=(40, SIZE)).astype(np.float32)
    variable = tf.Variable(np.tile(initial, (3, 1)), trainable=False, shape=[None, SIZE])
    shadows = Shadows(variable, SIZE, warmup=True)
    decays = tf.constant(DECAYS, tf.float32)
    train(shadows, np.full((BLOCK, SIZE), np.nan, np.float32), 1, decays)
    variable.assign(np.tile(initial, (3, 1)))
    for start, end in ((0, 3), (3, 30), (30, 40)):
        train(shadows, path[start:end], start + 1, decays)
    np.testing.assert_allclose(variable.numpy(), recurrence(initial, path, 1, True)[-1], rtol=1e-5, atol=1e-6)


def test_without_decays_nothing_happens():
    variable = tf.Variable(tf.zeros([0, SIZE]), trainable=False, shape=[None, SIZE])
    shadows = Shadows(variable, SIZE, warmup=False)
    path, none = np.ones((5, SIZE), np.float32), tf.zeros([0])
    shadows.follow(tf.constant(path[0]), none, tf.constant(0), tf.constant(1, tf.int64), tf.constant(True))
    assert variable.numpy().shape == (0, SIZE)


def test_a_block_is_its_steps_in_turn():
    rng = np.random.default_rng()
    shadows, values = rng.normal(size=(2, SIZE)), rng.normal(size=(5, SIZE))
    decays = rng.uniform(size=(5, 2))
    expected = shadows
    for value, decay in zip(values, decays, strict=True):
        expected = decay[:, None] * expected + (1 - decay[:, None]) * value
    np.testing.assert_allclose(blend_shadows(*map(tf.constant, (shadows, decays, values))), expected, rtol=1e-12)
