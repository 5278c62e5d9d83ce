"""What a trial can be told: three sections of frozen settings, valid from birth.

These are plain dataclasses; whoever reads them from a file may validate types with a library of their choice.
Rules that only a whole trial can break are in ``consistency.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite
from typing import Any, ClassVar, Literal

from model.checks import SettingError, at_least, check_types, require, share

SITES = ("input", "conv", "fc", "logits")

# Each network's own layers, where the settings name none: Krizhevsky's, as the CIFAR-10 tutorial has them, and a
# small one for small images.
CONV_WIDTHS = {"small": (32, 32), "tutorial": (64, 64)}
FC_WIDTHS = {"small": (128, 64), "tutorial": (384, 192)}


@dataclass(frozen=True)
class DataSettings:
    """Which images, and what is done to them."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    dataset: Literal["digits", "synthetic", "cifar10", "cifar100", "npz"] = "digits"
    path: str = ""
    """cifar10, cifar100: the folder of the binary version; empty: tf.keras.datasets loads it. npz: the file."""
    eval_fraction: float = 0.2
    """Share of the images that becomes the eval part, where a file has none (cifar10, cifar100, npz)."""
    test_fraction: float = 0.2
    """Share of the images that becomes the test part, where a file has none (npz)."""
    standardize: Literal["dataset", "image", "none"] = "dataset"
    """Mean 0 and deviation 1 over the training part's pixels, or over each image's, as in the tutorial."""
    crop_size: int = 0
    """Height and width of the crops: at random in training, central in evaluation; 0: whole images."""
    flip: bool = False
    """Training: mirror half of the images left to right."""
    brightness: float = 0.0
    """Training: add up to so much either way, in the data's own units."""
    contrast: float = 0.0
    """Training: stretch around the mean by a factor of 1 plus or minus up to so much."""
    resident_mib: float = 1024.0
    """Training images up to this size (MiB) are kept on every tower's device; more are streamed."""
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
    """What synthetic images are drawn from, and how all others are split; apart from every trial's own seed."""

    def __post_init__(self) -> None:
        check_types("data", self)
        at_least("data", self, num_classes=2, image_size=4, channels=1, num_train=2, num_eval=2, noise=0.0, seed=0)
        at_least("data", self, crop_size=0, brightness=0.0, resident_mib=0.0)
        share("data", self, "contrast")
        for name in ("eval_fraction", "test_fraction"):
            value = getattr(self, name)
            require(0 < value < 0.5, f"data.{name}", value, "above 0 and below 0.5")
        if self.dataset == "npz":
            require(bool(self.path), "data.path", self.path, "the .npz file, where data.dataset is npz")
        if self.dataset in ("digits", "synthetic"):
            require(not self.path, "data.path", self.path, f"left out, where data.dataset is {self.dataset}")

    @property
    def augmented(self) -> bool:
        """Whether training sees images that chance has changed."""
        return bool(self.crop_size or self.flip or self.brightness or self.contrast)


