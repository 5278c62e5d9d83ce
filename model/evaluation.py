"""Loss and accuracy of given weights with given statistics, and statistics re-estimated from data."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import tensorflow as tf

from model.batch_norm import normalize_batch, normalize_with
from model.config import ModelSettings
from model.data import Part
from model.feeding import stored
from model.measurement import Score
from model.network import Layout, Normalize, Site, finish, forward_steps, unflatten
from model.preprocessing import Preprocessing

CHUNK = 500  # Images a call: bounds the memory of large evaluations.


class Evaluator:
    """Traced evaluation of one structure; weights [P] and statistics [2 S] (means, then variances) are tensors."""

    def __init__(
        self, layout: Layout, model: ModelSettings, preprocessing: Preprocessing, device: str, part: Part
    ) -> None:
        self._device = device
        self._layout = layout
        self._model = model
        self._preprocessing = preprocessing
        # Of a GPU's operations each has all of it.
        self._side_by_side = "GPU" not in device and tf.config.threading.get_inter_op_parallelism_threads() > 1
        # Any number of images, with any number of rows of statistics: each is traced once. ``part`` is like all.
        weights = tf.TensorSpec([layout.num_weights], tf.float32)
        images = tf.TensorSpec([None, *part.images.shape[1:]], part.images.dtype)
        labels = tf.TensorSpec([None], tf.int32)
        rows = tf.TensorSpec([None, 2 * layout.num_statistics], tf.float32)
        given = [weights, rows, images, labels]
        self._given = tf.function(self._with_given, autograph=False, input_signature=given)
        self._given_in_halves = tf.function(self._halves_with_given, autograph=False, input_signature=given)
        self._batch = tf.function(self._with_batch, autograph=False, input_signature=[weights, images, labels])

    def scores(self, weights: tf.Tensor, statistics: tf.Tensor, part: Part) -> list[Score]:
        """Mean cross-entropy and accuracy over ``part`` with each row of ``statistics`` [M, 2 S].

        What comes before the first site of batch normalization is computed once for all rows.
        """
        images, labels = stored(part, self._device, self._preprocessing.settings)
        num_rows, num_images = int(statistics.shape[0]), len(part.labels)
        total = np.zeros([num_rows, 2])
        for start in range(0, num_images, CHUNK):
            chosen = slice(start, start + CHUNK)
            # A slice of a tensor is a copy, even one of all of it.
            some = (images, labels) if num_images <= CHUNK else (images[chosen], labels[chosen])
            in_halves = self._side_by_side and min(CHUNK, num_images - start) > 1
            sums_of = self._given_in_halves if in_halves else self._given
            total += sums_of(weights, statistics, *some).numpy()
        return [Score(float(loss), float(accuracy)) for loss, accuracy in total / num_images]

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
            total += sums.numpy()
        return Score(*(float(each) for each in total / len(mixed)))

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

    def _halves_with_given(
        self, flat: tf.Tensor, statistics: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        """[M, 2]: of two halves of the images, which can be computed side by side. Neither may be empty."""
        half = tf.shape(images)[0] // 2
        halves = (images[:half], labels[:half]), (images[half:], labels[half:])
        return tf.add_n([self._with_given(flat, statistics, *each) for each in halves])

    def _with_given(
        self, flat: tf.Tensor, statistics: tf.Tensor, images: tf.Tensor, labels: tf.Tensor
    ) -> tf.Tensor:
        """[M, 2]: sums of losses and of hits. A row at a time: of many, the features would leave the caches."""
        names = [name for name, _ in self._layout.bn_channels]
        sizes = [channels for _, channels in self._layout.bn_channels] * 2
        steps = self._steps(flat, images, pool_first=True)

        def with_row(row: tf.Tensor) -> Normalize:
            parts = tf.split(row, sizes) if names else []
            given = dict(zip(names, zip(parts[: len(names)], parts[len(names) :], strict=True), strict=True))

            def normalize(name: str, x: tf.Tensor, *affine: tf.Tensor | None) -> tf.Tensor:
                bias, gamma, beta = affine
                return normalize_with(x, bias, gamma, beta, self._model.bn_epsilon, *given[name])

            return normalize

        if not names:
            return _sums(finish(steps, None, with_row(statistics[0])), labels)[tf.newaxis]
        site = next(steps)

        def sums_of_a_row(row: tf.Tensor) -> tf.Tensor:
            normalize = with_row(row)
            return _sums(finish(steps, normalize(*site), normalize), labels)

        return tf.map_fn(sums_of_a_row, statistics)

    def _with_batch(self, flat: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        means: list[tf.Tensor] = []
        variances: list[tf.Tensor] = []

        def normalize(
            _name: str,
            x: tf.Tensor,
            bias: tf.Tensor | None,
            gamma: tf.Tensor | None,
            beta: tf.Tensor | None,
        ) -> tf.Tensor:
            normalized, mean, variance = normalize_batch(x, bias, gamma, beta, self._model.bn_epsilon)
            means.append(mean)
            variances.append(variance)
            return normalized

        logits = finish(self._steps(flat, images), None, normalize)
        statistics = tf.concat([*means, *variances], axis=0) if means else tf.zeros([0])
        return _sums(logits, labels), statistics

    def _steps(
        self, flat: tf.Tensor, images: tf.Tensor, *, pool_first: bool = False
    ) -> Generator[Site, tf.Tensor | None, tf.Tensor]:
        seen, weights = self._preprocessing.evaluate(images), unflatten(self._layout, flat)
        return forward_steps(self._layout, self._model, weights, seen, pool_first=pool_first)


def _sums(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """[..., 2]: the sums of losses and of hits over the last axis of ``labels`` [..., N]."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    hits = tf.equal(tf.argmax(logits, axis=-1, output_type=tf.int32), labels)
    return tf.stack([tf.reduce_sum(losses, axis=-1), tf.reduce_sum(tf.cast(hits, tf.float32), axis=-1)], axis=-1)
