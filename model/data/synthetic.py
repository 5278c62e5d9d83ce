"""Images made up from class prototypes: as many classes as one likes, and a known difficulty."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.config import DataSettings
from model.data.dataset import Dataset, Part

MAX_SHIFT = 1  # Pixels, each way, with wrap-around.


def make_synthetic(settings: DataSettings) -> Dataset:
    """Smoothed random prototypes of unit variance, shifted by up to a pixel, plus white noise."""
    rng = np.random.default_rng(settings.seed)
    size = (settings.num_classes, settings.image_size, settings.image_size, settings.channels)
    prototypes = _smooth(rng.standard_normal(size))
    prototypes /= prototypes.std(axis=(1, 2, 3), keepdims=True)
    counts = (settings.num_train, settings.num_eval, settings.num_eval)
    drawn = [_draw(rng, prototypes, count, settings.noise) for count in counts]
    parts = [Part(x.astype(np.float32), y) for x, y in drawn]
    return Dataset(parts[0], parts[1], parts[2], settings.num_classes)


def _smooth(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """A 3x3 box filter with wrap-around."""
    offsets = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return np.asarray(np.mean([np.roll(images, offset, axis=(1, 2)) for offset in offsets], axis=0))


def _draw(
    rng: np.random.Generator, prototypes: NDArray[np.float64], count: int, noise: float
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """``count`` images; classes in turn, so that they are balanced, then shuffled."""
    labels = rng.permutation(np.arange(count) % len(prototypes)).astype(np.int32)
    shifts = rng.integers(-MAX_SHIFT, MAX_SHIFT + 1, size=(count, 2))
    images = np.stack(
        [np.roll(prototypes[y], shift, axis=(0, 1)) for y, shift in zip(labels, shifts, strict=True)]
    )
    return images + noise * rng.standard_normal(images.shape), labels