@dataclass(frozen=True)
class ModelSettings:
    """The network, its towers, its batch normalization and its averages."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    network: Literal["small", "tutorial"] = "small"
    """small: 2x2 pooling after each convolution; tutorial: the CIFAR-10 tutorial's, with 3x3 pooling by 2."""
    towers: int = 1
    """Copies of the network, one a device; they share variables and split the batch."""
    conv_widths: tuple[int, ...] | None = None
    """Filters of each convolution; left out: the network's own (small 32, 32; tutorial 64, 64)."""
    fc_widths: tuple[int, ...] | None = None
    """Units of each fully connected layer; left out: the network's own (small 128, 64; tutorial 384, 192)."""
    kernel_size: int | tuple[int, ...] = 5
    """Of all convolutions, or one each."""
    lrn: bool = False
    """Local response normalization after the first pooling and before later ones (tutorial)."""
    initializer: Literal["he", "tutorial"] = "he"
    """he: variance 2 / fan-in; tutorial: stddev 5e-2 (conv), 4e-2 (fc), biases .1, as in the CIFAR-10 tutorial."""
    bn_placement: str = "none"
    """Where batch normalization stands: none, or any of input, conv, fc, logits joined by +, in that order."""
    bn_order: Literal["pre", "post"] = "pre"
    """Before or after the activation (conv and fc)."""
    bn_gamma: bool = True
    bn_beta: bool = True
    bn_epsilon: float = 1e-3
    bn_statistics: Literal["tower", "synchronized"] = "tower"
    """A tower normalizes with its own share's statistics, or with those of the whole batch."""
    bn_momentum: float = 0.99
    """moving <- momentum * moving + (1 - momentum) * batch."""
    bn_updates: Literal["always", "never"] = "always"
    """never: the moving statistics stay as they start, as where nobody runs TensorFlow's UPDATE_OPS."""
    bn_tower_updates: Literal["mean", "first", "last", "all"] = "mean"
    """Which towers' batch statistics reach the shared moving statistics; all: each tower's in turn."""
    bn_initial_mean: float = 0.0
    bn_initial_variance: float = 1.0
    bn_zero_debias: bool = False
    """Divide the moving mean by 1 - momentum ** updates, as tf.contrib's zero_debias_moving_mean."""
    ema_decay: float = 0.0
    """shadow <- decay * shadow + (1 - decay) * variable; 0 evaluates the raw weights."""
    ema_warmup: bool = True
    """Use min(decay, (1 + t) / (10 + t)), as tf.train.ExponentialMovingAverage does with num_updates."""
    ema_statistics: bool = False
    """Average the moving statistics as well, with the same decay."""
    variable_placement: Literal["cpu", "first_tower"] = "first_tower"

    def __post_init__(self) -> None:
        check_types("model", self)
        at_least("model", self, towers=1)
        for name in ("conv_widths", "fc_widths"):
            widths = getattr(self, name)
            if widths is not None:
                require(all(width >= 1 for width in widths), f"model.{name}", list(widths), "widths of at least 1")
        self._check_kernels()
        valid = self.bn_placement == "none" or self.bn_placement == "+".join(
            site for site in SITES if site in self.bn_placement.split("+")
        )
        require(
            valid and bool(self.bn_placement),
            "model.bn_placement",
            self.bn_placement,
            f"none, or any of {', '.join(SITES)} joined by + in that order",
        )
        # cuDNN's own lower bound; TensorFlow would raise a smaller one without a word.
        require(1.001e-5 <= self.bn_epsilon <= 10, "model.bn_epsilon", self.bn_epsilon, "from 1.001e-5 to 10")
        require(isfinite(self.bn_initial_mean), "model.bn_initial_mean", self.bn_initial_mean, "a finite number")
        at_least("model", self, bn_initial_variance=0.0)
        share("model", self, "bn_momentum", "ema_decay")

    def _check_kernels(self) -> None:
        sizes, layers = self.kernel_size, len(self.convolutions)
        if isinstance(sizes, tuple):
            require(len(sizes) == layers, "model.kernel_size", list(sizes), f"one size, or {layers}, one a layer")
        each = sizes if isinstance(sizes, tuple) else (sizes,)
        value = list(sizes) if isinstance(sizes, tuple) else sizes
        require(all(size >= 1 for size in each), "model.kernel_size", value, "at least 1")

    @property
    def sites(self) -> frozenset[str]:
        """Where batch normalization stands, as a set."""
        return frozenset(() if self.bn_placement == "none" else self.bn_placement.split("+"))

    @property
    def convolutions(self) -> tuple[int, ...]:
        """Filters of each convolution."""
        return CONV_WIDTHS[self.network] if self.conv_widths is None else self.conv_widths

    @property
    def kernels(self) -> tuple[int, ...]:
        """Height and width of each convolution's kernel."""
        sizes = self.kernel_size
        return sizes if isinstance(sizes, tuple) else (sizes,) * len(self.convolutions)

    @property
    def fully_connected(self) -> tuple[int, ...]:
        """Units of each fully connected layer before the logits."""
        return FC_WIDTHS[self.network] if self.fc_widths is None else self.fc_widths

    @property
    def updates_per_step(self) -> int:
        """How often a step updates the moving statistics."""
        if self.bn_updates == "never":
            return 0
        return self.towers if self.bn_tower_updates == "all" else 1

    def pooled(self, size: int) -> int:
        """Height or width of a layer's images after pooling: the tutorial's rounds up, the small one's down."""
        return (size + 1) // 2 if self.network == "tutorial" else size // 2


