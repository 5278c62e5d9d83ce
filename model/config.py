"""What a trial can be told: three sections of frozen settings, valid from birth.

These are plain dataclasses; whoever reads them from a file may validate types with a library of their choice.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import isfinite
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

SITES = ("input", "conv", "fc", "logits")


class SettingError(ValueError):
    """A setting breaks a rule. Attributes: ``field`` (dotted, with its section), ``value``, ``rule``."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field, self.value, self.rule = field, value, rule
        super().__init__(field, value, rule)

    def __str__(self) -> str:
        return f"{self.field} is {self.value!r}, but must be {self.rule}"


def _require(condition: bool, field: str, value: object, rule: str) -> None:
    if not condition:
        raise SettingError(field, value, rule)


def _check_types(section: str, settings: Any) -> None:
    """Types hold for whoever makes settings without a library that validates, such as a search over choices."""
    hints = get_type_hints(type(settings))
    for name in (each.name for each in fields(settings)):
        hint, value = hints[name], getattr(settings, name)
        where = f"{section}.{name}"
        if get_origin(hint) is Literal:
            _require(value in get_args(hint), where, value, f"one of {', '.join(get_args(hint))}")
        elif hint is int:
            _require(isinstance(value, int) and not isinstance(value, bool), where, value, "a whole number")
        elif hint is float:
            _require(isinstance(value, (int, float)) and not isinstance(value, bool), where, value, "a number")
        elif hint is bool:
            _require(isinstance(value, bool), where, value, "true or false")
        elif hint is str:
            _require(isinstance(value, str), where, value, "a text")
        elif get_origin(hint) is tuple:
            whole = isinstance(value, tuple) and all(type(each) is int for each in value)
            _require(whole, where, value, "a list of whole numbers")


def _at_least(section: str, settings: object, **bounds: float) -> None:
    for name, bound in bounds.items():
        value = getattr(settings, name)
        _require(isfinite(value) and value >= bound, f"{section}.{name}", value, f"at least {bound}")


@dataclass(frozen=True)
class DataSettings:
    """Which images. All but ``dataset`` shape the synthetic set and are not used by ``digits``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    dataset: Literal["digits", "synthetic"] = "digits"
    num_classes: int = 10
    """Synthetic: number of classes."""
    image_size: int = 16
    """Synthetic: height and width in pixels."""
    channels: int = 3
    """Synthetic: channels."""
    num_train: int = 2000
    """Synthetic: training images."""
    num_eval: int = 500
    """Synthetic: evaluation images, and as many test images."""
    noise: float = 0.5
    """Synthetic: standard deviation of the pixel noise, against prototypes of unit variance."""
    seed: int = 0
    """Synthetic: what the images are drawn from; apart from every trial's own seed."""

    def __post_init__(self) -> None:
        _check_types("data", self)
        _at_least(
            "data", self, num_classes=2, image_size=4, channels=1, num_train=2, num_eval=2, noise=0.0, seed=0
        )


@dataclass(frozen=True)
class ModelSettings:
    """The network, its towers, its batch normalization and its averages."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    network: Literal["small"] = "small"
    """small: convolutions with 2x2 pooling after each, fully connected layers, logits."""
    towers: int = 1
    """Copies of the network, one a device; they share variables and split the batch."""
    conv_widths: tuple[int, ...] = (32, 32)
    fc_widths: tuple[int, ...] = (128, 64)
    kernel_size: int = 5
    initializer: Literal["he", "tutorial"] = "he"
    """he: variance 2 / fan-in; tutorial: stddev 5e-2 (conv), 4e-2 (fc), as in the CIFAR-10 tutorial."""
    bn_placement: str = "none"
    """Where batch normalization stands: none, or any of input, conv, fc, logits joined by +, in that order."""
    bn_order: Literal["pre", "post"] = "pre"
    """Before or after the activation (conv and fc)."""
    bn_gamma: bool = True
    bn_beta: bool = True
    bn_epsilon: float = 1e-3
    bn_momentum: float = 0.99
    """moving <- momentum * moving + (1 - momentum) * batch."""
    bn_tower_updates: Literal["mean", "first", "last", "all"] = "mean"
    """Which towers' batch statistics reach the shared moving statistics; all: each tower's in turn."""
    ema_decay: float = 0.0
    """shadow <- decay * shadow + (1 - decay) * variable; 0 evaluates the raw weights."""
    ema_warmup: bool = True
    """Use min(decay, (1 + t) / (10 + t)), as tf.train.ExponentialMovingAverage does with num_updates."""
    variable_placement: Literal["cpu", "first_tower"] = "first_tower"

    def __post_init__(self) -> None:
        _check_types("model", self)
        _at_least("model", self, towers=1, kernel_size=1)
        for name in ("conv_widths", "fc_widths"):
            widths = getattr(self, name)
            _require(all(width >= 1 for width in widths), f"model.{name}", list(widths), "widths of at least 1")
        valid = self.bn_placement == "none" or self.bn_placement == "+".join(
            site for site in SITES if site in self.bn_placement.split("+")
        )
        _require(
            valid and bool(self.bn_placement),
            "model.bn_placement",
            self.bn_placement,
            f"none, or any of {', '.join(SITES)} joined by + in that order",
        )
        # cuDNN's own lower bound; TensorFlow would raise a smaller one without a word.
        _require(1.001e-5 <= self.bn_epsilon <= 10, "model.bn_epsilon", self.bn_epsilon, "from 1.001e-5 to 10")
        for name in ("bn_momentum", "ema_decay"):
            value = getattr(self, name)
            _require(0 <= value < 1, f"model.{name}", value, "at least 0 and below 1")

    @property
    def sites(self) -> frozenset[str]:
        """Where batch normalization stands, as a set."""
        return frozenset(() if self.bn_placement == "none" else self.bn_placement.split("+"))


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained and measured."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    steps: int = 300
    """Mini-batches of a whole trajectory."""
    batch_size: int = 128
    """Images a step, over all towers together."""
    optimizer: Literal["adam"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    """Factor of the L2 penalty, sum(w**2) / 2, on the fully connected layers' weights (not the logits')."""
    report_every: int = 10
    """Steps between points of the training curve."""
    eval_every: int = 50
    """Steps between evaluations with the first readout, besides the rungs."""

    def __post_init__(self) -> None:
        _check_types("train", self)
        _at_least("train", self, steps=1, batch_size=1, weight_decay=0.0, report_every=1, eval_every=1)
        rate = self.learning_rate
        _require(isfinite(rate) and rate > 0, "train.learning_rate", rate, "a finite number above 0")


@dataclass(frozen=True)
class TrialSettings:
    """All of a trial's settings; the rules that span sections are checked here."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        batch, towers = self.train.batch_size, self.model.towers
        _require(batch % towers == 0, "train.batch_size", batch, f"a multiple of model.towers={towers}")
        size, num_train = (
            (8, 1078) if self.data.dataset == "digits" else (self.data.image_size, self.data.num_train)
        )
        _require(batch <= num_train, "train.batch_size", batch, f"at most the {num_train} training images")
        layers, most = len(self.model.conv_widths), size.bit_length() - 1
        _require(
            layers <= most,
            "model.conv_widths",
            list(self.model.conv_widths),
            f"at most {most} widths, as each layer halves images of {size}x{size}",
        )
