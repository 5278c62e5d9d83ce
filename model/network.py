"""The network as a pure function of a flat weight vector: layout, initial values, forward pass.

All trainable variables live in one vector [P], so that the optimizer and the averages are a few large operations
instead of many small ones. ``Layout`` says where each variable stands in it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from model.config import ModelSettings
from model.convolution import convolve, halve

# normalize(site name, features [N, ..., C], bias [C], gamma [C], beta [C]) -> the sum of features and bias,
# normalized; each of the last three may be None
Normalize = Callable[[str, "tf.Tensor", "tf.Tensor | None", "tf.Tensor | None", "tf.Tensor | None"], "tf.Tensor"]

# What a pass asks for at a site of batch normalization: the arguments of normalize. It is sent the features.
Site = tuple[str, "tf.Tensor", "tf.Tensor | None", "tf.Tensor | None", "tf.Tensor | None"]


@dataclass(frozen=True)
class Variable:
    """One trainable variable. ``stddev`` of its initial truncated normal; None: all ``constant``."""

    name: str
    shape: tuple[int, ...]
    stddev: float | None = None
    constant: float = 0.0
    penalised: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Variables in the order of the flat vector, and the BN sites with their numbers of channels."""

    variables: tuple[Variable, ...]
    bn_channels: tuple[tuple[str, int], ...]

    @property
    def sizes(self) -> list[int]:
        """Elements a variable."""
        return [variable.size for variable in self.variables]

    @property
    def num_weights(self) -> int:
        """P."""
        return sum(self.sizes)

    @property
    def num_statistics(self) -> int:
        """S, the channels of all BN sites together."""
        return sum(channels for _, channels in self.bn_channels)

    def initial_weights(self, seed: int) -> NDArray[np.float32]:
        """[P] float32, from NumPy, so the same on every device. Normals are truncated at two deviations."""
        rng = np.random.default_rng((seed, 1))
        parts = []
        for variable in self.variables:
            if variable.stddev is None:
                parts.append(np.full(variable.size, variable.constant, np.float32))
            else:
                parts.append((variable.stddev * _truncated_normal(rng, variable.size)).astype(np.float32))
        return np.concatenate(parts)

    def penalty_mask(self) -> NDArray[np.float32]:
        """[P]: 1 where the L2 penalty applies, else 0."""
        return np.concatenate([np.full(v.size, float(v.penalised), np.float32) for v in self.variables])


