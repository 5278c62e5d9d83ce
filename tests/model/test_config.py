"""Settings are valid from birth, and every rule names field, value and rule."""

import pytest

from model.checks import SettingError
from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
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
            "train.batch_size is 2000, but must be at most the 1079 training images",
        ),
        (
            lambda: TrialSettings(model=ModelSettings(conv_widths=(4, 4, 4, 4), kernel_size=3)),
            "model.conv_widths is [4, 4, 4, 4], but must be at most 3 widths",
        ),
        (
            lambda: TrialSettings(model=ModelSettings(conv_widths=(4, 4, 4))),
            "model.kernel_size is 5, but must be at most 3, as the rest would see nothing of layer 3's 2x2",
        ),
        (lambda: ModelSettings(kernel_size=(3,)), "model.kernel_size is [3], but must be one size, or 2, one a"),
        (lambda: ModelSettings(kernel_size=(3, 0)), "model.kernel_size is [3, 0], but must be at least 1"),
        (lambda: ModelSettings(kernel_size="3"), "model.kernel_size is '3', but must be a whole number or a list"),
        (lambda: ModelSettings(bn_initial_variance=-1.0), "model.bn_initial_variance is -1.0, but must be at"),
        (lambda: ModelSettings(bn_initial_mean=float("inf")), "model.bn_initial_mean is inf, but must be a fin"),
        (lambda: TrainSettings(clip_norm=-1.0), "train.clip_norm is -1.0, but must be at least 0"),
        (lambda: TrainSettings(label_smoothing=1.0), "train.label_smoothing is 1.0, but must be at least 0 and"),
        (lambda: TrainSettings(lr_decay_factor=0.0), "train.lr_decay_factor is 0.0, but must be above 0 and at"),
        (lambda: TrainSettings(lr_decay_steps=0), "train.lr_decay_steps is 0, but must be at least 1"),
        (lambda: TrainSettings(init_seed=-1), "train.init_seed is -1, but must be at least 0"),
        (lambda: DataSettings(contrast=1.0), "data.contrast is 1.0, but must be at least 0 and below 1"),
        (lambda: DataSettings(eval_fraction=0.5), "data.eval_fraction is 0.5, but must be above 0 and below"),
        (lambda: DataSettings("npz"), "data.path is '', but must be the .npz file"),
        (lambda: DataSettings(path="x"), "data.path is 'x', but must be left out, where data.dataset is digits"),
        (
            lambda: TrialSettings(DataSettings(crop_size=9)),
            "data.crop_size is 9, but must be at most 8, as images are 8x8",
        ),
        (
            lambda: TrialSettings(DataSettings(crop_size=1), ModelSettings(kernel_size=1)),
            "model.conv_widths is [32, 32], but must be at most 0 widths, as each layer halves images of 1 pix",
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
