"""Loss and accuracy of given weights with given statistics, and statistics re-estimated from data."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from model.batch_norm import normalize_batch, normalize_with
from model.config import ModelSettings
from model.data import Part
from model.measurement import Score
from model.network import Layout, Normalize, forward, unflatten
from model.preprocessing import Preprocessing

CHUNK = 500  # Images a call: bounds the memory of large evaluations.


class Evaluator:
    """Traced evaluation of one structure; weights [P] and statistics [2 S] (means, then variances) are tensors."""

    def __init__(self, layout: Layout, model: ModelSettings, preprocessing: Preprocessing) -> None:
        self._layout = layout
        self._model = model
        self._preprocessing = preprocessing
        self._given = tf.function(self._with_given, reduce_retracing=True)
        self._batch = tf.function(self._with_batch, reduce_retracing=True)

    def score(self, weights: tf.Tensor, statistics: tf.Tensor, part: Part) -> Score:
        """Mean cross-entropy and accuracy over ``part``, with the statistics given."""
        total = np.zeros(2)
        for start in range(0, len(part.labels), CHUNK):
            images, labels = part.images[start : start + CHUNK], part.labels[start : start + CHUNK]
            total += [float(each) for each in self._given(weights, statistics, images, labels)]
        return Score(*(total / len(part.labels)))

    def score_by_batch(self, weights: tf.Tensor, part: Part, batch_size: int) -> Score:
        """The same, each batch with its own statistics, as in training.

        The images are mixed first (always the same way), as a file's order may follow its classes. What is left
        over makes a batch of its own.
        """
        total = np.zeros(2)
        mixed = np.random.default_rng(0).permutation(len(part.labels))
        for start in range(0, len(mixed), batch_size):
            batch = mixed[start : start + batch_size]
            sums, _ = self._batch(weights, part.images[batch], part.labels[batch])
            total += [float(each) for each in sums]
        return Score(*(total / len(mixed)))

    def reestimate(self, weights: tf.Tensor, part: Part, batch_size: int) -> tf.Tensor:
        """[2 S]: statistics of fixed weights over all of ``part`` (precise BN: Wu & Johnson, arXiv 2105.07576).

        The mean over batches of each batch's mean and variance; a last incomplete batch is left out. Images are
        seen as evaluation sees them, without augmentation.
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

        return _sums(self._logits(flat, images, normalize), labels)

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

        logits = self._logits(flat, images, normalize)
        statistics = tf.concat([*means, *variances], axis=0) if means else tf.zeros([0])
        return _sums(logits, labels), statistics

    def _logits(self, flat: tf.Tensor, images: tf.Tensor, normalize: Normalize) -> tf.Tensor:
        seen = self._preprocessing.evaluate(images)
        return forward(self._layout, self._model, unflatten(self._layout, flat), seen, normalize)


def _sums(logits: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    hits = tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), labels)
    return tf.reduce_sum(losses), tf.reduce_sum(tf.cast(hits, tf.float32))
