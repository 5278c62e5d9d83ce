"""Data sets: real where they say so, apart, stratified, reproducible."""

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from model.config import DataSettings, SettingError
from model.data import Dataset, Part, batch_indices, load
from model.data.synthetic import make_synthetic


def test_digits_are_the_real_images_each_in_one_part():
    data = load(DataSettings())
    parts = (data.train, data.eval, data.test)
    assert [len(part.labels) for part in parts] == [1078, 359, 360]
    raw = sklearn_digits()
    together = np.concatenate([part.images for part in parts]).reshape(1797, 64)
    # Standardising is affine, so it maps the sorted images of sklearn onto ours; undo it with two known values.
    scale = (together.max() - together.min()) / 16.0
    restored = np.rint((together - together.min()) / scale).astype(int)
    ours = sorted(map(tuple, np.c_[restored, np.concatenate([part.labels for part in parts])]))
    theirs = sorted(map(tuple, np.c_[raw.data.astype(int), raw.target]))
    assert ours == theirs


def test_digits_are_standardised_by_the_training_part_and_stratified():
    data = load(DataSettings())
    assert data.train.images.mean() == pytest.approx(0, abs=1e-5)
    assert data.train.images.std() == pytest.approx(1, abs=1e-5)
    shares = [
        np.bincount(part.labels, minlength=10) / len(part.labels) for part in (data.train, data.eval, data.test)
    ]
    np.testing.assert_allclose(shares[1], shares[0], atol=0.005)
    np.testing.assert_allclose(shares[2], shares[0], atol=0.005)


def test_synthetic_is_reproducible_balanced_and_learnable():
    settings = DataSettings("synthetic", num_classes=7, image_size=8, channels=2, num_train=140, num_eval=70)
    data = make_synthetic(settings)
    again = make_synthetic(settings)
    np.testing.assert_array_equal(data.train.images, again.train.images)
    assert data.train.images.shape == (140, 8, 8, 2)
    assert set(np.bincount(data.train.labels)) == {20}
    # An independent classifier, the nearest training image, does far better than chance (1/7).
    distances = ((data.eval.images[:, None] - data.train.images[None]) ** 2).sum(axis=(2, 3, 4))
    accuracy = (data.train.labels[distances.argmin(axis=1)] == data.eval.labels).mean()
    assert accuracy > 0.6


def test_another_seed_is_another_data_set():
    one = make_synthetic(DataSettings("synthetic", num_train=20, num_eval=10))
    two = make_synthetic(DataSettings("synthetic", num_train=20, num_eval=10, seed=1))
    assert not np.allclose(one.train.images, two.train.images)


def test_every_epoch_visits_each_image_at_most_once_in_an_order_of_its_own():
    indices = batch_indices(3, num_images=50, batch_size=8, from_step=0, to_step=12)
    first, second = indices[:6].ravel(), indices[6:].ravel()
    assert len(set(first)) == len(first) == 48
    assert len(set(second)) == 48
    assert list(first) != list(second)


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 13])
def test_the_order_can_be_taken_up_at_any_step(cut):
    whole = batch_indices(3, 50, 8, 0, 20)
    parts = [batch_indices(3, 50, 8, 0, cut), batch_indices(3, 50, 8, cut, 20)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert whole.dtype == np.int32


@pytest.mark.parametrize(
    ("images", "labels", "rule"),
    [
        (np.full((2, 4, 4, 1), np.nan, np.float32), [0, 1], "free of NaN"),
        (np.zeros((2, 4, 4, 1), np.float32), [0, 2], "0 to 1"),
        (np.zeros((2, 4, 4, 1), np.float32), [0, -1], "0 to 1"),
        (np.zeros((2, 4, 4), np.float32), [0, 1], "N, H, W, C"),
        (np.zeros((3, 4, 4, 1), np.float32), [0, 1], "with N=2"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(images, labels, rule):
    part = Part(images, np.array(labels, np.int32))
    with pytest.raises(SettingError, match=rule):
        Dataset(part, part, part, num_classes=2)
