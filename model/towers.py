"""Explicit towers: one copy of the network a device, shared variables, averaged gradients.

Invariants, held loudly: every variable exists before the first tower is built, and every tower yields a gradient
for every variable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from model.batch_norm import normalize_batch
from model.config import ModelSettings
from model.network import Layout, forward, unflatten


@dataclass(frozen=True)
class TowerResult:
    """One tower's mean cross-entropy [], gradient [P] and batch statistics [2 S] (means, then variances)."""

    loss: tf.Tensor
    gradient: tf.Tensor
    statistics: tf.Tensor


def run_tower(
    layout: Layout, model: ModelSettings, flat: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
) -> TowerResult:
    """Forward and backward on one tower's share of the batch: images [N, H, W, C], labels [N]."""
    means: dict[str, tf.Tensor] = {}
    variances: dict[str, tf.Tensor] = {}

    def normalize(name: str, x: tf.Tensor, gamma: tf.Tensor | None, beta: tf.Tensor | None) -> tf.Tensor:
        normalized, means[name], variances[name] = normalize_batch(x, gamma, beta, model.bn_epsilon)
        return normalized

    weights = unflatten(layout, flat)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        logits = forward(layout, model, weights, images, normalize)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits))
    gradients = tape.gradient(loss, weights)
    missing = [v.name for v, g in zip(layout.variables, gradients, strict=True) if g is None]
    if missing:
        raise AssertionError(f"no gradient for {missing}, but every tower must have one for every variable")
    gradient = tf.concat([tf.reshape(g, [-1]) for g in gradients], axis=0)
    order = [name for name, _ in layout.bn_channels]
    rows = [means[name] for name in order] + [variances[name] for name in order]
    return TowerResult(loss, gradient, tf.concat(rows, axis=0) if rows else tf.zeros([0]))


def run_towers(
    layout: Layout,
    model: ModelSettings,
    devices: Sequence[str],
    flat: tf.Tensor,
    images: Sequence[tf.Tensor],
    labels: Sequence[tf.Tensor],
    indices: tf.Tensor,
) -> list[TowerResult]:
    """One step's towers. Tower i takes the i-th share of ``indices`` [batch] from its own device's data."""
    results = []
    for device, share, x, y in zip(devices, tf.split(indices, len(devices)), images, labels, strict=True):
        with tf.device(device):
            results.append(run_tower(layout, model, tf.identity(flat), tf.gather(x, share), tf.gather(y, share)))
    return results
