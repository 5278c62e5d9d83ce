"""Which readouts read the same, and so are scored once."""

from dataclasses import replace

import pytest

from model.config import ModelSettings, TrainSettings, TrialSettings
from model.readings import Reading, reading

MOMENTA = (0.9, 0.99)
DECAYS = (0.9, 0.98, 0.9999)
SETTINGS = TrialSettings(model=ModelSettings(bn_placement="conv"))


def read(pair, step=1000, model=None, **train):
    settings = replace(
        SETTINGS, model=replace(SETTINGS.model, **(model or {})), train=replace(TrainSettings(), **train)
    )
    return reading(settings, MOMENTA, DECAYS, step, pair)


def test_every_pair_has_its_own_rows():
    assert read((0.99, 0.98)) == Reading(1, "moving", 1)
    assert read((0.9, 0.0)) == Reading(None, "moving", 0)


@pytest.mark.parametrize(("step", "rows"), [(10, [0, 0, 0]), (90, [0, 1, 1]), (400, [0, 1, 1]), (450, [0, 1, 2])])
def test_while_a_warm_up_holds_decays_below_their_caps_they_are_one(step, rows):
    """(1 + t) / (10 + t) passes .9 at step 80 and .98 at step 440."""
    assert [read((0.9, decay), step).weights for decay in DECAYS] == rows
    without = {"ema_warmup": False}
    assert [read((0.9, decay), step, without).weights for decay in DECAYS] == [0, 1, 2]


@pytest.mark.parametrize(
    ("model", "train", "same"),
    [
        ({}, {}, False),
        ({"bn_updates": "never"}, {}, True),
        ({"bn_placement": "none"}, {}, True),
        ({}, {"eval_statistics": "batch"}, True),
        ({}, {"eval_statistics": "re-estimated"}, True),
    ],
    ids=str,
)
def test_when_the_momentum_makes_no_difference(model, train, same):
    assert (read((0.9, 0.98), 1000, model, **train) == read((0.99, 0.98), 1000, model, **train)) == same


def test_raw_weights_have_no_decay_but_averaged_statistics_do():
    assert read((0.9, 0.98), eval_weights="raw") == read((0.9, 0.9999), eval_weights="raw")
    averaged = {"eval_weights": "raw", "eval_statistics": "averaged"}
    kept = {"ema_statistics": True}
    assert read((0.9, 0.98), 1000, kept, **averaged) == Reading(None, "averaged", 0, 1)
    assert read((0.9, 0.9999), 1000, kept, **averaged) == Reading(None, "averaged", 0, 2)
