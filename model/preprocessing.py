"""From stored images to what the network sees: crops, the tutorial's augmentation, standardization.

Chance is stateless: what happens to an image depends on the seed, the step and its place in the batch alone, not
on the number of towers or on what ran before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import tensorflow as tf

from model.config import DataSettings

# What is drawn for an image: crop from the top, crop from the left, mirror, brightness, contrast.
NUM_DRAWS = 5


def draw(seed: tf.Tensor, step: tf.Tensor, count: int) -> tf.Tensor:
    """[5, count], uniform in [0, 1), for the images of one step. ``seed`` and ``step``: [] int64."""
    return tf.random.stateless_uniform([NUM_DRAWS, count], seed=tf.stack([seed, step]))


@dataclass(frozen=True)
class Preprocessing:
    """For images [N, H, W, C] of any number type; ``mean`` and ``deviation`` are the training pixels'."""

    settings: DataSettings
    mean: float
    deviation: float

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Of an image that the network sees."""
        crop = self.settings.crop_size
        return (crop, crop, image_shape[2]) if crop else image_shape

    def train(self, images: tf.Tensor, drawn: tf.Tensor | None) -> tf.Tensor:
        """Cropped, mirrored, brightened and stretched as ``drawn`` [5, N] says (tutorial order), standardized."""
        settings = self.settings
        if drawn is not None:
            if settings.crop_size:
                images = self._crop_at(images, drawn[0], drawn[1])
            if settings.flip:
                mirrored = (drawn[2] < 0.5)[:, tf.newaxis, tf.newaxis, tf.newaxis]
                images = tf.where(mirrored, tf.reverse(images, axis=[2]), images)
            images = tf.cast(images, tf.float32)
            if settings.brightness:
                images += _each_image(settings.brightness * (2 * drawn[3] - 1))
            if settings.contrast:
                middle = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
                factor = _each_image(1 + settings.contrast * (2 * drawn[4] - 1))
                images = (images - middle) * factor + middle
        return self._standardized(images)

    def evaluate(self, images: tf.Tensor) -> tf.Tensor:
        """The central crop, standardized."""
        crop = self.settings.crop_size
        if crop:
            top, left = (images.shape[1] - crop) // 2, (images.shape[2] - crop) // 2
            images = images[:, top : top + crop, left : left + crop]
        return self._standardized(images)

    def _crop_at(self, images: tf.Tensor, top: tf.Tensor, left: tf.Tensor) -> tf.Tensor:
        """Crops whose corners are so far (0..1) between the first and the last possible."""
        crop = self.settings.crop_size
        for axis, where in ((1, top), (2, left)):
            choices = images.shape[axis] - crop + 1
            first = tf.minimum(tf.cast(where * float(choices), tf.int32), choices - 1)
            chosen = first[:, tf.newaxis] + tf.range(crop)
            images = tf.gather(images, chosen, axis=axis, batch_dims=1)
        return images

    def _standardized(self, images: tf.Tensor) -> tf.Tensor:
        images = tf.cast(images, tf.float32)
        if self.settings.standardize == "dataset":
            return (images - self.mean) / self.deviation
        if self.settings.standardize == "image":
            # As tf.image.per_image_standardization: a flat image is not divided by nothing.
            count = float(np.prod(images.shape[1:]))
            mean, variance = tf.nn.moments(images, axes=[1, 2, 3], keepdims=True)
            return (images - mean) / tf.maximum(tf.sqrt(variance), 1 / sqrt(count))
        return images


def _each_image(values: tf.Tensor) -> tf.Tensor:
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]
