"""Losses with a name: by their formulas, against a published table, and by logits that reach them."""

from itertools import pairwise
from math import log

import numpy as np
import pytest

from model.config import ModelSettings, TrainSettings, TrialSettings
from model.reference_losses import logits_bn_floor, references

IMAGES = (4, 8, 16, 32, 64)
# The oracle's minimum of the field: beta 0, epsilon -> 0, balanced labels, found by gradient descent, two digits.
TABLE = {
    10: (0.97, 0.42, 0.31, 0.28, 0.28),
    101: (2.94, 2.12, 1.21, 0.34, 0.03),
    665: (4.78, 3.88, 2.71, 1.31, 0.23),
}


@pytest.mark.parametrize("classes", TABLE)
def test_the_floor_under_logits_bn_equals_the_table(classes):
    """Within its rounding, or below it: a minimum that was missed is no floor."""
    for images, known in zip(IMAGES, TABLE[classes], strict=True):
        floor = logits_bn_floor(classes, images)
        assert known - 0.016 <= floor <= known + 0.006, (classes, images)


@pytest.mark.parametrize("classes", TABLE)
def test_two_images_a_tower_leave_signs_only(classes):
    """Every logit is +1 for one image and -1 for the other, so all choices can be tried.

    The least is with all absent classes on one image's side. (Descent from random logits cannot change a sign and
    ends higher: 1.69, 4.03 and 5.93 in the table that the other columns are from.)
    """
    losses = []
    for against_first in range(classes - 1):
        absent = classes - 2
        others = np.array(
            [against_first, absent - against_first]
        )  # Absent classes at +1 for image 0, for image 1.
        for_each = [log(1 + np.exp(-2) + up + down * np.exp(-2)) for up, down in (others, others[::-1])]
        losses.append(np.mean(for_each))
    assert logits_bn_floor(classes, 2) == pytest.approx(min(losses), abs=1e-6)


@pytest.mark.parametrize(("classes", "images"), [(10, 10), (10, 40), (4, 64)])
def test_balanced_labels_have_a_closed_form(classes, images):
    """By symmetry a column has two values, a for its own images and b for the others, with a - b = C/sqrt(C-1)."""
    gap = classes / np.sqrt(classes - 1)
    assert logits_bn_floor(classes, images) == pytest.approx(log(1 + (classes - 1) * np.exp(-gap)), abs=1e-6)


@pytest.mark.parametrize(("classes", "images"), [(5, 3), (7, 12), (30, 16)])
def test_random_logits_never_reach_below_the_floor(classes, images):
    rng = np.random.default_rng()
    labels = np.arange(images) % classes
    for scale in (0.0, 0.5, 2.0, 5.0):
        raw = rng.normal(size=(images, classes)) + scale * (labels[:, None] == np.arange(classes))
        logits = (raw - raw.mean(axis=0)) / raw.std(axis=0)
        loss = np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(images), labels])
        assert loss > logits_bn_floor(classes, images)


def test_more_images_allow_more():
    floors = [logits_bn_floor(50, images) for images in (1, 2, 4, 8, 16, 32, 64)]
    assert floors[0] == log(50)
    assert all(more < fewer for fewer, more in pairwise(floors))


def names(towers=1, **model):
    settings = TrialSettings(model=ModelSettings(towers=towers, **model), train=TrainSettings(batch_size=16))
    return references(settings, 10, 2.25)


def test_which_references_a_trial_has():
    assert names() == {"zero": 0.0, "ln C": log(10), "label entropy": 2.25}
    assert references(TrialSettings(), 10, log(10) - 1e-5) == {"zero": 0.0, "ln C": log(10)}
    assert names(bn_placement="conv+logits") == names()
    floor = names(bn_placement="conv+logits", bn_gamma=False)["logits-BN floor"]
    assert floor == logits_bn_floor(10, 16)
    two = {"towers": 2, "bn_placement": "logits", "bn_gamma": False}
    assert names(**two)["logits-BN floor"] == logits_bn_floor(10, 8)
    assert names(**two, bn_statistics="synchronized")["logits-BN floor"] == logits_bn_floor(10, 16)
