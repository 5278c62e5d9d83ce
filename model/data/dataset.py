"""Arrays with labels, checked; and the order in which a trial sees them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.checks import SettingError

PARTS = ("train", "eval", "test")


@dataclass(frozen=True, eq=False)
class Part:
    """Images [N, H, W, C], uint8 or float32 as they are stored, and labels [N] int32. Equal to itself only."""

    images: NDArray[Any]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Dataset:
    """Three parts over the same classes. Raises SettingError if the arrays cannot be trained on."""

    train: Part
    eval: Part
    test: Part
    num_classes: int

    def __post_init__(self) -> None:
        for name in PARTS:
            self._check(f"data.{name}", getattr(self, name))
        classes = np.unique(self.train.labels)
        if len(classes) < 2:
            raise SettingError("data.train labels", f"all {classes[0]}", "of at least two classes")

    def _check(self, name: str, part: Part) -> None:
        images, labels = part.images, part.labels
        if images.ndim != 4 or labels.ndim != 1 or len(images) != len(labels) or not images.size:
            rule = f"[N, H, W, C] with N={len(labels)} labels"
            raise SettingError(f"{name} images", f"of shape {images.shape}", rule)
        if images.dtype not in (np.uint8, np.float32):
            raise SettingError(f"{name} images", str(images.dtype), "uint8 or float32")
        if images.shape[1:] != self.train.images.shape[1:]:
            rule = f"as large as training images, {self.train.images.shape[1:]}"
            raise SettingError(f"{name} images", f"of shape {images.shape[1:]}", rule)
        if images.dtype != np.uint8 and not np.isfinite(images).all():
            raise SettingError(f"{name} images", "not finite", "free of NaN and infinity")
        if labels.min() < 0 or labels.max() >= self.num_classes:
            found = f"from {labels.min()} to {labels.max()}"
            raise SettingError(f"{name} labels", found, f"from 0 to {self.num_classes - 1}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @cached_property
    def mean(self) -> float:
        """Of the training part's pixels."""
        return float(self.train.images.mean(dtype=np.float64))

    @cached_property
    def deviation(self) -> float:
        """Of the training part's pixels; 1 where they are all the same."""
        # In pieces: a float64 copy of a large set would need eight times its memory.
        pieces = np.array_split(self.train.images, max(1, self.train.images.nbytes >> 24))
        squares = sum(float(np.square(piece - self.mean, dtype=np.float64).sum()) for piece in pieces)
        return float(np.sqrt(squares / self.train.images.size)) or 1.0

    def label_entropy(self) -> float:
        """Of the training labels (nats): the least loss of whoever ignores the images."""
        counts = np.bincount(self.train.labels, minlength=self.num_classes)
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    def summary(self) -> str:
        """One line: sizes, shapes, classes and their balance."""
        images = self.train.images
        counts = np.bincount(self.train.labels, minlength=self.num_classes)
        sizes = ", ".join(f"{name} {len(getattr(self, name).labels)}" for name in PARTS)
        shape = "x".join(map(str, images.shape[1:]))
        balance = f"{counts.min()} to {counts.max()} training images each"
        return f"{sizes} images of {shape} {images.dtype}, {self.num_classes} classes of {balance}"


def batch_indices(seed: int, num_images: int, batch_size: int, from_step: int, to_step: int) -> NDArray[np.int32]:
    """Which images each step from ``from_step`` up to ``to_step`` (not included) sees: [steps, batch_size].

    Every epoch is a permutation of its own, keyed by (seed, epoch); a last incomplete batch is left out. The
    order depends on the arguments alone, so that a run can go on from any step.
    """
    per_epoch = num_images // batch_size
    rows = []
    for epoch in range(from_step // per_epoch, (to_step - 1) // per_epoch + 1):
        order = np.random.default_rng((seed, epoch)).permutation(num_images)
        rows.append(order[: per_epoch * batch_size].reshape(per_epoch, batch_size))
    first = (from_step // per_epoch) * per_epoch
    return np.concatenate(rows)[from_step - first : to_step - first].astype(np.int32)
