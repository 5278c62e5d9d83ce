"""Arrays with labels, checked; and the order in which a trial sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import SettingError


@dataclass(frozen=True)
class Part:
    """Images [N, H, W, C] float32 and labels [N] int32."""

    images: NDArray[np.float32]
    labels: NDArray[np.int32]


@dataclass(frozen=True)
class Dataset:
    """Three parts over the same classes. Raises SettingError if the arrays cannot be trained on."""

    train: Part
    eval: Part
    test: Part
    num_classes: int

    def __post_init__(self) -> None:
        for name in ("train", "eval", "test"):
            part: Part = getattr(self, name)
            images, labels = part.images, part.labels
            if images.ndim != 4 or len(images) != len(labels) or not len(images):
                raise SettingError(f"data.{name}", images.shape, f"[N, H, W, C] with N={len(labels)} labels")
            if not np.isfinite(images).all():
                raise SettingError(f"data.{name}", "not finite", "free of NaN and infinity")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise SettingError(
                    f"data.{name} labels", (int(labels.min()), int(labels.max())), f"0 to {self.num_classes - 1}"
                )


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
