"""The one-tower network against the same network built of Keras' own layers, weights copied."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.config import DataSettings, ModelSettings, TrainSettings
from model.data import batch_indices, load
from tests.model.conftest import ONE, make_trainable

BATCH = 16


class Reference:
    """The network of ``model.network``, of Keras layers; ``copy`` takes our flat weights over."""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings
        self.layers = []
        self.stack = []
        self.add_bn("input")
        for width in settings.conv_widths:
            self.add(keras.layers.Conv2D(width, settings.kernel_size, padding="same"))
            self.add_activation("conv")
            self.stack.append(keras.layers.MaxPooling2D(2))
        self.stack.append(keras.layers.Flatten())
        for width in settings.fc_widths:
            self.add(keras.layers.Dense(width))
            self.add_activation("fc")
        self.add(keras.layers.Dense(10))
        self.add_bn("logits")
        self.model = keras.Sequential([keras.Input((8, 8, 1)), *self.stack])

    def add(self, layer):
        self.layers.append(layer)
        self.stack.append(layer)

    def add_bn(self, site):
        if site in self.settings.sites:
            own = self.settings
            self.add(
                keras.layers.BatchNormalization(
                    epsilon=own.bn_epsilon, momentum=own.bn_momentum, scale=own.bn_gamma, center=own.bn_beta
                )
            )

    def add_activation(self, site):
        if self.settings.bn_order == "pre":
            self.add_bn(site)
            self.stack.append(keras.layers.ReLU())
        else:
            self.stack.append(keras.layers.ReLU())
            self.add_bn(site)

    def variables(self):
        """Trainable variables in the order of our layout: layer by layer, BN's gamma before beta."""
        return [variable for layer in self.layers for variable in layer.trainable_variables]

    def copy(self, flat):
        start = 0
        for variable in self.variables():
            size = int(np.prod(variable.shape))
            variable.assign(flat[start : start + size].reshape(variable.shape))
            start += size
        assert start == len(flat)

    def flat(self):
        return np.concatenate([np.ravel(variable.numpy()) for variable in self.variables()])

    def batch_norms(self):
        return [layer for layer in self.layers if isinstance(layer, keras.layers.BatchNormalization)]


def cases():
    yield {"bn_placement": "none"}
    for placement in ("conv", "conv+fc", "input+conv+fc", "input+conv+fc+logits"):
        for order in ("pre", "post"):
            yield {"bn_placement": placement, "bn_order": order}
    yield {"bn_placement": "input+conv+fc+logits", "bn_gamma": False}
    yield {"bn_placement": "conv+fc", "bn_beta": False}


@pytest.mark.parametrize("model", list(cases()), ids=lambda model: "-".join(map(str, model.values())))
def test_one_adam_step_equals_keras(model):
    """Loss, the step of every weight (so the gradient), and the moving statistics, from random weights."""
    seed = int(np.random.default_rng().integers(1 << 30))
    trainable = make_trainable(**model, bn_momentum=0.9)
    run = trainable.start({"learning_rate": 1e-3}, [{}], seed, ONE)
    before = run.weights()
    reference = Reference(trainable.settings.model)
    reference.copy(before)
    images, labels = first_batch(seed)

    optimizer = keras.optimizers.Adam(1e-3, epsilon=1e-7)
    with tf.GradientTape() as tape:
        logits = reference.model(images, training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    gradients = tape.gradient(loss, reference.variables())
    gradient = np.concatenate([np.ravel(g) for g in gradients])
    optimizer.apply(gradients, reference.variables())
    measurement = run.advance(1)

    assert measurement.curve[-1].train_loss == pytest.approx(float(loss), rel=1e-4)
    # Sums over the batch cancel: an element's rounding is that of the largest terms, not of the result.
    rounding = 1e-4 * np.abs(gradient).max()
    np.testing.assert_allclose(run._program.save().first_moment, 0.1 * gradient, rtol=1e-4, atol=0.1 * rounding)
    # Adam's first step is rate * g / (|g| + eps): where g is rounding noise, so is the step.
    clear = np.abs(gradient) > 10 * rounding
    assert clear.mean() > 0.3
    np.testing.assert_allclose(run.weights()[clear], reference.flat()[clear], rtol=1e-4, atol=2e-6)
    compare_statistics(run, reference)
    compare_evaluation(run, measurement, reference)


def first_batch(seed):
    train = load(DataSettings()).train
    chosen = batch_indices(seed, len(train.labels), BATCH, 0, 1)[0]
    return train.images[chosen], train.labels[chosen]


def compare_statistics(run, reference):
    layers = reference.batch_norms()
    if layers:
        theirs = [np.ravel(layer.moving_mean) for layer in layers] + [
            np.ravel(layer.moving_variance) for layer in layers
        ]
        ours = run._program.statistics_for(0).numpy()
        np.testing.assert_allclose(ours, np.concatenate(theirs), rtol=1e-3, atol=1e-5)


def compare_evaluation(run, measurement, reference):
    reference.copy(run.weights())
    part = load(DataSettings()).eval
    logits = reference.model(part.images, training=False)
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(part.labels, logits))
    assert measurement.scores[0].eval_loss == pytest.approx(float(loss), rel=1e-3)


def test_the_loss_starts_at_ln_10_and_falls_below_a_twentieth():
    trainable = make_trainable(train=TrainSettings(), conv_widths=(32, 32), fc_widths=(128, 64), kernel_size=5)
    run = trainable.start({"bn_placement": "conv+fc", "learning_rate": 3e-3}, [{}], 0, ONE)
    assert run.advance(1).curve[0].train_loss == pytest.approx(np.log(10), abs=0.1)
    assert run.advance(300).curve[-1].train_loss < 0.05


def test_weight_decay_is_told_apart_and_pulls_on_fully_connected_weights_only():
    trainable = make_trainable()
    plain = trainable.start({}, [{}], 5, ONE)
    initial = plain.weights()
    plain.advance(1)
    plain_moment = plain._program.save().first_moment
    with_decay = trainable.start({"weight_decay": 0.5}, [{}], 5, ONE)
    measurement = with_decay.advance(1)
    sizes = [3 * 3 * 1 * 4, 4, 3 * 3 * 4 * 6, 6, 24 * 10, 10, 10 * 8, 8, 8 * 10, 10]
    bounds = np.cumsum([0, *sizes])
    penalised = [initial[bounds[i] : bounds[i + 1]] for i in (4, 6)]
    expected = 0.5 * sum(float((part.astype(np.float64) ** 2).sum()) / 2 for part in penalised)
    assert measurement.curve[0].metrics["l2_loss"] == pytest.approx(expected, rel=1e-5)
    pull = (with_decay._program.save().first_moment - plain_moment) / 0.1
    mask = np.concatenate([np.full(size, float(i in (4, 6))) for i, size in enumerate(sizes)])
    np.testing.assert_allclose(pull, 0.5 * mask * initial, rtol=1e-3, atol=1e-6)
