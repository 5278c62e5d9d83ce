"""Explicit towers: one copy of the network a device, shared variables, averaged gradients.

Invariants, held loudly: every variable exists before the first tower is built, and every tower yields a gradient
for every variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from model.batch_norm import normalize_batch, normalize_synchronized
from model.config import ModelSettings
from model.network import Layout, Site, forward, forward_steps, unflatten

# One tower's share: images [N, H, W, C] and labels [N], on its device.
Batch = tuple["tf.Tensor", "tf.Tensor"]


@dataclass(frozen=True)
class TowerResult:
    """One tower's mean cross-entropy [], gradient [P], batch statistics [2 S] (means, variances) and logits."""

    loss: tf.Tensor
    gradient: tf.Tensor
    statistics: tf.Tensor
    logits: tf.Tensor


def run_towers(
    layout: Layout,
    model: ModelSettings,
    devices: Sequence[str],
    flat: tf.Tensor,
    batches: Sequence[Batch],
    smoothing: tf.Tensor | None = None,
) -> list[TowerResult]:
    """One step's towers, each on its device with its own batch; ``flat`` [P] are the shared weights.

    ``smoothing`` [] spreads that share of each label over all classes in what is differentiated. The gradients'
    mean over towers is that of the towers' mean loss. Synchronized statistics need a graph (a tf.function).
    """
    if model.bn_statistics == "synchronized" and layout.bn_channels and len(devices) > 1:
        return _run_together(layout, model, devices, flat, batches, smoothing)
    results = []
    for device, (images, labels) in zip(devices, batches, strict=True):
        with tf.device(device):
            results.append(run_tower(layout, model, tf.identity(flat), images, labels, smoothing))
    return results


def run_tower(
    layout: Layout,
    model: ModelSettings,
    flat: tf.Tensor,
    images: tf.Tensor,
    labels: tf.Tensor,
    smoothing: tf.Tensor | None = None,
) -> TowerResult:
    """Forward and backward on one tower's share of the batch: images [N, H, W, C], labels [N]."""
    found: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}

    def normalize(
        name: str, x: tf.Tensor, bias: tf.Tensor | None, gamma: tf.Tensor | None, beta: tf.Tensor | None
    ) -> tf.Tensor:
        normalized, mean, variance = normalize_batch(x, bias, gamma, beta, model.bn_epsilon)
        found[name] = mean, variance
        return normalized

    weights = unflatten(layout, flat)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        logits = forward(layout, model, weights, images, normalize)
        loss, objective = _losses(logits, labels, smoothing)
    gradient = _flat_gradient(layout, tape.gradient(objective, weights))
    return TowerResult(loss, gradient, _statistics(layout, found), logits)


def _run_together(
    layout: Layout,
    model: ModelSettings,
    devices: Sequence[str],
    flat: tf.Tensor,
    batches: Sequence[Batch],
    smoothing: tf.Tensor | None,
) -> list[TowerResult]:
    """All towers' passes side by side: they halt at every site and go on with the statistics that they share."""
    weights, passes = [], []
    for device, (images, _) in zip(devices, batches, strict=True):
        with tf.device(device):
            weights.append(unflatten(layout, tf.identity(flat)))
            passes.append(forward_steps(layout, model, weights[-1], images))
    found: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
    features: list[tf.Tensor | None] = [None] * len(devices)
    for _ in layout.bn_channels:
        sites: list[Site] = []
        for device, steps, x in zip(devices, passes, features, strict=True):
            with tf.device(device):
                sites.append(steps.send(x))
        names, xs, biases, gammas, betas = zip(*sites, strict=True)
        normalized, mean, variance = normalize_synchronized(xs, biases, gammas, betas, model.bn_epsilon, devices)
        features = list(normalized)
        found[names[0]] = mean, variance
    logits, losses, objectives = [], [], []
    for device, steps, x, (_, labels) in zip(devices, passes, features, batches, strict=True):
        with tf.device(device):
            try:
                steps.send(x)
            except StopIteration as end:
                logits.append(end.value)
            loss, objective = _losses(logits[-1], labels, smoothing)
            losses.append(loss)
            objectives.append(objective)
    # Differentiated at once, as a tower's images reach the others' losses through the statistics. The v1 call is
    # the one that can keep each gradient operation on the device of the operation that it belongs to.
    flat_weights = [weight for own in weights for weight in own]
    every = tf.compat.v1.gradients(tf.add_n(objectives), flat_weights, colocate_gradients_with_ops=True)
    statistics, size = _statistics(layout, found), len(layout.variables)
    results = []
    for index, device in enumerate(devices):
        with tf.device(device):
            gradient = _flat_gradient(layout, every[index * size : (index + 1) * size])
            results.append(TowerResult(losses[index], gradient, statistics, logits[index]))
    return results


def _losses(logits: tf.Tensor, labels: tf.Tensor, smoothing: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor]:
    """The mean cross-entropy, and what is differentiated: the same with smoothed labels."""
    loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    if smoothing is None:
        return loss, loss
    uniform = -tf.reduce_mean(tf.nn.log_softmax(logits))
    return loss, loss + smoothing * (uniform - loss)


def _flat_gradient(layout: Layout, gradients: Sequence[tf.Tensor | None]) -> tf.Tensor:
    missing = [v.name for v, g in zip(layout.variables, gradients, strict=True) if g is None]
    if missing:
        raise AssertionError(f"no gradient for {missing}, but every tower must have one for every variable")
    return tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)


def _statistics(layout: Layout, found: dict[str, tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    order = [name for name, _ in layout.bn_channels]
    rows = [found[name][0] for name in order] + [found[name][1] for name in order]
    return tf.concat(rows, axis=0) if rows else tf.zeros([0])
