"""A step's images and labels, on each tower's device: from data that lives there, or streamed by tf.data.

Both give the same numbers; only where the data waits differs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model.config import DataSettings
from model.data import Part
from model.devices import Placement
from model.preprocessing import Preprocessing, draw
from model.towers import Batch

PREFETCH = 2  # Batches made ready ahead of the step.

# next_batches(i, step): each tower's share of the call's i-th step, whose number since the start is ``step``.
NextBatches = Callable[["tf.Tensor", "tf.Tensor"], list[Batch]]


@lru_cache(maxsize=16)
def _on_device(part: Part, device: str) -> Batch:
    """All of a part, copied once a device, whatever the number of programs that learn from it."""
    with tf.device(device):
        return tf.identity(tf.constant(part.images)), tf.identity(tf.constant(part.labels))


def stored(part: Part, device: str, settings: DataSettings) -> Batch:
    """All of a part: on ``device`` if it fits ``data.resident_mib``, else the arrays as they are."""
    if part.images.nbytes <= settings.resident_mib * 2**20:
        images_and_labels: Batch = _on_device(part, device)
        return images_and_labels
    return part.images, part.labels


class Feed:
    """The training part, kept on every tower's device if it fits ``data.resident_mib``."""

    def __init__(self, part: Part, placement: Placement, preprocessing: Preprocessing, batch_size: int) -> None:
        self._part, self._towers = part, placement.towers
        self._preprocessing, self._batch_size = preprocessing, batch_size
        copies = [stored(part, device, preprocessing.settings) for device in placement.towers]
        self.resident = copies[0][0] is not part.images
        self._images, self._labels = ([copy[i] for copy in copies] for i in (0, 1))

    def start(self, indices: tf.Tensor, seed: tf.Tensor) -> NextBatches:
        """For one traced call's steps, which see ``indices`` [steps, batch]; ``seed`` [] is the augmentation's."""
        stored = self._from_devices(indices) if self.resident else self._streamed(indices)

        def next_batches(i: tf.Tensor, step: tf.Tensor) -> list[Batch]:
            augmented = self._preprocessing.settings.augmented
            drawn = draw(seed, step, self._batch_size) if augmented else None
            draws = [None] * len(self._towers) if drawn is None else tf.split(drawn, len(self._towers), axis=1)
            batches = []
            for device, (images, labels), own in zip(self._towers, stored(i), draws, strict=True):
                with tf.device(device):
                    batches.append((self._preprocessing.train(images, own), labels))
            return batches

        return next_batches

    def _from_devices(self, indices: tf.Tensor) -> Callable[[tf.Tensor], list[Batch]]:
        def take(i: tf.Tensor) -> list[Batch]:
            batches = []
            shares = tf.split(indices[i], len(self._towers))
            for device, share, images, labels in zip(
                self._towers, shares, self._images, self._labels, strict=True
            ):
                with tf.device(device):
                    batches.append((tf.gather(images, share), tf.gather(labels, share)))
            return batches

        return take

    def _streamed(self, indices: tf.Tensor) -> Callable[[tf.Tensor], list[Batch]]:
        part, shape = self._part, (self._batch_size, *self._part.images.shape[1:])

        def gather(chosen: NDArray[np.int32]) -> tuple[NDArray[np.generic], NDArray[np.int32]]:
            return part.images[chosen], part.labels[chosen]

        def batch_of(chosen: tf.Tensor) -> Batch:
            images, labels = tf.numpy_function(gather, [chosen], [part.images.dtype, tf.int32])
            return tf.ensure_shape(images, shape), tf.ensure_shape(labels, shape[:1])

        with tf.device("/CPU:0"):
            iterator = iter(tf.data.Dataset.from_tensor_slices(indices).map(batch_of).prefetch(PREFETCH))

        def take(_: tf.Tensor) -> list[Batch]:
            with tf.device("/CPU:0"):
                images, labels = next(iterator)
                shares = zip(tf.split(images, len(self._towers)), tf.split(labels, len(self._towers)), strict=True)
            return list(shares)

        return take