def _truncated_normal(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    values = rng.standard_normal(size)
    while (outside := np.abs(values) > 2).any():
        values[outside] = rng.standard_normal(int(outside.sum()))
    return values


def make_layout(model: ModelSettings, image_shape: tuple[int, int, int], num_classes: int) -> Layout:
    """The variables of the network for images [H, W, C]."""
    height, width, channels = image_shape
    variables: list[Variable] = []
    bn: list[tuple[str, int]] = []

    def add_bn(site: str, name: str, size: int) -> None:
        if site in model.sites:
            bn.append((name, size))
            if model.bn_gamma:
                variables.append(Variable(f"{name}/gamma", (size,), constant=1.0))
            if model.bn_beta:
                variables.append(Variable(f"{name}/beta", (size,)))

    def stddev(fan_in: int, tutorial: float) -> float:
        return tutorial if model.initializer == "tutorial" else (2 / fan_in) ** 0.5

    add_bn("input", "input", channels)
    positive = 0.1 if model.initializer == "tutorial" else 0.0  # Biases of all layers but the first and the last.
    for index, (filters, size) in enumerate(zip(model.convolutions, model.kernels, strict=True), start=1):
        shape = (size, size, channels, filters)
        variables.append(Variable(f"conv{index}/kernel", shape, stddev(prod(shape[:3]), 5e-2)))
        variables.append(Variable(f"conv{index}/bias", (filters,), constant=positive if index > 1 else 0.0))
        add_bn("conv", f"conv{index}", filters)
        height, width, channels = model.pooled(height), model.pooled(width), filters
    features = height * width * channels
    for index, units in enumerate(model.fully_connected, start=1):
        kernel = Variable(f"fc{index}/kernel", (features, units), stddev(features, 4e-2), penalised=True)
        variables += [kernel, Variable(f"fc{index}/bias", (units,), constant=positive)]
        add_bn("fc", f"fc{index}", units)
        features = units
    # Small logits, as in the tutorial (1 / fan-in), so that training starts at ln C.
    variables.append(Variable("logits/kernel", (features, num_classes), 1 / features))
    variables.append(Variable("logits/bias", (num_classes,)))
    add_bn("logits", "logits", num_classes)
    return Layout(tuple(variables), tuple(bn))


def unflatten(layout: Layout, flat: tf.Tensor) -> list[tf.Tensor]:
    """[P] -> one tensor a variable, in the layout's order."""
    parts = tf.split(flat, layout.sizes)
    return [tf.reshape(part, v.shape) for part, v in zip(parts, layout.variables, strict=True)]


def forward(
    layout: Layout,
    model: ModelSettings,
    weights: Sequence[tf.Tensor],
    images: tf.Tensor,
    normalize: Normalize,
    *,
    pool_first: bool = False,
) -> tf.Tensor:
    """Logits [N, classes] of images [N, H, W, C]; ``normalize`` is batch or moving normalization.

    ``pool_first`` may be asked for where ``normalize`` treats each value for itself, as with given statistics: it
    and ReLU then never change which of a channel's values is the largest (or, with a negative gamma, the
    smallest), so pooling gives the same numbers before them, and leaves them fewer values.
    """
    return finish(forward_steps(layout, model, weights, images, pool_first=pool_first), None, normalize)


def finish(
    steps: Generator[Site, tf.Tensor | None, tf.Tensor], features: tf.Tensor | None, normalize: Normalize
) -> tf.Tensor:
    """Logits: the rest of a pass, sent the ``features`` of the site where it halts (None: it has not begun)."""
    while True:
        try:
            site = steps.send(features)
        except StopIteration as end:
            return end.value
        features = normalize(*site)


def forward_steps(
    layout: Layout,
    model: ModelSettings,
    weights: Sequence[tf.Tensor],
    images: tf.Tensor,
    *,
    pool_first: bool = False,
) -> Generator[Site, tf.Tensor | None, tf.Tensor]:
    """The same pass, halting at every site of batch normalization, where towers can wait for each other."""
    by_name = {variable.name: weight for variable, weight in zip(layout.variables, weights, strict=True)}

    def bn(
        site: str, name: str, x: tf.Tensor, bias: tf.Tensor | None
    ) -> Generator[Site, tf.Tensor | None, tf.Tensor]:
        if site in model.sites:
            return (yield name, x, bias, by_name.get(f"{name}/gamma"), by_name.get(f"{name}/beta"))
        return x if bias is None else tf.nn.bias_add(x, bias)

    def layer(
        site: str, name: str, x: tf.Tensor, pool: Callable[[tf.Tensor], tf.Tensor] = tf.identity
    ) -> Generator[Site, tf.Tensor | None, tf.Tensor]:
        bias = by_name[f"{name}/bias"]
        if model.bn_order == "pre":
            # ReLU never changes which value is the largest, so it can wait until pooling has left it fewer.
            return tf.nn.relu(pool((yield from bn(site, name, x, bias))))
        return pool((yield from bn(site, name, tf.nn.relu(tf.nn.bias_add(x, bias)), None)))

    def max_pool(x: tf.Tensor) -> tf.Tensor:
        return halve(x) if model.network == "small" else tf.nn.max_pool2d(x, ksize=3, strides=2, padding="SAME")

    x = yield from bn("input", "input", images, None)
    for index in range(1, len(model.convolutions) + 1):
        name, kernel = f"conv{index}", by_name[f"conv{index}/kernel"]
        # The tutorial's first normalization of local responses comes after pooling, its second before.
        lrn_after, lrn_before = model.lrn and index == 1, model.lrn and index > 1
        if lrn_before:
            x = max_pool(_local_response_normalization((yield from layer("conv", name, convolve(x, kernel)))))
        elif pool_first:
            gamma = by_name.get(f"{name}/gamma", tf.ones(kernel.shape[-1:], kernel.dtype))
            sign = tf.where(gamma < 0, -tf.ones_like(gamma), tf.ones_like(gamma))
            x = yield from layer("conv", name, sign * max_pool(convolve(x, sign * kernel)))
        else:
            x = yield from layer("conv", name, convolve(x, kernel), max_pool)
        x = _local_response_normalization(x) if lrn_after else x
    x = tf.reshape(x, [-1, prod(x.shape[1:])])
    for index in range(1, len(model.fully_connected) + 1):
        x = yield from layer("fc", f"fc{index}", tf.matmul(x, by_name[f"fc{index}/kernel"]))
    return (yield from bn("logits", "logits", tf.matmul(x, by_name["logits/kernel"]), by_name["logits/bias"]))


def _local_response_normalization(x: tf.Tensor) -> tf.Tensor:
    """With the tutorial's constants (cifar10.py; Krizhevsky et al., 2012)."""
    return tf.nn.local_response_normalization(x, depth_radius=4, bias=1.0, alpha=0.001 / 9.0, beta=0.75)
