"""Parts of one set of images, at random and with every class in its share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Part


def split_off(part: Part, fraction: float, seed: int) -> tuple[Part, Part]:
    """(the rest, ``fraction`` of the images), by ``seed``; stratified unless some class is too small for it."""
    from sklearn.model_selection import train_test_split

    count = round(fraction * len(part.labels))
    kept, off = train_test_split(
        np.arange(len(part.labels)), test_size=count, random_state=seed, stratify=_strata(part.labels, count)
    )
    return _taken(part, kept), _taken(part, off)


def _strata(labels: NDArray[np.int32], count: int) -> NDArray[np.int32] | None:
    counts = np.bincount(labels)
    present = counts[counts > 0]
    return labels if present.min() >= 2 and len(present) <= min(count, len(labels) - count) else None


def _taken(part: Part, chosen: NDArray[Any]) -> Part:
    return Part(part.images[chosen], part.labels[chosen])