@dataclass(frozen=True)
class TrainSettings:
    """How the network is trained and measured."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "use_attribute_docstrings": True}

    steps: int = 300
    """Mini-batches of a whole trajectory."""
    batch_size: int = 128
    """Images a step, over all towers together."""
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    lr_schedule: Literal["constant", "exponential", "cosine"] = "constant"
    """exponential: times lr_decay_factor every lr_decay_steps; cosine: down to 0 at the last step."""
    lr_warmup_steps: int = 0
    """Rise in a straight line over so many steps first."""
    lr_decay_steps: int = 100
    lr_decay_factor: float = 0.1
    lr_staircase: bool = True
    """Decay at once, every lr_decay_steps, as in the tutorial; false: a little at every step."""
    sgd_momentum: float = 0.9
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-7
    weight_decay: float = 0.0
    """Factor of the L2 penalty, sum(w**2) / 2, on the fully connected layers' weights (not the logits')."""
    clip_norm: float = 0.0
    """Scale gradients down to this global norm where they exceed it; 0: never."""
    label_smoothing: float = 0.0
    """Training: the share of a label that is spread evenly over all classes."""
    init_seed: int | None = None
    """Of the initial weights; left out: the trial's own seed."""
    order_seed: int | None = None
    """Of the data's order and augmentation; left out: the trial's own seed."""
    report_every: int = 10
    """Steps between points of the training curve."""
    eval_every: int = 100
    """Steps between evaluations with the first readout, besides the rungs."""
    eval_weights: Literal["auto", "raw", "averaged"] = "auto"
    """Evaluate raw or averaged weights; auto: averaged where ema_decay is above 0."""
    eval_statistics: Literal["moving", "averaged", "batch", "re-estimated"] = "moving"
    """Evaluate with moving statistics, their average, each batch's own, or those of fixed weights (precise)."""

    def __post_init__(self) -> None:
        check_types("train", self)
        at_least("train", self, steps=1, batch_size=1, weight_decay=0.0, report_every=1, eval_every=1)
        at_least("train", self, lr_warmup_steps=0, lr_decay_steps=1, clip_norm=0.0, init_seed=0, order_seed=0)
        share("train", self, "sgd_momentum", "adam_beta1", "adam_beta2", "label_smoothing")
        for name in ("learning_rate", "adam_epsilon"):
            value = getattr(self, name)
            require(isfinite(value) and value > 0, f"train.{name}", value, "a finite number above 0")
        factor = self.lr_decay_factor
        require(0 < factor <= 1, "train.lr_decay_factor", factor, "above 0 and at most 1")


@dataclass(frozen=True)
class TrialSettings:
    """All of a trial's settings."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)

    def __post_init__(self) -> None:
        batch, towers = self.train.batch_size, self.model.towers
        require(batch % towers == 0, "train.batch_size", batch, f"a multiple of model.towers={towers}")
        # What is known before anything is read; what only a file tells is checked when it has been.
        if self.data.dataset == "digits":
            check_images(self, 1079, (8, 8, 1))
        elif self.data.dataset == "synthetic":
            size = self.data.image_size
            check_images(self, self.data.num_train, (size, size, self.data.channels))


def check_images(settings: TrialSettings, num_train: int, shape: tuple[int, ...]) -> None:
    """These images are enough for a batch, and large enough for the crop and the layers. Raises SettingError."""
    batch, model, crop = settings.train.batch_size, settings.model, settings.data.crop_size
    require(batch <= num_train, "train.batch_size", batch, f"at most the {num_train} training images")
    size = min(shape[:2])
    require(crop <= size, "data.crop_size", crop, f"at most {size}, as images are {shape[0]}x{shape[1]}")
    size = crop or size
    for index, kernel in enumerate(model.kernels, start=1):
        # Pooling by 2x2 needs two pixels; the tutorial's rounds up, and would go on for ever at one.
        if size < 2:
            rule = f"at most {index - 1} widths, as each layer halves images of {crop or min(shape[:2])} pixels"
            raise SettingError("model.conv_widths", list(model.convolutions), rule)
        rule = f"at most {2 * size - 1}, as the rest would see nothing of layer {index}'s {size}x{size} images"
        require(kernel <= 2 * size - 1, "model.kernel_size", kernel, rule)
        size = model.pooled(size)
