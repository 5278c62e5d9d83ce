"""Augmentation and standardization against NumPy, image by image, from the same draws."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from model.config import DataSettings
from model.preprocessing import Preprocessing, draw

TUTORIAL = DataSettings(crop_size=6, flip=True, brightness=63.0, contrast=0.8, standardize="image")


@pytest.fixture
def images():
    return np.random.default_rng().integers(0, 256, (40, 9, 10, 3), dtype=np.uint8)


def reference(settings, image, drawn, mean=0.0, deviation=1.0):
    """One image [H, W, C] in float64."""
    x = image.astype(np.float64)
    if settings.crop_size:
        crop = settings.crop_size
        top = int(drawn[0] * (x.shape[0] - crop + 1))
        left = int(drawn[1] * (x.shape[1] - crop + 1))
        x = x[top : top + crop, left : left + crop]
    if settings.flip and drawn[2] < 0.5:
        x = x[:, ::-1]
    x = x + settings.brightness * (2 * drawn[3] - 1)
    middle = x.mean(axis=(0, 1))
    x = (x - middle) * (1 + settings.contrast * (2 * drawn[4] - 1)) + middle
    if settings.standardize == "image":
        return (x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))
    return (x - mean) / deviation if settings.standardize == "dataset" else x


CASES = {
    "crop": DataSettings(crop_size=6),
    "flip": DataSettings(flip=True),
    "brightness": DataSettings(brightness=10.0),
    "contrast": DataSettings(contrast=0.5),
    "tutorial": TUTORIAL,
    "tutorial, as it is": replace(TUTORIAL, standardize="none"),
}


@pytest.mark.parametrize("name", CASES)
def test_training_images_are_what_the_draws_say(name, images):
    settings = CASES[name]
    drawn = draw(tf.constant(7, tf.int64), tf.constant(3, tf.int64), len(images)).numpy()
    ours = Preprocessing(settings, 120.0, 60.0).train(tf.constant(images), tf.constant(drawn)).numpy()
    expected = [reference(settings, image, each, 120.0, 60.0) for image, each in zip(images, drawn.T, strict=True)]
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-3)


def test_every_crop_and_both_directions_come_up():
    drawn = draw(tf.constant(0, tf.int64), tf.constant(0, tf.int64), 2000).numpy()
    corners = {(int(top), int(left)) for top, left in zip(drawn[0] * 4, drawn[1] * 5, strict=True)}
    assert corners == {(top, left) for top in range(4) for left in range(5)}
    assert 0.45 < (drawn[2] < 0.5).mean() < 0.55


def test_draws_are_keyed_by_seed_and_step():
    def drawn(seed, step):
        return draw(tf.constant(seed, tf.int64), tf.constant(step, tf.int64), 16).numpy()

    np.testing.assert_array_equal(drawn(3, 5), drawn(3, 5))
    assert not np.allclose(drawn(3, 5), drawn(3, 6))
    assert not np.allclose(drawn(3, 5), drawn(4, 5))
    assert not np.allclose(drawn(3, 5), drawn(5, 3))


def test_evaluation_sees_the_central_crop_and_no_chance(images):
    ours = Preprocessing(TUTORIAL, 0.0, 1.0).evaluate(tf.constant(images)).numpy()
    central = images[:, 1:7, 2:8].astype(np.float64)
    expected = tf.image.per_image_standardization(central).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_without_augmentation_training_and_evaluation_see_the_same(images):
    preprocessing = Preprocessing(DataSettings(), 120.0, 60.0)
    np.testing.assert_array_equal(
        preprocessing.train(tf.constant(images), None), preprocessing.evaluate(tf.constant(images))
    )
    np.testing.assert_allclose(preprocessing.evaluate(tf.constant(images)), (images - 120.0) / 60.0, rtol=1e-5)


def test_a_flat_image_is_not_divided_by_nothing():
    flat = tf.fill([1, 6, 6, 1], 9.0)
    assert np.all(Preprocessing(DataSettings(standardize="image"), 0.0, 1.0).evaluate(flat) == 0)
