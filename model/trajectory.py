"""What a traced program is made for and works with: structure, state, numbers, readouts, and what steps report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.moving_averages import initial_statistics
from model.network import Layout

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Structure:
    """All that a traced step depends on: settings that differ in nothing else share one."""

    data: DataSettings
    model: ModelSettings
    batch_size: int
    optimizer: str
    smoothed: bool

    @classmethod
    def of(cls, settings: TrialSettings) -> Structure:
        """The structure of a trial; its readouts are tensors."""
        model = ModelSettings(**{**vars(settings.model), "bn_momentum": 0.0, "ema_decay": 0.0})
        train = settings.train
        return cls(settings.data, model, train.batch_size, train.optimizer, train.label_smoothing > 0)


@dataclass(frozen=True)
class Snapshot:
    """The whole numeric state of a run.

    weights [P]; the optimizer's slots [P] (SGD has one: the second is empty); shadows [D, P]; moving statistics
    [M, 2 S] (not debiased); their averages [D, M, 2 S], empty unless they are asked for.
    """

    weights: Array
    first_moment: Array
    second_moment: Array
    shadows: Array
    moving: Array
    moving_shadows: Array

    @staticmethod
    def shapes(
        layout: Layout, structure: Structure, num_decays: int, num_momenta: int
    ) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by its name."""
        p, s = layout.num_weights, 2 * layout.num_statistics
        averaged = num_decays if structure.model.ema_statistics else 0
        return {
            "weights": (p,),
            "first_moment": (p,),
            "second_moment": (p if structure.optimizer == "adam" else 0,),
            "shadows": (num_decays, p),
            "moving": (num_momenta, s),
            "moving_shadows": (averaged, num_momenta, s),
        }

    @classmethod
    def initial(
        cls, layout: Layout, structure: Structure, seed: int, num_decays: int, num_momenta: int
    ) -> Snapshot:
        """A fresh run: shadows start at the initial weights and statistics."""
        model, weights = structure.model, layout.initial_weights(seed)
        moving = initial_statistics(
            num_momenta, layout.num_statistics, model.bn_initial_mean, model.bn_initial_variance
        )
        arrays = {
            name: np.zeros(shape, np.float32)
            for name, shape in cls.shapes(layout, structure, num_decays, num_momenta).items()
        }
        arrays["shadows"][:] = weights
        arrays["moving_shadows"][:] = moving
        return cls(**{**arrays, "weights": weights, "moving": moving})


@dataclass(frozen=True)
class Hyper:
    """A trajectory's numbers that its traced step takes as tensors. ``clip_norm`` is infinite where it is off."""

    weight_decay: float
    clip_norm: float
    label_smoothing: float
    beta1: float
    """Adam's, or SGD's momentum."""
    beta2: float
    epsilon: float

    @classmethod
    def of(cls, train: TrainSettings) -> Hyper:
        """A trial's."""
        return cls(
            weight_decay=train.weight_decay,
            clip_norm=train.clip_norm or float("inf"),
            label_smoothing=train.label_smoothing,
            beta1=train.adam_beta1 if train.optimizer == "adam" else train.sgd_momentum,
            beta2=train.adam_beta2,
            epsilon=train.adam_epsilon,
        )


@dataclass(frozen=True)
class Readouts:
    """The distinct momenta and decays, a row each, and the rows (momentum, decay) that the diagnostics watch."""

    momenta: Sequence[float]
    decays: Sequence[float]
    watched: tuple[int, int]


@dataclass(frozen=True)
class StepLog:
    """What a call's steps were like, a row each: [steps]; diagnostics [steps, names] where they were asked."""

    losses: Array
    penalties: Array
    gradient_norms: Array
    diagnostics: Array
