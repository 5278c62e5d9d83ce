"""Data sets: real where they say so, apart, stratified, reproducible."""

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.model_selection import train_test_split

from model.checks import SettingError
from model.config import DataSettings
from model.data import Dataset, Part, batch_indices, load
from model.data.splitting import split_off
from model.data.synthetic import make_synthetic


def test_digits_are_the_real_images_each_in_one_part():
    data = load(DataSettings())
    parts = (data.train, data.eval, data.test)
    assert [len(part.labels) for part in parts] == [1078, 359, 360]
    raw = sklearn_digits()
    together = np.concatenate([part.images for part in parts]).reshape(1797, 64)
    ours = sorted(map(tuple, np.c_[together.astype(int), np.concatenate([part.labels for part in parts])]))
    theirs = sorted(map(tuple, np.c_[raw.data.astype(int), raw.target]))
    assert ours == theirs


def test_the_own_split_of_digits_is_scikit_learns():
    data, raw, same = load(DataSettings()), sklearn_digits(), {"random_state": 20161105}
    train, rest, _, labels = train_test_split(raw.data, raw.target, train_size=0.6, stratify=raw.target, **same)
    held_out, test, _, _ = train_test_split(rest, labels, train_size=0.5, stratify=labels, **same)
    for part, theirs in ((data.train, train), (data.eval, held_out), (data.test, test)):
        assert sorted(map(tuple, part.images.reshape(-1, 64))) == sorted(map(tuple, theirs))


def test_other_seeds_are_other_splits_of_the_same_digits():
    parts = [(data.train, data.eval, data.test) for data in (load(DataSettings(seed=seed)) for seed in range(3))]
    wholes = [np.concatenate([part.images for part in each]).reshape(1797, 64) for each in parts]
    assert all(sorted(map(tuple, whole)) == sorted(map(tuple, wholes[0])) for whole in wholes)
    eval_sets = [set(map(tuple, each[1].images.reshape(-1, 64))) for each in parts]
    # Of two independent splits, a fifth of the one's held-out images is held out in the other.
    assert all(len(a & b) < 130 for a, b in ((eval_sets[0], eval_sets[1]), (eval_sets[1], eval_sets[2])))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_digits_are_stratified(seed):
    data = load(DataSettings(seed=seed))
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


def test_parts_must_agree_in_shape_and_hold_two_classes():
    images, labels = np.zeros((4, 4, 4, 1), np.uint8), np.array([0, 1, 0, 1], np.int32)
    part = Part(images, labels)
    with pytest.raises(SettingError, match=r"data.eval images is 'of shape \(5, 4, 1\)', but must be as large"):
        Dataset(part, Part(np.zeros((4, 5, 4, 1), np.uint8), labels), part, 2)
    with pytest.raises(SettingError, match=r"data.train labels is 'all 1', but must be of at least two classes"):
        Dataset(Part(images, np.ones(4, np.int32)), part, part, 2)
    with pytest.raises(SettingError, match=r"float64.*, but must be uint8 or float32"):
        Dataset(part, part, Part(images.astype(np.float64), labels), 2)


def test_a_data_set_knows_its_pixels_and_labels():
    rng = np.random.default_rng()
    images = rng.integers(0, 256, (90, 5, 4, 3), dtype=np.uint8)
    labels = np.repeat([0, 1, 3], [60, 20, 10]).astype(np.int32)
    part = Part(images, labels)
    data = Dataset(part, part, part, num_classes=4)
    assert data.mean == pytest.approx(images.astype(np.float64).mean(), rel=1e-12)
    assert data.deviation == pytest.approx(images.astype(np.float64).std(), rel=1e-12)
    shares = np.array([6, 2, 1]) / 9
    assert data.label_entropy() == pytest.approx(-np.sum(shares * np.log(shares)))
    assert data.summary() == (
        "train 90, eval 90, test 90 images of 5x4x3 uint8, 4 classes of 0 to 60 training images each"
    )


def test_a_flat_data_set_is_not_divided_by_nothing():
    part = Part(np.full((4, 2, 2, 1), 7, np.float32), np.array([0, 1, 0, 1], np.int32))
    assert Dataset(part, part, part, 2).deviation == 1.0


@pytest.mark.parametrize("counts", [[50, 30, 20], [97, 2, 1]])
def test_a_split_shares_every_image_out_once(counts):
    labels = np.repeat(np.arange(3), counts).astype(np.int32)
    part = Part(np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1), labels)
    rest, off = split_off(part, 0.2, seed=1)
    assert len(off.labels) == 20
    together = np.concatenate([rest.images, off.images]).ravel()
    assert sorted(together) == list(range(100))
    assert (labels[together.astype(int)] == np.concatenate([rest.labels, off.labels])).all()
    if min(counts) > 1:
        assert list(np.bincount(off.labels)) == [10, 6, 4]
    np.testing.assert_array_equal(split_off(part, 0.2, seed=1)[1].labels, off.labels)
    assert not np.array_equal(split_off(part, 0.2, seed=2)[1].images, off.images)
