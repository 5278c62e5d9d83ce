"""scikit-learn's bundled digits (Alpaydin & Kaynak, 1998; UCI): 1,797 real scans, 8x8, grey, from 0 to 16."""

from __future__ import annotations

import numpy as np

from model.data.dataset import Dataset, Part

SPLIT_SEED = 20161105  # The split is part of the data set: the same for every sweep and every trial.


def load_digits() -> Dataset:
    """Train 60 %, eval 20 %, test 20 %, stratified."""
    from sklearn.datasets import load_digits as sklearn_digits
    from sklearn.model_selection import train_test_split

    bunch = sklearn_digits()
    images = bunch.images.astype(np.float32)[..., np.newaxis]
    labels = bunch.target.astype(np.int32)
    split = {"random_state": SPLIT_SEED}
    x_train, x_rest, y_train, y_rest = train_test_split(images, labels, train_size=0.6, stratify=labels, **split)
    x_eval, x_test, y_eval, y_test = train_test_split(x_rest, y_rest, train_size=0.5, stratify=y_rest, **split)
    return Dataset(Part(x_train, y_train), Part(x_eval, y_eval), Part(x_test, y_test), num_classes=10)
