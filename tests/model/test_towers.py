"""Towers: two devices for real, per-tower statistics, averaged gradients, labels wired to their own images."""

import re

import numpy as np
import pytest
import tensorflow as tf

from model import convolution, network
from model.config import ModelSettings
from model.network import forward, make_layout, unflatten
from model.towers import run_tower, run_towers
from tests.model.conftest import TWO, make_trainable

DEVICES = ["/CPU:0", "/CPU:1"]
SMALL = {"conv_widths": (4,), "fc_widths": (6,), "kernel_size": 3}


def setup(placement="conv+fc", channels=1, **model):
    """Images of one channel are convolved by a matrix product, those of more by a convolution."""
    settings = ModelSettings(towers=2, bn_placement=placement, **SMALL, **model)
    layout = make_layout(settings, (8, 8, channels), 5)
    rng = np.random.default_rng()
    while True:
        weights = (0.3 * rng.normal(size=layout.num_weights)).astype(np.float32)
        images = rng.normal(size=(12, 8, 8, channels)).astype(np.float32)
        labels = rng.integers(0, 5, size=12).astype(np.int32)
        if reaches_the_first_layer(float64_loss(settings, layout, weights, images, labels)[1], layout):
            return settings, layout, weights, images, labels


def reaches_the_first_layer(gradient, layout):
    """One draw in some hundreds has a layer that is dead for all images: there nothing depends on towers."""
    names = [variable.name for variable in layout.variables]
    kernel = np.split(gradient, np.cumsum(layout.sizes)[:-1])[names.index("conv1/kernel")]
    return np.abs(kernel).max() > 1e-3 * np.abs(gradient).max()


def shares(images, labels, count=2):
    """Each tower's images and labels."""
    return list(zip(tf.split(images, count), tf.split(labels, count), strict=True))


def float64_loss(settings, layout, weights, images, labels, smoothing=0.0):
    """The tower's loss, its gradient (of the loss with smoothed labels) in float64; BN from its definition."""
    flat = tf.constant(weights.astype(np.float64))
    statistics = []

    def normalize(name, x, bias, gamma, beta):
        x = x if bias is None else x + bias
        axes = list(range(x.shape.rank - 1))
        mean = tf.reduce_mean(x, axes)
        variance = tf.reduce_mean((x - mean) ** 2, axes)
        statistics.append((mean.numpy(), variance.numpy()))
        normalized = (x - mean) / tf.sqrt(variance + settings.bn_epsilon)
        return normalized * (1.0 if gamma is None else gamma) + (0.0 if beta is None else beta)

    with tf.GradientTape() as tape:
        tape.watch(flat)
        logits = forward(
            layout, settings, unflatten(layout, flat), tf.constant(images.astype(np.float64)), normalize
        )
        logp = logits - tf.reduce_logsumexp(logits, axis=1, keepdims=True)
        loss = -tf.reduce_mean(tf.gather(logp, labels, batch_dims=1))
        objective = (1 - smoothing) * loss - smoothing * tf.reduce_mean(logp)
    means, variances = zip(*statistics, strict=True) if statistics else ((), ())
    return float(loss), tape.gradient(objective, flat).numpy(), np.concatenate([[], *means, *variances])


@pytest.mark.parametrize("placement", ["conv", "conv+fc", "input+conv+fc+logits"])
@pytest.mark.parametrize("order", ["pre", "post"])
def test_each_tower_uses_its_own_batch_statistics(placement, order):
    settings, layout, weights, images, labels = setup(placement, bn_order=order)
    results = run_towers(layout, settings, DEVICES, tf.constant(weights), shares(images, labels))
    for result, share in zip(results, (slice(0, 6), slice(6, 12)), strict=True):
        loss, gradient, statistics = float64_loss(settings, layout, weights, images[share], labels[share])
        assert float(result.loss) == pytest.approx(loss, rel=1e-4)
        # BN cancels the gradient of the biases before it: what is left there is rounding of the largest terms.
        np.testing.assert_allclose(result.gradient, gradient, rtol=2e-3, atol=1e-4 * np.abs(gradient).max())
        np.testing.assert_allclose(result.statistics, statistics, rtol=1e-3, atol=1e-5)


def test_a_bias_before_normalization_has_no_gradient():
    """Where the mean takes it out again; what rounding would leave, Adam would make a step of."""
    settings, layout, weights, images, labels = setup("conv")
    gradient = unflatten(layout, run_tower(layout, settings, tf.constant(weights), images, labels).gradient)
    by_name = {variable.name: each.numpy() for variable, each in zip(layout.variables, gradient, strict=True)}
    np.testing.assert_array_equal(by_name["conv1/bias"], np.zeros(4))
    for site in ("fc1", "logits"):
        assert (by_name[f"{site}/bias"] != 0).any()


