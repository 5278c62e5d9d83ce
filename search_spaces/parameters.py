"""What can be searched: Float, Int and Categorical parameters, valid from birth.

``when`` maps another parameter's name to the values that it must have for this one to be active.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, floor, isfinite, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

ParamValue = bool | int | float | str
When = Mapping[str, tuple[ParamValue, ...]]


class SpaceError(ValueError):
    """A search space breaks a rule. Attributes: ``field`` (dotted, below ``space``), ``value``, ``rule``."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field, self.value, self.rule = field, value, rule
        super().__init__(f"{field} is {value!r}, but must be {rule}")


def _check_range(name: str, low: float, high: float, logarithmic: bool) -> None:
    where = f"space.parameters.{name}"
    if not (isfinite(low) and isfinite(high)):
        raise SpaceError(f"{where}.low, high", (low, high), "finite numbers")
    if low >= high:
        raise SpaceError(f"{where}.low", low, f"below {where}.high={high!r}")
    if logarithmic and low <= 0:
        raise SpaceError(f"{where}.low", low, "above 0 where log = true")


@dataclass(frozen=True)
class Float:
    """A real number in [low, high], uniform, or log-uniform with ``log``."""

    name: str
    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.log)

    def distribution(self) -> BaseDistribution:
        """Optuna's equivalent."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.log)

    @property
    def extremes(self) -> tuple[ParamValue, ...]:
        """The values worth trying before anything starts."""
        return (self.low, self.high)

    def at(self, share: float) -> float:
        """The value at ``share``, in [0, 1), of the way through the range."""
        if not self.log:
            return self.low + share * (self.high - self.low)
        return min(self.high, exp(log(self.low) + share * (log(self.high) - log(self.low))))

    def contains(self, value: object) -> bool:
        """Whether ``value`` can be drawn."""
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Int:
    """A whole number in [low, high], both included."""

    name: str
    low: int
    high: int
    log: bool = False
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_range(self.name, self.low, self.high, self.log)

    def distribution(self) -> BaseDistribution:
        """Optuna's equivalent."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high, log=self.log)

    @property
    def extremes(self) -> tuple[ParamValue, ...]:
        """The values worth trying before anything starts."""
        return (self.low, self.high)

    def at(self, share: float) -> int:
        """The value at ``share``, in [0, 1), of the way through the range: each as likely, or, with ``log``, less
        so the larger.
        """
        if not self.log:
            return self.low + floor(share * (self.high - self.low + 1))
        found = exp(log(self.low - 0.5) + share * (log(self.high + 0.5) - log(self.low - 0.5)))
        return min(self.high, max(self.low, round(found)))

    def contains(self, value: object) -> bool:
        """Whether ``value`` can be drawn."""
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Categorical:
    """One of ``choices``; at least one, and none twice."""

    name: str
    choices: tuple[ParamValue, ...]
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"space.parameters.{self.name}.choices"
        if not self.choices:
            raise SpaceError(where, [], "at least one value")
        seen: set[tuple[type, ParamValue]] = set()
        for choice in self.choices:
            kind = bool if isinstance(choice, bool) else str if isinstance(choice, str) else float
            if (kind, choice) in seen:
                raise SpaceError(where, list(self.choices), f"without doubles ({choice!r} is there twice)")
            if isinstance(choice, float) and not isfinite(choice):
                raise SpaceError(where, list(self.choices), "finite numbers, strings or booleans")
            seen.add((kind, choice))

    def distribution(self) -> BaseDistribution:
        """Optuna's equivalent."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.choices)

    @property
    def extremes(self) -> tuple[ParamValue, ...]:
        """Every choice: each may be the one that cannot be run."""
        return self.choices

    def at(self, share: float) -> ParamValue:
        """The choice at ``share``, in [0, 1), of the way through them."""
        return self.choices[floor(share * len(self.choices))]

    def contains(self, value: object) -> bool:
        """Whether ``value`` can be drawn."""
        return value in self.choices


Parameter = Float | Int | Categorical
