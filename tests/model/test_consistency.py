"""Settings that contradict each other are one clear error; what only some trials can use is none."""

import pytest

from model.checks import SettingError
from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.presets import PRESETS, expand
from model.trial import ToweredCNN


def trainable(model=None, train=None):
    return ToweredCNN(TrialSettings(model=ModelSettings(**model or {}), train=TrainSettings(**train or {})))


BN = {"bn_placement": "conv"}
NO_BN = "as model.bn_placement is none"


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"bn_order": "post"}, {}, f"model.bn_order is 'post', but must be left out or pre, {NO_BN}"),
        ({"bn_gamma": False}, {}, f"model.bn_gamma is False, but must be left out or true, {NO_BN}"),
        ({"bn_updates": "never"}, {}, f"model.bn_updates is 'never', but must be left out or always, {NO_BN}"),
        ({"bn_zero_debias": True}, {}, f"model.bn_zero_debias is True, but must be left out or false, {NO_BN}"),
        ({**BN, "bn_zero_debias": True, "bn_initial_mean": 0.5}, {}, "model.bn_zero_debias is True"),
        (
            {**BN, "bn_statistics": "synchronized"},
            {},
            "model.bn_statistics is 'synchronized', .* as model.towers is 1",
        ),
        ({**BN, "ema_statistics": True}, {}, "model.ema_statistics is True, .* as model.ema_decay is 0"),
        ({"ema_statistics": True, "ema_decay": 0.9}, {}, f"model.ema_statistics is True, .* {NO_BN}"),
        ({"lrn": True}, {}, "model.lrn is True, but must be left out or false, as model.network is small"),
        ({}, {"eval_statistics": "re-estimated"}, f"train.eval_statistics is 're-estimated', .* {NO_BN}"),
        ({}, {"eval_statistics": "batch"}, f"train.eval_statistics is 'batch', .* {NO_BN}"),
        ({}, {"eval_weights": "averaged"}, "train.eval_weights is 'averaged', .* as model.ema_decay is 0"),
        ({**BN, "ema_decay": 0.9}, {"eval_statistics": "averaged"}, ".* as model.ema_statistics is false"),
        ({}, {"sgd_momentum": 0.5}, "train.sgd_momentum is 0.5, .* as train.optimizer is adam"),
        ({}, {"optimizer": "sgd", "adam_beta1": 0.5}, "train.adam_beta1 is 0.5, .* as train.optimizer is sgd"),
        ({}, {"lr_decay_steps": 5}, "train.lr_decay_steps is 5, .* as train.lr_schedule is constant"),
    ],
)
def test_contradictions(model, train, message):
    with pytest.raises(SettingError, match=message):
        trainable(model, train).check({"learning_rate": 0.1})


@pytest.mark.parametrize(
    ("model", "train", "params"),
    [
        ({"bn_order": "post", "bn_gamma": False}, {}, {"bn_placement": "none"}),
        ({"bn_order": "post"}, {}, {"bn_placement": "conv"}),
        (BN, {"eval_weights": "averaged"}, {"ema_decay": 0.9}),
        ({**BN, "ema_statistics": True}, {}, {"ema_decay": 0.0}),
        ({}, {"eval_statistics": "re-estimated"}, {"bn_placement": "none"}),
        ({}, {"sgd_momentum": 0.5}, {"optimizer": "adam"}),
    ],
)
def test_what_some_trials_of_a_search_cannot_use_is_no_contradiction(model, train, params):
    trainable(model, train).check(params)


def test_a_searched_setting_that_means_nothing_is_told_how_to_be_conditional():
    with pytest.raises(SettingError, match=r"bn_order is 'post', .* none \(in a space: give it a when\)"):
        trainable().check({"bn_placement": "none", "bn_order": "post"})


def test_the_presets_hold_together():
    for section, found in PRESETS.items():
        for name in found:
            sections = expand({section: {"preset": name}})
            kinds = {"data": DataSettings, "model": ModelSettings, "train": TrainSettings}
            settings = kinds[section](**sections[section])
            assert all(getattr(settings, key) == value for key, value in found[name].items())
    model, train = expand({"model": {"preset": "r0.11"}, "train": {"preset": "tutorial"}}).values()
    trainable({**model, "towers": 2}, train).check({})


def test_what_a_section_says_goes_before_its_preset():
    expanded = expand({"model": {"preset": "r0.11", "bn_gamma": True, "towers": 2}, "train": {"steps": 5}})
    assert expanded["model"]["bn_gamma"] is True
    assert (expanded["model"]["bn_momentum"], expanded["model"]["towers"]) == (0.999, 2)
    assert expanded["train"] == {"steps": 5}


@pytest.mark.parametrize("name", ["r0.12", 3, ""])
def test_an_unknown_preset_is_refused(name):
    with pytest.raises(SettingError, match=r"model\.preset is .*, but must be one of r0\.11, tutorial"):
        expand({"model": {"preset": name}})


def test_a_data_path_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert expand({"data": {"path": "x/y.npz"}})["data"]["path"] == str(tmp_path / "x" / "y.npz")
    assert expand({"data": {"path": ""}, "model": 3}) == {"data": {"path": ""}, "model": 3}
