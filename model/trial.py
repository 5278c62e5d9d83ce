"""The trainable: settings and parameters in, a run that trains to a step and measures out.

This module imports no TensorFlow, so that an orchestrator can check settings quickly; ``start`` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from model.checks import SettingError
from model.config import ModelSettings, TrainSettings, TrialSettings, check_images
from model.consistency import check_consistent
from model.lean import import_tensorflow
from model.presets import PRESETS, expand

if TYPE_CHECKING:
    from model.run import TrainingRun

READOUTS = frozenset({"bn_momentum", "ema_decay"})
NOT_SEARCHABLE = frozenset({"towers", "steps", "report_every", "eval_every"})

Params = Mapping[str, Any]
Section = TypeVar("Section", ModelSettings, TrainSettings)


class Devices(Protocol):
    """What a run may use: the orchestrator's slot."""

    @property
    def num_towers(self) -> int:
        """Devices to use at a time."""

    @property
    def gpus_per_tower(self) -> float:
        """0 for CPU, a fraction below 1 to share a GPU, or whole."""

    @property
    def threads(self) -> int:
        """CPU threads of the whole worker."""


class ToweredCNN:
    """The towered batch-norm CNN. BN momentum and EMA decay are readouts: they cannot change the weights."""

    Settings: ClassVar[type[TrialSettings]] = TrialSettings
    scores_lattice: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Mapping[str, Any]]]] = PRESETS
    expand = staticmethod(expand)

    def __init__(self, settings: TrialSettings) -> None:
        self.settings = settings

    @property
    def parameters(self) -> dict[str, str]:
        """Every searchable setting of the model and train sections, with its role."""
        names = [field.name for section in (ModelSettings, TrainSettings) for field in fields(section)]
        return {
            name: "readout" if name in READOUTS else "trajectory" for name in names if name not in NOT_SEARCHABLE
        }

    @property
    def steps(self) -> int:
        """Steps of a whole trajectory."""
        return self.settings.train.steps

    @property
    def pause_every(self) -> int:
        """Training halts at multiples of this anyway, for an evaluation; so it can be stopped there at no cost."""
        return self.settings.train.eval_every

    @property
    def num_towers(self) -> int:
        """Devices of a trajectory."""
        return self.settings.model.towers

    def check(self, params: Params) -> None:
        """Raise SettingError if these parameters, trajectory's and readout's, cannot be run."""
        check_consistent(self.with_params(params), params)

    def check_data(self) -> str:
        """Read what the settings name from disk, if anything, and check it: a line that sums it up, or "".

        Raises SettingError. Imports no TensorFlow; what would have to be downloaded is left to the workers.
        """
        if not self.settings.data.path:
            return ""
        from model.data import load

        data = load(self.settings.data)
        check_images(self.settings, len(data.train.labels), data.image_shape)
        return data.summary()

    def with_params(self, params: Params) -> TrialSettings:
        """The settings with ``params`` put in their places. Raises SettingError."""
        known = self.parameters
        for name, value in params.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                raise SettingError(name, value, f"a parameter of this trainable{hint}")
        return replace(
            self.settings,
            model=_replaced(self.settings.model, params),
            train=_replaced(self.settings.train, params),
        )

    def prepare(self, devices: Devices) -> None:
        """Do once, ahead of the first trajectory, what every trajectory needs: devices and data."""
        import_tensorflow()
        from model.data import load
        from model.run import place_for

        place_for(self.settings, load(self.settings.data), devices)

    def start(
        self,
        params: Params,
        readouts: Sequence[Params],
        seed: int,
        devices: Devices,
        state: bytes | None = None,
    ) -> TrainingRun:
        """Begin a run, or go on from ``state``. Raises SettingError, or CheckpointError for a foreign state."""
        import_tensorflow()
        from model.run import TrainingRun

        settings = self.with_params(params)
        if devices.num_towers != settings.model.towers:
            # Towers split the batch and its statistics, so another number of them would be another trial.
            rule = f"the number of devices given to the run, {devices.num_towers}"
            raise SettingError("model.towers", settings.model.towers, rule)
        if not readouts:
            raise SettingError("readouts", list(readouts), "at least one, which may be empty")
        if seed < 0:
            raise SettingError("seed", seed, "at least 0")
        for readout in readouts:
            self._check_readout(readout)
            self.check({**params, **readout})
        pairs = [self._pair(settings, readout) for readout in readouts]
        key = json.dumps({"settings": asdict(settings), "readouts": pairs, "seed": seed}, sort_keys=True)
        return TrainingRun(settings, pairs, seed, devices, key, state)

    def evaluate(
        self,
        params: Params,
        readouts: Sequence[Params],
        which: int,
        seed: int,
        devices: Devices,
        state: bytes,
    ) -> list[dict[str, Any]]:
        """The matrix {raw, averaged} x {batch, moving, re-estimated} of loss and accuracy on eval and test.

        Restores ``state`` and reads it with readout number ``which``. Rows: weights, statistics, part, loss,
        accuracy. Statistics other than "none" appear only where there is BN, averaged weights only with an EMA.
        """
        return self.start(params, readouts, seed, devices, state).evaluation_matrix(which)

    def _check_readout(self, readout: Params) -> None:
        unknown = set(readout) - READOUTS
        if unknown:
            raise SettingError("readout", sorted(unknown)[0], f"one of {', '.join(sorted(READOUTS))}")

    def _pair(self, settings: TrialSettings, readout: Params) -> tuple[float, float]:
        """(momentum, decay); what a readout leaves open is as the settings say."""
        model = replace(settings.model, **readout)
        return float(model.bn_momentum), float(model.ema_decay)


def _replaced(section: Section, params: Params) -> Section:
    own = {field.name for field in fields(section)}
    changed = {name: _plain(value) for name, value in params.items() if name in own}
    return replace(section, **changed) if changed else section


def _plain(value: Any) -> Any:
    """Lists, as files have them, become the tuples that settings hold."""
    return tuple(value) if isinstance(value, list) else value
