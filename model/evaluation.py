"""Loss and accuracy of given weights with given statistics, and statistics re-estimated from data."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model.batch_norm import normalize_batch, normalize_with
from model.config import ModelSettings
from model.data import Part
from model.measurement import Score
from model.network import Layout, forward, unflatten

CHUNK = 500  # Images a call: bounds the memory of large evaluations.


class Evaluator:
    """Traced evaluation of one structure; weights [P] and statistics [2 S] (means, then variances) are tensors."""

    def __init__(self, layout: Layout, model: ModelSettings) -> None:
        self._layout = layout
        self._model = model
        self._given = tf.function(self._with_given, reduce_retracing=True)
        self._batch = tf.function(self._with_batch, reduce_retracing=True)

    def score(self, weights: tf.Tensor, statistics: tf.Tensor | None, part: Part) -> Score:
        """Mean cross-entropy and accuracy over ``part``; with each chunk's own statistics if none are given."""
        loss = correct = 0.0
        for start in range(0, len(part.labels), CHUNK):
            images, labels = part.images[start : start + CHUNK], part.labels[start : start + CHUNK]
            if statistics is None:
                sums, _ = self._batch(weights, images, labels)
            else:
                sums = self._given(weights, statistics, images, labels)
            loss += float(sums[0])
            correct += float(sums[1])
        return Score(loss / len(part.labels), correct / len(part.labels))

    def reestimate(self, weights: tf.Tensor, part: Part, batch_size: int) -> tf.Tensor:
        """[2 S]: statistics of fixed weights over all of ``part`` (precise BN: Wu & Johnson, arXiv 2105.07576).

        The mean over batches of each batch's mean and variance; a last incomplete batch is left out.
        """
        rows = []
        for start in range(0, len(part.labels) - batch_size + 1, batch_size):
            batch = slice(start, start + batch_size)
            rows.append(self._batch(weights, part.images[batch], part.labels[batch])[1].numpy())
        return tf.constant(np.mean(rows, axis=0, dtype=np.float64).astype(np.float32))

    def _with_given(
        self, flat: tf.Tensor, statistics: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        names = [name for name, _ in self._layout.bn_channels]
        channels = [count for _, count in self._layout.bn_channels]
        parts = tf.split(statistics, channels * 2) if names else []
        means, variances = (
            dict(zip(names, parts, strict=False)),
            dict(zip(names, parts[len(names) :], strict=True)),
        )

        def normalize(name: str, x: tf.Tensor, gamma: tf.Tensor | None, beta: tf.Tensor | None) -> tf.Tensor:
            return normalize_with(x, gamma, beta, self._model.bn_epsilon, means[name], variances[name])

        logits = forward(self._layout, self._model, unflatten(self._layout, flat), images, normalize)
        return _sums(logits, labels)

    def _with_batch(
        self, flat: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        means: list[tf.Tensor] = []
        variances: list[tf.Tensor] = []

        def normalize(name: str, x: tf.Tensor, gamma: tf.Tensor | None, beta: tf.Tensor | None) -> tf.Tensor:
            normalized, mean, variance = normalize_batch(x, gamma, beta, self._model.bn_epsilon)
            means.append(mean)
            variances.append(variance)
            return normalized

        logits = forward(self._layout, self._model, unflatten(self._layout, flat), images, normalize)
        statistics = tf.concat([*means, *variances], axis=0) if means else tf.zeros([0])
        return _sums(logits, labels), statistics


def _sums(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
    return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(hits, tf.float32))
