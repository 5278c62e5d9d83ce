"""scikit-learn's bundled digits (Alpaydin & Kaynak, 1998; UCI): 1,797 real scans, 8x8, grey, from 0 to 16."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import Dataset, Part

# A digit an image, in the file's order: 0 train, 1 eval, 2 test. The split is part of the data set, the same for
# every sweep and every release of scikit-learn, whose stratified train_test_split made it (random_state=20161105).
SPLIT = Path(__file__).with_name("digits_split.txt")


def load_digits(seed: int = 0) -> Dataset:
    """Train 60 %, eval 20 %, test 20 %, stratified. Seed 0 is the data set's own split; others give others."""
    table = _table()
    images, labels = table[:, :-1].reshape(-1, 8, 8, 1), table[:, -1].astype(np.int32)
    number = _own_split() if seed == 0 else _another_split(labels, seed)
    parts = [Part(images[number == part], labels[number == part]) for part in range(3)]
    return Dataset(parts[0], parts[1], parts[2], num_classes=10)


def _own_split() -> NDArray[np.int64]:
    """[1797]: each image's part."""
    return np.array([int(digit) for digit in "".join(SPLIT.read_text().split())])


def _another_split(labels: NDArray[np.int32], seed: int) -> NDArray[np.int64]:
    """The same, of another split: of five images of a class, neighbours after mixing, three, one and one."""
    mixed = np.random.default_rng(seed).permutation(len(labels))
    by_class = mixed[np.argsort(labels[mixed], kind="stable")]
    number = np.empty(len(labels), np.int64)
    number[by_class] = np.array([0, 0, 0, 1, 2])[np.arange(len(labels)) % 5]
    return number


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
