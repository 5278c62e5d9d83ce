"""Shadows brought up to date by blocks, against their recurrence in float64, step by step."""

import numpy as np
import pytest
import tensorflow as tf

from model.moving_averages import blend_shadows
from model.shadows import BLOCK, Shadows, block_sizes

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


def train(shadows, path, first, decays, wanted=None):
    """As a traced call does: puts steps aside and takes blocks in. Returns all rows after ``wanted`` [steps]."""
    wanted = np.zeros(len(path), bool) if wanted is None else wanted
    follow = tf.function(shadows.put_aside, autograph=False), tf.function(shadows.take_in, autograph=False)
    rows, start = {}, 0
    for size in block_sizes(wanted):
        for place in range(size):
            follow[0](tf.constant(path[start + place]), decays, tf.constant(place))
        start += size
        follow[1](decays, tf.constant(size), tf.constant(first + start - 1, tf.int64))
        rows[start - 1] = shadows.variable.numpy()
    return np.array([rows[step] for step in np.flatnonzero(wanted)]).reshape(-1, len(DECAYS), SIZE)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("steps", [1, BLOCK - 1, BLOCK, BLOCK + 1, 50])
def test_blocks_follow_the_recurrence(steps, warmup):
    rng = np.random.default_rng()
    initial, path = rng.normal(size=SIZE).astype(np.float32), rng.normal(size=(steps, SIZE)).astype(np.float32)
    variable = tf.Variable(np.tile(initial, (3, 1)), trainable=False, shape=[None, SIZE])
    shadows, wanted = Shadows(variable, SIZE, warmup=warmup), rng.random(steps) < 0.2
    rows = train(shadows, path, 1, tf.constant(DECAYS, tf.float32), wanted)
    expected = recurrence(initial, path, 1, warmup)
    np.testing.assert_allclose(variable.numpy(), expected[-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows, expected[wanted], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("steps", "wanted", "sizes"),
    [
        (0, [], []),
        (3, [], [3]),
        (3, [2], [3]),
        (2 * BLOCK, [], [BLOCK, BLOCK]),
        (2 * BLOCK + 5, [2, 3], [3, 1, BLOCK, BLOCK, 1]),
        (BLOCK + 7, [BLOCK, BLOCK + 6], [BLOCK, 1, 6]),
    ],
)
def test_a_block_ends_where_it_is_full_or_rows_are_wanted_or_the_call_ends(steps, wanted, sizes):
    assert block_sizes(np.isin(np.arange(steps), wanted)).tolist() == sizes


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
    shadows.put_aside(tf.constant(path[0]), none, tf.constant(0))
    shadows.take_in(none, tf.constant(1), tf.constant(1, tf.int64))
    assert variable.numpy().shape == (0, SIZE)


def test_a_block_is_its_steps_in_turn():
    rng = np.random.default_rng()
    shadows, values = rng.normal(size=(2, SIZE)), rng.normal(size=(5, SIZE))
    decays = rng.uniform(size=(5, 2))
    expected = shadows
    for value, decay in zip(values, decays, strict=True):
        expected = decay[:, None] * expected + (1 - decay[:, None]) * value
    np.testing.assert_allclose(blend_shadows(*map(tf.constant, (shadows, decays, values))), expected, rtol=1e-12)
