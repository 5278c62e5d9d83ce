"""The averages against their recurrences in float64, and against TensorFlow's own EMA."""

import numpy as np
import pytest
import tensorflow as tf

from model.moving_averages import effective_decays, initial_statistics, update_shadows, update_statistics

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
