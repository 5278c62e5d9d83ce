"""scikit-learn's bundled digits (Alpaydin & Kaynak, 1998; UCI): 1,797 real scans, 8x8, grey, from 0 to 16."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset, Part

SPLIT_SEED = 20161105


def load_digits(seed: int = 0) -> Dataset:
    """Train 60 %, eval 20 %, test 20 %, stratified: of five images of a class that are neighbours after mixing,
    three, one and one. Another ``seed`` mixes them in another way.
    """
    table = _table()
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)
    mixed = np.random.default_rng(SPLIT_SEED + seed).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    place = np.arange(len(labels)) % 5
    train, evaluation, test = by_class[place < 3], by_class[place == 3], by_class[place == 4]
    parts = [Part(images[chosen], labels[chosen]) for chosen in (train, evaluation, test)]
    return Dataset(parts[0], parts[1], parts[2], num_classes=10)


def _table() -> NDArray[np.float32]:
    """[1797, 65]: pixels, then the label. From the package's own file: importing it takes a second."""
    package = find_spec("sklearn")
    path = Path(package.origin or "").parent / "datasets" / "data" / "digits.csv.gz" if package else None
    if path is None or not path.is_file():
        from sklearn.datasets import load_digits as sklearn_digits

        bunch = sklearn_digits()
        return np.column_stack([bunch.data, bunch.target]).astype(np.float32)
    with gzip.open(path) as stream:
        return np.loadtxt(stream, delimiter=",", dtype=np.float32)
