"""The protocol between a sweep and what it trains.

A sweep file names a trainable as ``package.module:name``; the towered batch-norm CNN
(``model.trial:ToweredCNN``) is the built-in one. The class must import quickly: TensorFlow and the like are
imported by ``start``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

from sweeps.errors import SettingsError
from sweeps.records import Measurement, Params


@dataclass(frozen=True)
class Devices:
    """What one running trajectory may use: the contents of its slot.

    ``gpus_per_tower`` is a whole number, a fraction below 1, or 0 for CPU. ``threads`` bounds the CPU threads
    of the worker.
    """

    num_towers: int = 1
    gpus_per_tower: float = 0.0
    threads: int = 1


class Run(Protocol):
    """A trajectory under way, held by a worker between rungs."""

    def advance(self, to_step: int) -> Measurement:
        """Train up to ``to_step`` and measure every readout there."""

    def state(self) -> bytes:
        """Everything that is needed to go on from here in another process."""


class SelectiveRun(Run, Protocol):
    """A run of a trainable that says ``scores_lattice = True``."""

    def advance(self, to_step: int, num_scored: int | None = None) -> Measurement:
        """The same, but with ``num_scored`` only the first so many readouts are measured."""


class Trainable(Protocol):
    """What can be swept. Constructed once per sweep and once per worker, from validated settings.

    ``Settings`` is a frozen standard-library dataclass with one field per section of the sweep file that
    belongs to the trainable (for the built-in one: ``data``, ``model``, ``train``), each itself a frozen
    dataclass. Rules are checked in ``__post_init__``, by raising a ValueError that has the attributes
    ``field``, ``value`` and ``rule``.

    A class with ``scores_lattice = True`` is given more readouts than a trajectory has trials: the other cells of
    the lattice of readout values, which it scores at the last step alone (see ``SelectiveRun``).

    ``pause_every``, an attribute or property, lets runs be stopped between rungs, so that a sweep can be left
    quickly and loses little: a number of steps such that a run may be advanced to any multiple of it on the way to
    a rung, with only its first readout measured, without any change to what is measured at the rung (the curve up
    to there included). It holds for ``SelectiveRun``s, and for every run that has one readout.

    Three more members are used where a trainable has them: ``expand(sections) -> sections``, called on the class
    with its own sections of a sweep file before they are validated (presets); ``check_data() -> str``, called
    before anything is written, which reads what the settings name and sums it up in a line; and ``evaluate``, for
    the command of that name.
    """

    Settings: ClassVar[type[Any]]

    def __init__(self, settings: Any) -> None: ...

    @property
    def parameters(self) -> Mapping[str, str]:
        """Every parameter that a space may search, mapped to its role: "trajectory" or "readout"."""

    @property
    def steps(self) -> int:
        """The step at which a trajectory is complete."""

    @property
    def num_towers(self) -> int:
        """How many devices one trajectory uses at a time."""

    def check(self, params: Params) -> None:
        """Raise a ValueError with ``field``, ``value`` and ``rule`` if these parameters cannot be run."""

    def start(
        self, params: Params, readouts: Sequence[Params], seed: int, devices: Devices, state: bytes | None
    ) -> Run:
        """Begin a trajectory, or go on from ``state``. ``params`` are the trajectory parameters."""


def scores_lattice(trainable: type[Trainable]) -> bool:
    """Whether its runs are ``SelectiveRun``s, to which a whole lattice of readouts may be given."""
    return bool(getattr(trainable, "scores_lattice", False))


def load_trainable(dotted: str) -> type[Trainable]:
    """The class that ``package.module:name`` names.

    Raises SettingsError if there is no such module or name.
    """
    module_name, _, name = dotted.partition(":")
    rule = "package.module:name of an importable trainable"
    if not module_name or not name:
        raise SettingsError("trainable", dotted, rule)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise SettingsError("trainable", dotted, f"{rule} ({error})") from error
    return cast("type[Trainable]", found)