def test_a_network_of_large_convolutions_is_that_of_tensorflows_own(monkeypatch):
    settings = ModelSettings(network="tutorial", bn_placement="conv", conv_widths=(32, 32), fc_widths=(6,))
    layout = make_layout(settings, (16, 16, 3), 5)
    rng = np.random.default_rng()
    weights = (0.1 * rng.normal(size=layout.num_weights)).astype(np.float32)
    images, labels = rng.normal(size=(12, 16, 16, 3)).astype(np.float32), rng.integers(0, 5, size=12)
    found = float64_loss(settings, layout, weights, images, labels)
    monkeypatch.setattr(network, "convolve", lambda x, kernel: tf.nn.conv2d(x, kernel, 1, "SAME"))
    for ours, theirs in zip(found, float64_loss(settings, layout, weights, images, labels), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_statistics_of_a_single_value_are_that_value_and_no_variance():
    """Fully connected BN over one image: the fused kernel's Bessel correction must not divide by nothing."""
    settings, layout, weights, images, labels = setup("fc")
    result = run_tower(layout, settings, tf.constant(weights), images[:1], labels[:1])
    assert np.isfinite(result.statistics).all()
    np.testing.assert_array_equal(result.statistics[6:], np.zeros(6))


def test_moving_a_label_to_another_tower_changes_what_the_reference_says():
    settings, layout, weights, images, labels = setup()
    labels[:] = 0
    labels[0] = 1
    swapped = labels.copy()
    swapped[[0, 6]] = swapped[[6, 0]]
    for given in (labels, swapped):
        results = run_towers(layout, settings, DEVICES, tf.constant(weights), shares(images, given))
        expected = [
            float64_loss(settings, layout, weights, images[s], given[s])[0] for s in (slice(0, 6), slice(6, 12))
        ]
        assert [float(result.loss) for result in results] == pytest.approx(expected, rel=1e-4)


def synchronized(settings, layout, weights, batches, smoothing=None):
    """run_towers in a graph, which synchronized statistics need; each result as NumPy arrays."""

    @tf.function
    def traced():
        results = run_towers(layout, settings, DEVICES, tf.constant(weights), batches, smoothing)
        return [(r.loss, r.gradient, r.statistics) for r in results]

    return [[each.numpy() for each in result] for result in traced()]


@pytest.mark.parametrize("placement", ["conv", "conv+fc", "input+conv+fc+logits"])
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize("gamma", [True, False])
def test_synchronized_towers_are_one_tower_on_the_whole_batch(placement, order, gamma):
    settings, layout, weights, images, labels = setup(
        placement, bn_order=order, bn_gamma=gamma, bn_statistics="synchronized"
    )
    towers = synchronized(settings, layout, weights, shares(images, labels))
    loss, gradient, statistics = float64_loss(settings, layout, weights, images, labels)
    assert np.mean([tower[0] for tower in towers]) == pytest.approx(loss, rel=1e-4)
    mean = np.mean([tower[1] for tower in towers], axis=0)
    np.testing.assert_allclose(mean, gradient, rtol=2e-3, atol=1e-4 * np.abs(gradient).max())
    for tower in towers:
        np.testing.assert_allclose(tower[2], statistics, rtol=1e-3, atol=1e-5)
    # And the difference matters: towers on their own do not come near it.
    alone = run_towers(
        layout,
        ModelSettings(**vars(settings) | {"bn_statistics": "tower"}),
        DEVICES,
        tf.constant(weights),
        shares(images, labels),
    )
    assert np.abs(np.mean([r.gradient for r in alone], axis=0) - gradient).max() > 3e-4 * np.abs(gradient).max()


def test_synchronized_gradients_stay_on_their_towers_devices():
    settings, layout, weights, images, labels = setup("conv", channels=2, bn_statistics="synchronized")

    @tf.function
    def traced():
        results = run_towers(layout, settings, DEVICES, tf.constant(weights), shares(images, labels))
        return [result.gradient for result in results]

    graph = traced.get_concrete_function().graph
    for op in ("Conv2D", "Conv2DBackpropFilter"):
        where = [node.device for node in graph.get_operations() if node.type == op]
        assert sorted(device.rsplit("device:", 1)[-1] for device in where) == ["CPU:0", "CPU:1"], op


def test_synchronized_statistics_keep_their_digits_far_from_zero():
    """A one-pass variance of values around 1e4 would be noise in float32."""
    settings, layout, weights, images, labels = setup("input", bn_statistics="synchronized")
    images = images + np.float32(1e4)
    statistics = synchronized(settings, layout, weights, shares(images, labels))[0][2]
    np.testing.assert_allclose(statistics[1], images.astype(np.float64).var(), rtol=1e-3)


def test_smoothed_labels_are_trained_on_and_the_plain_loss_is_told():
    settings, layout, weights, images, labels = setup()
    result = run_tower(layout, settings, tf.constant(weights), tf.constant(images), labels, tf.constant(0.2))
    loss, gradient, _ = float64_loss(settings, layout, weights, images, labels, smoothing=0.2)
    assert float(result.loss) == pytest.approx(loss, rel=1e-4)
    np.testing.assert_allclose(result.gradient, gradient, rtol=2e-3, atol=1e-4 * np.abs(gradient).max())


def test_without_bn_two_towers_are_one_tower_on_the_whole_batch():
    settings, layout, weights, images, labels = setup("none")
    towers = run_towers(layout, settings, DEVICES, tf.constant(weights), shares(images, labels))
    whole = run_tower(layout, settings, tf.constant(weights), tf.constant(images), labels)
    rounding = 1e-5 * np.abs(whole.gradient).max()
    mean = (towers[0].gradient + towers[1].gradient) / 2
    np.testing.assert_allclose(mean, whole.gradient, rtol=1e-3, atol=rounding)


def test_a_step_averages_the_towers_gradients():
    trainable = make_trainable(towers=2, bn_placement="conv+fc")
    run = trainable.start({}, [{}], 3, TWO)
    weights, layout = run.weights(), run._program.layout
    from model.data import batch_indices

    train = run._data.train
    chosen = batch_indices(3, len(train.labels), 16, 0, 1)[0]
    images = (train.images - train.images.mean()) / train.images.std()
    gradients = [
        float64_loss(trainable.settings.model, layout, weights, images[share], train.labels[share])[1]
        for share in (chosen[:8], chosen[8:])
    ]
    run.advance(1)
    moment = run._program.save().first_moment
    np.testing.assert_allclose(moment, 0.1 * np.mean(gradients, axis=0), rtol=2e-3, atol=1e-6)


def devices_that_ran(op, devices):
    """On which devices a step of the towers ran ``op``, as TensorFlow's own full trace of the execution tells."""
    settings, layout, weights, images, labels = setup("conv", channels=2)
    v1 = tf.compat.v1
    with tf.Graph().as_default():
        # Fed, not constant: TensorFlow would compute a graph of constants before it runs anything.
        fed = [v1.placeholder(array.dtype, array.shape) for array in (weights, images, labels)]
        copies = len(devices)
        batches = list(zip(tf.split(fed[1], copies), tf.split(fed[2], copies), strict=True))
        results = run_towers(layout, settings, devices, fed[0], batches)
        trace = v1.RunMetadata()
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
            options = v1.RunOptions(trace_level=v1.RunOptions.FULL_TRACE)
            given = dict(zip(fed, (weights, images, labels), strict=True))
            session.run([result.gradient for result in results], given, options=options, run_metadata=trace)
    return {
        device.device.rsplit("device:", 1)[-1]
        for device in trace.step_stats.dev_stats
        for node in device.node_stats
        if re.search(rf" = \S*{op}\S*\(", node.timeline_label)
    }


@pytest.mark.parametrize("op", ["Conv2D", "Conv2DBackpropFilter", "FusedBatchNorm(V3|Ex)", "FusedBatchNormGradV3"])
def test_two_towers_are_two_devices(op):
    assert devices_that_ran(op, DEVICES) == {"CPU:0", "CPU:1"}
    assert devices_that_ran(op, ["/CPU:1"]) == {"CPU:1"}


def test_a_program_has_one_copy_of_the_network_a_device(monkeypatch):
    """The traced step itself: every tower's operations carry their own device."""
    monkeypatch.setattr(convolution, "has_fast_kernels", lambda: True)  # Else they are matrix products.
    run = make_trainable(towers=2, bn_placement="conv", kernel_size=3, conv_widths=(8, 8)).start({}, [{}], 0, TWO)
    graph = run._program._train.get_concrete_function().graph.as_graph_def()
    nodes = [node for function in graph.library.function for node in function.node_def]
    placed = [node.device.rsplit("/", 1)[-1] for node in nodes if node.op == "Conv2D"]
    assert sorted(placed) == 2 * ["device:CPU:0"] + 2 * ["device:CPU:1"]
