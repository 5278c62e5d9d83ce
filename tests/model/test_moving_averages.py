"""The averages against their recurrences in float64, and against TensorFlow's own EMA."""

import numpy as np
import pytest
import tensorflow as tf

from model.moving_averages import (
    effective_decays,
    initial_statistics,
    update_shadows,
    update_statistics,
    zero_debiased,
)

STEPS = 50
MOMENTA = np.array([0.5, 0.9, 0.999])


@pytest.fixture
def batches():
    """[steps, towers, 2 S]."""
    return np.random.default_rng().normal(size=(STEPS, 2, 8)).astype(np.float32)


def run(batches, which):
    moving = tf.constant(initial_statistics(len(MOMENTA), 4))
    for towers in batches:
        moving = update_statistics(
            moving, tf.constant(MOMENTA, tf.float32), [tf.constant(t) for t in towers], which
        )
    return moving.numpy()


def reference(batches, choose):
    moving = np.tile(np.r_[np.zeros(4), np.ones(4)], (3, 1))
    for towers in batches.astype(np.float64):
        for batch in choose(towers):
            moving = MOMENTA[:, None] * moving + (1 - MOMENTA[:, None]) * batch
    return moving


@pytest.mark.parametrize(
    ("which", "choose"),
    [
        ("first", lambda towers: towers[:1]),
        ("last", lambda towers: towers[1:]),
        ("mean", lambda towers: [towers.mean(axis=0)]),
        ("all", lambda towers: list(towers)),
    ],
)
def test_moving_statistics_follow_their_recurrence(batches, which, choose):
    np.testing.assert_allclose(run(batches, which), reference(batches, choose), rtol=1e-4, atol=1e-5)


def test_all_towers_in_turn_square_the_decay():
    """With constant statistics 1 the weight left on the initial mean 0 is decay**2 a step."""
    ones = np.ones((STEPS, 2, 8), np.float32)
    np.testing.assert_allclose(1 - run(ones, "all")[:, 0], MOMENTA ** (2 * STEPS), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("warmup", [False, True])
def test_shadows_equal_tensorflows_exponential_moving_average(warmup):
    rng = np.random.default_rng()
    decays = np.array([0.3, 0.9, 0.9999])
    weights = rng.normal(size=7).astype(np.float32)
    shadows = tf.constant(np.tile(weights, (3, 1)))
    variables = [tf.Variable(weights, trainable=False) for _ in decays]
    step = tf.Variable(0, dtype=tf.int64)
    averages = [tf.train.ExponentialMovingAverage(d, num_updates=step if warmup else None) for d in decays]
    for average, variable in zip(averages, variables, strict=True):
        average.apply([variable])  # The first call makes the shadow, equal to the variable.
    for t in range(1, STEPS + 1):
        weights = rng.normal(size=7).astype(np.float32)
        step.assign(t)
        for average, variable in zip(averages, variables, strict=True):
            variable.assign(weights)
            average.apply([variable])
        effective = effective_decays(tf.constant(decays, tf.float32), tf.constant(t), warmup=warmup)
        shadows = update_shadows(shadows, effective, tf.constant(weights))
    expected = [average.average(variable).numpy() for average, variable in zip(averages, variables, strict=True)]
    np.testing.assert_allclose(shadows.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_with_the_warm_up_large_decays_are_all_the_same_early_on():
    """min(d, (1 + t) / (10 + t)): at step 300 that is .971 for every larger d."""
    at = effective_decays(tf.constant([0.9, 0.98, 0.9999]), tf.constant(300), warmup=True).numpy()
    np.testing.assert_allclose(at, [0.9, 301 / 310, 301 / 310], rtol=1e-6)


def test_zero_debias_equals_the_weighted_mean_of_what_was_seen(batches):
    """In float64: what contrib's zero_debias_moving_mean reads; the variances are left alone."""
    moving = run(batches, "mean")
    debiased = zero_debiased(tf.constant(moving), tf.constant(MOMENTA, tf.float32), tf.constant(STEPS)).numpy()
    seen = batches.astype(np.float64).mean(axis=1)[:, :4]
    for momentum, row in zip(MOMENTA, debiased, strict=True):
        weights = momentum ** np.arange(STEPS - 1, -1, -1)
        np.testing.assert_allclose(row[:4], weights @ seen / weights.sum(), rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(debiased[:, 4:], moving[:, 4:])


def test_before_the_first_update_there_is_nothing_to_debias():
    start = tf.constant(initial_statistics(3, 4))
    np.testing.assert_array_equal(zero_debiased(start, tf.constant(MOMENTA, tf.float32), tf.constant(0)), start)


def test_initial_statistics_are_means_then_variances():
    np.testing.assert_array_equal(initial_statistics(2, 3), [[0, 0, 0, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(initial_statistics(1, 2, 0.5, 2.0), [[0.5, 0.5, 2, 2]])


def test_shadows_may_follow_matrices():
    """The moving statistics [M, 2 S] have averages [D, M, 2 S]."""
    rng = np.random.default_rng()
    shadows, values = rng.normal(size=(2, 3, 4)).astype(np.float32), rng.normal(size=(3, 4)).astype(np.float32)
    decays = np.array([0.25, 0.9], np.float32)
    ours = update_shadows(tf.constant(shadows), tf.constant(decays), tf.constant(values)).numpy()
    expected = decays[:, None, None] * shadows + (1 - decays[:, None, None]) * values
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
