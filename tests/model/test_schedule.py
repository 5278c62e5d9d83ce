"""Learning rates against Keras' own schedules, step by step."""

import keras
import numpy as np
import pytest

from model.config import TrainSettings
from model.schedule import learning_rates

STEPS = 60


def keras_rates(schedule):
    return [float(schedule(step)) for step in range(STEPS)]


def test_constant():
    train = TrainSettings(learning_rate=0.02, steps=STEPS)
    np.testing.assert_array_equal(learning_rates(train, 0, STEPS), np.full(STEPS, 0.02, np.float32))


@pytest.mark.parametrize("staircase", [True, False])
def test_exponential(staircase):
    train = TrainSettings(
        learning_rate=0.1,
        lr_schedule="exponential",
        lr_decay_steps=7,
        lr_decay_factor=0.3,
        lr_staircase=staircase,
    )
    expected = keras_rates(keras.optimizers.schedules.ExponentialDecay(0.1, 7, 0.3, staircase=staircase))
    np.testing.assert_allclose(learning_rates(train, 0, STEPS), expected, rtol=1e-5)


def test_cosine():
    train = TrainSettings(learning_rate=0.1, lr_schedule="cosine", steps=50)
    expected = keras_rates(keras.optimizers.schedules.CosineDecay(0.1, 50))
    np.testing.assert_allclose(learning_rates(train, 0, STEPS), expected, rtol=1e-5, atol=1e-8)


def test_cosine_after_a_warm_up():
    """Keras counts its warm-up from 0, ours from the first step's share, so ours is one step ahead there."""
    train = TrainSettings(learning_rate=0.1, lr_schedule="cosine", steps=50, lr_warmup_steps=10)
    schedule = keras.optimizers.schedules.CosineDecay(0.0, 40, warmup_target=0.1, warmup_steps=10)
    ours, expected = learning_rates(train, 0, STEPS), keras_rates(schedule)
    np.testing.assert_allclose(ours[:9], expected[1:10], rtol=1e-5)
    np.testing.assert_allclose(ours[10:], expected[10:], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("schedule", ["constant", "exponential", "cosine"])
def test_rates_do_not_depend_on_where_a_call_begins(schedule):
    train = TrainSettings(lr_schedule=schedule, steps=STEPS, lr_warmup_steps=8, lr_decay_steps=9)
    whole = learning_rates(train, 0, STEPS)
    parts = [learning_rates(train, 0, 5), learning_rates(train, 5, 33), learning_rates(train, 33, STEPS)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
