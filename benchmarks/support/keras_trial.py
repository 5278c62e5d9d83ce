"""The peers' trial: towersweep's ``small`` network of Keras layers, trained and measured at the same rungs.

Written as a user who knows Keras would: one thread, ``train_on_batch`` (of ``fit`` on arrays, ``fit`` on a
tf.data pipeline, more steps an execution, with XLA and without, the fastest here), a traced evaluation, weights
averaged by the optimizer. TensorFlow is imported by the first trial of a process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RUNGS = (11, 33, 100, 300)
REDUCTION_FACTOR = 3
BATCH_SIZE = 128
CONV_WIDTHS, FC_WIDTHS = (32, 32), (128, 64)
WORST = 1e6  # What the peers are told instead of NaN and infinity, which not all of their parts can rank.


@dataclass(frozen=True)
class Images:
    """Digits, standardized, in towersweep's own split."""

    train: NDArray[np.float32]
    train_labels: NDArray[np.int32]
    eval: NDArray[np.float32]
    eval_labels: NDArray[np.int32]


def load_images(split_seed: int) -> Images:
    """The parts that a search sees."""
    from model.config import DataSettings
    from model.data import load

    data = load(DataSettings(dataset="digits", seed=split_seed))
    train, held_out = ((part.images - data.mean) / data.deviation for part in (data.train, data.eval))
    return Images(train.astype(np.float32), data.train.labels, held_out.astype(np.float32), data.eval.labels)


def suggest(trial: Any) -> dict[str, Any]:
    """A point of the ``batch_norm`` space, by Optuna's define-by-run interface."""
    from search_spaces import presets
    from search_spaces.parameters import Categorical

    chosen: dict[str, Any] = {}
    for parameter in presets()["batch_norm"].parameters:
        if any(chosen.get(name) not in allowed for name, allowed in (parameter.when or {}).items()):
            continue
        if isinstance(parameter, Categorical):
            chosen[parameter.name] = trial.suggest_categorical(parameter.name, parameter.choices)
        else:
            low, high, log = parameter.low, parameter.high, parameter.log
            chosen[parameter.name] = trial.suggest_float(parameter.name, low, high, log=log)
    return chosen


def measurements(params: Mapping[str, Any], images: Images, kernel_size: int) -> Iterator[tuple[int, float]]:
    """Train; yield (step, eval loss) at every rung. Whoever has seen enough stops asking."""
    _keras().backend.clear_session()
    decay = params["ema_decay"]
    network = compiled(params, images.train.shape[1:], kernel_size)
    order = _batches(len(images.train))
    done = 0
    for rung in RUNGS:
        for _ in range(rung - done):
            chosen = next(order)
            network.train_on_batch(images.train[chosen], images.train_labels[chosen])
        done = rung
        loss = _averaged_loss(network, images) if decay else _loss(network, images)
        yield rung, loss if np.isfinite(loss) else WORST


def compiled(params: Mapping[str, Any], image_shape: tuple[int, ...], kernel_size: int) -> Any:
    """The network with its optimizer. No EMA is asked for where the decay is 0."""
    keras, decay = _keras(), params["ema_decay"]
    average = {"use_ema": True, "ema_momentum": decay} if decay else {}
    network = _network(params, image_shape, kernel_size)
    network.compile(
        keras.optimizers.Adam(params["learning_rate"], **average),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return network


@cache
def _keras() -> Any:
    """Keras on TensorFlow with one thread; what the environment says is read when TensorFlow is first imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # As our own trial has it.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return keras


def _network(params: Mapping[str, Any], image_shape: tuple[int, ...], kernel_size: int) -> Any:
    keras = _keras()
    layers, initializers = keras.layers, keras.initializers
    sites, post = params["bn_placement"].split("+"), params.get("bn_order") == "post"

    def bn(site: str) -> list[Any]:
        return [layers.BatchNormalization(momentum=params["bn_momentum"])] if site in sites else []

    def activated(site: str) -> list[Any]:
        return [layers.ReLU(), *bn(site)] if post else [*bn(site), layers.ReLU()]

    stack: list[Any] = [keras.Input(image_shape), *bn("input")]
    for width in CONV_WIDTHS:
        convolution = layers.Conv2D(width, kernel_size, padding="same", kernel_initializer="he_normal")
        stack += [convolution, *activated("conv"), layers.MaxPooling2D(2)]
    stack.append(layers.Flatten())
    for width in FC_WIDTHS:
        stack += [layers.Dense(width, kernel_initializer="he_normal"), *activated("fc")]
    small = initializers.TruncatedNormal(stddev=1 / FC_WIDTHS[-1])
    return keras.Sequential([*stack, layers.Dense(10, kernel_initializer=small), *bn("logits")])


def _batches(count: int) -> Iterator[NDArray[np.int64]]:
    """Every epoch in an order of its own, without its last, incomplete batch."""
    rng = np.random.default_rng()
    while True:
        order = rng.permutation(count)
        for first in range(0, count - BATCH_SIZE + 1, BATCH_SIZE):
            yield order[first : first + BATCH_SIZE]


def _loss(network: Any, images: Images) -> float:
    return float(network.test_on_batch(images.eval, images.eval_labels))


def _averaged_loss(network: Any, images: Images) -> float:
    """With the shadow variables in the weights' place, which training then goes on from as they were."""
    variables = network.trainable_variables
    raw = [variable.numpy() for variable in variables]
    network.optimizer.finalize_variable_values(variables)
    loss = _loss(network, images)
    for variable, value in zip(variables, raw, strict=True):
        variable.assign(value)
    return loss
