"""Settings are valid from birth, and every rule names field, value and rule."""

import pytest

from model.config import DataSettings, ModelSettings, SettingError, TrainSettings, TrialSettings
from model.trial import ToweredCNN


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ModelSettings(towers=0), "model.towers is 0, but must be at least 1"),
        (lambda: ModelSettings(bn_momentum=1.0), "model.bn_momentum is 1.0, but must be at least 0 and below 1"),
        (lambda: ModelSettings(ema_decay=-0.1), "model.ema_decay is -0.1, but must be at least 0 and below 1"),
        (lambda: ModelSettings(bn_epsilon=0.0), "model.bn_epsilon is 0.0, but must be from 1.001e-5 to 10"),
        (
            lambda: ModelSettings(bn_placement="fc+conv"),
            "model.bn_placement is 'fc+conv', but must be none, or any of",
        ),
        (lambda: ModelSettings(bn_placement=""), "model.bn_placement is '', but must be"),
        (lambda: ModelSettings(bn_placement="conv+nowhere"), "model.bn_placement is 'conv+nowhere'"),
        (
            lambda: TrainSettings(learning_rate=0.0),
            "train.learning_rate is 0.0, but must be a finite number above 0",
        ),
        (lambda: TrainSettings(learning_rate=float("nan")), "train.learning_rate is nan"),
        (lambda: ModelSettings(bn_order="later"), "model.bn_order is 'later', but must be one of pre, post"),
        (lambda: ModelSettings(bn_gamma="yes"), "model.bn_gamma is 'yes', but must be true or false"),
        (lambda: TrainSettings(batch_size=64.5), "train.batch_size is 64.5, but must be a whole number"),
        (lambda: TrainSettings(weight_decay=True), "train.weight_decay is True, but must be a number"),
        (lambda: ModelSettings(bn_placement=3), "model.bn_placement is 3, but must be a text"),
        (lambda: ModelSettings(conv_widths=4), "model.conv_widths is 4, but must be a list of whole numbers"),
        (lambda: ModelSettings(conv_widths=("a",)), "model.conv_widths is ('a',), but must be a list of whole"),
        (lambda: ModelSettings(fc_widths=(4.5,)), "model.fc_widths is (4.5,), but must be a list of whole"),
        (lambda: ModelSettings(fc_widths=(0,)), "model.fc_widths is [0], but must be widths of at least 1"),
        (lambda: TrainSettings(steps=0), "train.steps is 0, but must be at least 1"),
        (lambda: DataSettings(num_classes=1), "data.num_classes is 1, but must be at least 2"),
        (
            lambda: TrialSettings(model=ModelSettings(towers=3), train=TrainSettings(batch_size=100)),
            "train.batch_size is 100, but must be a multiple of model.towers=3",
        ),
        (
            lambda: TrialSettings(train=TrainSettings(batch_size=2000)),
            "train.batch_size is 2000, but must be at most the 1078 training images",
        ),
        (
            lambda: TrialSettings(model=ModelSettings(conv_widths=(4, 4, 4, 4))),
            "model.conv_widths is [4, 4, 4, 4], but must be at most 3 widths",
        ),
    ],
)
def test_rules(make, message):
    with pytest.raises(SettingError) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert caught.value.field in message


def test_roles_of_the_parameters():
    roles = ToweredCNN(TrialSettings()).parameters
    assert {name for name, role in roles.items() if role == "readout"} == {"bn_momentum", "ema_decay"}
    assert roles["learning_rate"] == roles["bn_placement"] == roles["variable_placement"] == "trajectory"
    assert "towers" not in roles
    assert "steps" not in roles


def test_params_take_the_place_of_settings():
    trainable = ToweredCNN(TrialSettings())
    settings = trainable.with_params({"learning_rate": 0.5, "bn_placement": "conv"})
    assert (settings.train.learning_rate, settings.model.bn_placement) == (0.5, "conv")
    assert trainable.settings.train.learning_rate == 1e-3


def test_an_unknown_parameter_is_named_with_the_nearest():
    with pytest.raises(SettingError, match=r"learning_rat is 0.1, .* \(did you mean 'learning_rate'\?\)"):
        ToweredCNN(TrialSettings()).check({"learning_rat": 0.1})
