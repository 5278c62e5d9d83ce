"""Data sets in three parts: train, eval (the sweep's objective), test (seen by no search decision)."""

from __future__ import annotations

from functools import lru_cache

from model.config import DataSettings
from model.data.catalogue import DATASETS
from model.data.dataset import Dataset, Part, batch_indices


@lru_cache(maxsize=2)
def load(settings: DataSettings) -> Dataset:
    """The data set that the settings name; the same settings give the same arrays. Raises SettingError."""
    if settings.dataset == "digits":
        from model.data.digits import load_digits

        return load_digits(settings.seed)
    if settings.dataset == "synthetic":
        from model.data.synthetic import make_synthetic

        return make_synthetic(settings)
    if settings.dataset == "npz":
        from model.data.npz import load_npz

        return load_npz(settings)
    from model.data.cifar import load_cifar

    return load_cifar(settings)


__all__ = ["DATASETS", "Dataset", "Part", "batch_indices", "load"]
