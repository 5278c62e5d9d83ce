"""Data sets in three parts: train, eval (the sweep's objective), test (seen by no search decision)."""

from __future__ import annotations

from functools import cache

from model.config import DataSettings
from model.data.catalogue import DATASETS
from model.data.dataset import Dataset, Part, batch_indices


@cache
def load(settings: DataSettings) -> Dataset:
    """The data set that the settings name; the same settings give the same arrays."""
    if settings.dataset == "digits":
        from model.data.digits import load_digits

        return load_digits()
    from model.data.synthetic import make_synthetic

    return make_synthetic(settings)


__all__ = ["DATASETS", "Dataset", "Part", "batch_indices", "load"]
