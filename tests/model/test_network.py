"""The one-tower network against the same network built of Keras' own layers, weights copied."""

from itertools import combinations, product

import keras
import numpy as np
import pytest
import tensorflow as tf

from model.config import SITES, DataSettings, ModelSettings, TrainSettings
from model.data import batch_indices, load
from model.network import forward, make_layout, unflatten
from tests.model.conftest import ONE, make_trainable

BATCH = 16


class Reference:
    """The network of ``model.network``, of Keras layers; ``copy`` takes our flat weights over."""

    def __init__(self, settings: ModelSettings, image_shape=(8, 8, 1), dtype="float32") -> None:
        self.settings, self.dtype = settings, dtype
        self.layers = []
        self.stack = []
        self.add_bn("input")
        for index, (width, size) in enumerate(zip(settings.convolutions, settings.kernels, strict=True)):
            self.add(keras.layers.Conv2D(width, size, padding="same", dtype=self.dtype))
            self.add_activation("conv")
            self.add_pooling(first=index == 0)
        self.stack.append(keras.layers.Flatten(dtype=self.dtype))
        for width in settings.fully_connected:
            self.add(keras.layers.Dense(width, dtype=self.dtype))
            self.add_activation("fc")
        self.add(keras.layers.Dense(10, dtype=self.dtype))
        self.add_bn("logits")
        self.model = keras.Sequential([keras.Input(image_shape, dtype=self.dtype), *self.stack])

    def add(self, layer):
        self.layers.append(layer)
        self.stack.append(layer)

    def add_pooling(self, *, first):
        if self.settings.network == "small":
            self.stack.append(keras.layers.MaxPooling2D(2, dtype=self.dtype))
            return
        norm = keras.layers.Lambda(lambda x: tf.nn.lrn(x, 4, bias=1.0, alpha=0.001 / 9.0, beta=0.75))
        self.stack += [norm] if self.settings.lrn and not first else []
        self.stack.append(keras.layers.MaxPooling2D(3, 2, padding="same", dtype=self.dtype))
        self.stack += [norm] if self.settings.lrn and first else []

    def add_bn(self, site):
        if site in self.settings.sites:
            own = self.settings
            self.add(
                keras.layers.BatchNormalization(
                    epsilon=own.bn_epsilon,
                    momentum=own.bn_momentum,
                    scale=own.bn_gamma,
                    center=own.bn_beta,
                    dtype=self.dtype,
                )
            )

    def add_activation(self, site):
        if self.settings.bn_order == "pre":
            self.add_bn(site)
            self.stack.append(keras.layers.ReLU(dtype=self.dtype))
        else:
            self.stack.append(keras.layers.ReLU(dtype=self.dtype))
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

    def loss_and_gradient(self, images, labels):
        """The cross-entropy, and its gradients in the order of ``variables``."""
        with tf.GradientTape() as tape:
            logits = self.model(tf.cast(images, self.dtype), training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return loss, tape.gradient(loss, self.variables())

    def distance_to_a_kink(self, images):
        """How near any input of a ReLU is to 0, or the two largest of a pool to each other; the largest is 1."""
        x, nearest = tf.cast(images, self.dtype), np.inf
        for layer in self.model.layers:
            if isinstance(layer, keras.layers.ReLU):
                nearest = min(nearest, float(tf.reduce_min(tf.abs(x)) / tf.reduce_max(tf.abs(x))))
            if isinstance(layer, keras.layers.MaxPooling2D):
                window = [1, *layer.pool_size, 1]
                strides = [1, *layer.strides, 1]
                patches = tf.image.extract_patches(x, window, strides, [1] * 4, layer.padding.upper())
                values = tf.reshape(patches, [-1, window[1] * window[2], x.shape[-1]])
                top = tf.math.top_k(tf.transpose(values, [0, 2, 1]), 2).values
                gaps = top[..., 0] - top[..., 1]
                # Exact ties are equal patches of the image (its border), whose gradients are equal as well.
                clear = tf.where(gaps > 0, gaps, tf.reduce_max(gaps))
                nearest = min(nearest, float(tf.reduce_min(clear) / tf.reduce_max(tf.abs(x))))
            x = layer(x, training=True)
        return nearest

    def batch_norms(self):
        return [layer for layer in self.layers if isinstance(layer, keras.layers.BatchNormalization)]


PLACEMENTS = ["+".join(sites) for count in range(1, 5) for sites in combinations(SITES, count)]


def cases():
    yield {}
    for placement, order, gamma in product(PLACEMENTS, ("pre", "post"), (True, False)):
        if order == "pre" or {"conv", "fc"} & set(placement.split("+")):
            yield {"bn_placement": placement, "bn_order": order, "bn_gamma": gamma}
    for placement in ("input+conv+fc+logits", "conv+fc"):
        yield {"bn_placement": placement, "bn_beta": False}
        yield {"bn_placement": placement, "bn_gamma": False, "bn_beta": False, "bn_order": "post"}
        yield {"bn_placement": placement, "bn_epsilon": 0.1}
    for model in ({}, {"lrn": True}, {"bn_placement": "conv+fc"}, {"bn_placement": "conv+fc", "bn_order": "post"}):
        yield {"network": "tutorial", "initializer": "tutorial", **model}
    yield {"kernel_size": (5, 2), "conv_widths": (3, 5), "bn_placement": "conv"}
    yield {"conv_widths": (3, 4, 5), "fc_widths": (), "bn_placement": "conv+logits"}


def named(case):
    return "-".join(f"{key.removeprefix('bn_')}={value}" for key, value in case.items()) or "none"


@pytest.mark.parametrize("model", list(cases()), ids=named)
def test_one_adam_step_equals_keras(model):
    """Loss, the step of every weight (so the gradient), and the moving statistics, from random weights."""
    compare_one_step(model, {}, keras.optimizers.Adam(1e-3, epsilon=1e-7), slot_factor=0.1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_one_sgd_step_equals_keras(momentum):
    train = {"optimizer": "sgd", "sgd_momentum": momentum}
    compare_one_step({"bn_placement": "conv+fc"}, train, keras.optimizers.SGD(1e-3, momentum), slot_factor=1.0)


def draw_decided(trainable):
    """A seed, its run, the reference and the first batch, where float32 decides which gradient is right.

    Once in some thousand draws a ReLU's input lies within rounding of 0, or two values of a pool of each other;
    then two right programs may differ by a whole term. And BN of a batch that hardly varies magnifies rounding.
    """
    for _ in range(20):
        seed = int(np.random.default_rng().integers(1 << 30))
        run = trainable.start({}, [{}], seed, ONE)
        images, labels = first_batch(seed)
        # A pass in training mode moves the statistics: what is only looked at is another copy.
        probe = reference_of(trainable, run.weights())
        clear = probe.distance_to_a_kink(images) > 1e-6
        if clear and rounding(trainable, run.weights(), images, labels) < 3e-5:
            return run, reference_of(trainable, run.weights()), images, labels
    raise AssertionError("20 draws in a row too near a kink, or too badly conditioned")


def reference_of(trainable, weights, dtype=None):
    """In float64, except with local response normalization: there is no float64 kernel for it."""
    settings = trainable.settings.model
    reference = Reference(settings, dtype=dtype or ("float32" if settings.lrn else "float64"))
    reference.copy(weights)
    return reference


def rounding(trainable, weights, images, labels):
    """How far Keras' own float32 gradients lie from its float64 one: the largest of the relative norms.

    One float32 gradient may be near by luck, so there are four: of these weights, and of three sets that differ
    from them by the rounding of a float32.
    """
    if trainable.settings.model.lrn:
        return 0.0

    single, double = (reference_of(trainable, weights, dtype) for dtype in ("float32", "float64"))
    exact = flat_gradient(double.loss_and_gradient(images, labels)[1])
    rough = []
    for sign in [np.zeros(len(weights)), *np.random.default_rng().choice([-1, 1], (3, len(weights)))]:
        single.copy(weights * (1 + sign * np.finfo(np.float32).epsneg))
        rough.append(flat_gradient(single.loss_and_gradient(images, labels)[1]))
    return max(np.linalg.norm(each - exact) for each in rough) / np.linalg.norm(exact)


def flat_gradient(gradients):
    return np.concatenate([np.ravel(g) for g in gradients]).astype(np.float64)


def compare_one_step(model, train, optimizer, slot_factor):
    trainable = make_trainable(
        train=TrainSettings(batch_size=BATCH, steps=60, learning_rate=1e-3, **train), **model, bn_momentum=0.9
    )
    run, reference, images, labels = draw_decided(trainable)
    loss, gradients = reference.loss_and_gradient(images, labels)
    gradient = flat_gradient(gradients)
    optimizer.apply(gradients, reference.variables())
    measurement = run.advance(1)

    assert measurement.curve[-1].train_loss == pytest.approx(float(loss), rel=1e-4)
    norm = np.linalg.norm(gradient)
    assert measurement.curve[-1].metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    # Sums over the batch cancel: an element's rounding is that of the largest terms, not of the result.
    rounding = 1e-4 * np.abs(gradient).max()
    slot = run._program.save().first_moment / slot_factor
    np.testing.assert_allclose(slot, gradient, rtol=1e-4, atol=rounding)
    # Adam's first step is rate * g / (|g| + eps): where g is rounding noise, so is the step.
    clear = np.abs(gradient) > 10 * rounding
    assert clear.mean() > 0.1
    np.testing.assert_allclose(run.weights()[clear], reference.flat()[clear], rtol=1e-4, atol=2e-6)
    compare_statistics(run, reference)
    compare_evaluation(run, measurement, reference)


def standardised(images):
    """By the training part, as data.standardize's default has it."""
    train = load(DataSettings()).train.images.astype(np.float64)
    return ((images - train.mean()) / train.std()).astype(np.float32)


def first_batch(seed):
    train = load(DataSettings()).train
    chosen = batch_indices(seed, len(train.labels), BATCH, 0, 1)[0]
    return standardised(train.images[chosen]), train.labels[chosen]


def compare_statistics(run, reference):
    layers = reference.batch_norms()
    if layers:
        theirs = [np.ravel(layer.moving_mean) for layer in layers] + [
            np.ravel(layer.moving_variance) for layer in layers
        ]
        ours = run._program.statistics_for([0], [0.9], 1)[0].numpy()
        np.testing.assert_allclose(ours, np.concatenate(theirs), rtol=1e-3, atol=1e-5)


def compare_evaluation(run, measurement, reference):
    reference.copy(run.weights())
    part = load(DataSettings()).eval
    logits = reference.model(standardised(part.images), training=False)
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


@pytest.mark.parametrize("network", ["small", "tutorial"])
def test_the_tutorials_initial_values(network):
    """cifar10.py: stddev 5e-2 (conv), .04 (local), 1/192 (softmax); biases 0, .1, .1, .1, 0."""
    model = ModelSettings(network=network, initializer="tutorial", fc_widths=(384, 192))
    layout = make_layout(model, (24, 24, 3), 10)
    weights = dict(
        zip([v.name for v in layout.variables], unflatten(layout, layout.initial_weights(3)), strict=True)
    )
    assert weights["conv1/kernel"].shape == (5, 5, 3, model.convolutions[0])
    # A normal truncated at two deviations has .8796 of the deviation.
    for name, stddev in (("conv1", 5e-2), ("conv2", 5e-2), ("fc1", 4e-2), ("fc2", 4e-2), ("logits", 1 / 192)):
        kernel = weights[f"{name}/kernel"].numpy()
        assert kernel.std() == pytest.approx(0.8796 * stddev, rel=0.05), name
        assert np.abs(kernel).max() <= 2 * stddev * 1.0001
    biases = {name: float(weights[f"{name}/bias"][0]) for name in ("conv1", "conv2", "fc1", "fc2", "logits")}
    assert biases == pytest.approx({"conv1": 0, "conv2": 0.1, "fc1": 0.1, "fc2": 0.1, "logits": 0})


def test_the_tutorial_network_is_the_tutorials_on_24x24_crops():
    """64 filters of 5x5 twice, 384 and 192 units: 1,068,298 weights, as cifar10.py has for 10 classes."""
    layout = make_layout(ModelSettings(network="tutorial"), (24, 24, 3), 10)
    assert layout.num_weights == 4864 + 102464 + (6 * 6 * 64 + 1) * 384 + 385 * 192 + 193 * 10


def test_gradients_are_clipped_to_their_global_norm():
    trainable = make_trainable(train=TrainSettings(batch_size=BATCH, steps=60, optimizer="sgd"))
    plain = trainable.start({}, [{}], 5, ONE)
    norm = plain.advance(1).curve[0].metrics["gradient_norm"]
    gradient = plain._program.save().first_moment
    clipped = trainable.start({"clip_norm": norm / 3}, [{}], 5, ONE)
    assert clipped.advance(1).curve[0].metrics["gradient_norm"] == pytest.approx(norm, rel=1e-6)
    expected, _ = tf.clip_by_global_norm([tf.constant(gradient)], norm / 3)
    np.testing.assert_allclose(clipped._program.save().first_moment, expected[0], rtol=1e-5)
    untouched = trainable.start({"clip_norm": norm * 3}, [{}], 5, ONE)
    untouched.advance(1)
    np.testing.assert_array_equal(untouched._program.save().first_moment, gradient)


@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("gamma", [True, False])
@pytest.mark.parametrize("network", [{}, {"network": "tutorial"}, {"network": "tutorial", "lrn": True}], ids=named)
@pytest.mark.parametrize("placement", ["none", "conv", "input+conv+fc"])
def test_pooling_first_changes_no_number_where_statistics_are_given(network, placement, gamma, order):
    """Scales of either sign: where gamma is negative the least value of a pool becomes the largest."""
    settings = ModelSettings(
        **network, bn_placement=placement, bn_order=order, bn_gamma=gamma, conv_widths=(4, 6), fc_widths=(5,)
    )
    layout = make_layout(settings, (12, 12, 3), 10)
    rng = np.random.default_rng()
    weights = unflatten(layout, tf.constant(rng.normal(size=layout.num_weights), tf.float32))
    images = tf.constant(rng.normal(size=(7, 12, 12, 3)), tf.float32)
    given = {name: rng.uniform(0.2, 2.0, (2, channels)) for name, channels in layout.bn_channels}

    def normalize(name, x, bias, gamma, beta):
        mean, variance = (tf.constant(each, tf.float32) for each in given[name])
        x = x if bias is None else x + bias
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)

    later, first = (forward(layout, settings, weights, images, normalize, pool_first=p) for p in (False, True))
    np.testing.assert_allclose(first, later, rtol=1e-5, atol=1e-6 * float(tf.reduce_max(tf.abs(later))))
