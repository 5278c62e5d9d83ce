"""The error that every broken rule is told with, and the checks that settings share."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class SettingError(ValueError):
    """A setting breaks a rule. Attributes: ``field`` (dotted, with its section), ``value``, ``rule``."""

    def __init__(self, field: str, value: object, rule: str) -> None:
        self.field, self.value, self.rule = field, value, rule
        super().__init__(field, value, rule)

    def __str__(self) -> str:
        return f"{self.field} is {self.value!r}, but must be {self.rule}"


def require(condition: bool, field: str, value: object, rule: str) -> None:
    """Raise SettingError unless ``condition`` holds."""
    if not condition:
        raise SettingError(field, value, rule)


def check_types(section: str, settings: Any) -> None:
    """Types hold for whoever makes settings without a library that validates, such as a search over choices."""
    hints = _hints(settings.__class__)
    for name in (each.name for each in fields(settings)):
        value = getattr(settings, name)
        allowed = _alternatives(hints[name])
        if not any(_is(value, hint) for hint in allowed):
            rule = " or ".join(_described(hint) for hint in allowed if hint is not NoneType)
            raise SettingError(f"{section}.{name}", value, rule)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Every readout of a run makes settings anew; their types are looked up once."""
    return get_type_hints(kind)


def at_least(section: str, settings: object, **bounds: float) -> None:
    """Named settings, where they are set, are finite and at least so much."""
    for name, bound in bounds.items():
        value = getattr(settings, name)
        if value is not None:
            require(isfinite(value) and value >= bound, f"{section}.{name}", value, f"at least {bound}")


def share(section: str, settings: object, *names: str) -> None:
    """Named settings are at least 0 and below 1."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < 1, f"{section}.{name}", value, "at least 0 and below 1")


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)


def _is(value: object, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(type(each) is int for each in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is hint


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        return "a list of whole numbers"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]
