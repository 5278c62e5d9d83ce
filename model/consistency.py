"""Settings that mean nothing together are refused: whoever wrote them expects something that would not happen.

A setting counts as said where it differs from its default. One that only some trials of a search can use (BN's
order, where the placement is searched and may be none) is no contradiction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields

from model.checks import SettingError
from model.config import TrialSettings


def _no_bn(settings: TrialSettings) -> str:
    return "" if settings.model.sites else "model.bn_placement is none"


def _no_ema(settings: TrialSettings) -> str:
    return "" if settings.model.ema_decay > 0 else "model.ema_decay is 0"


def _no_averaged_statistics(settings: TrialSettings) -> str:
    if settings.train.eval_statistics != "averaged":
        return _no_bn(settings)
    if not settings.model.ema_statistics:
        return "model.ema_statistics is false"
    return _no_bn(settings) or _no_ema(settings)


def _not_averaged(settings: TrialSettings) -> str:
    return _no_ema(settings) if settings.train.eval_weights == "averaged" else ""


def _not(optimizer: str) -> Callable[[TrialSettings], str]:
    def found(settings: TrialSettings) -> str:
        own = settings.train.optimizer
        return "" if own == optimizer else f"train.optimizer is {own}"

    return found


def _not_exponential(settings: TrialSettings) -> str:
    own = settings.train.lr_schedule
    return "" if own == "exponential" else f"train.lr_schedule is {own}"


def _one_tower(settings: TrialSettings) -> str:
    return "" if settings.model.towers > 1 else "model.towers is 1"


def _not_tutorial(settings: TrialSettings) -> str:
    own = settings.model.network
    return "" if own == "tutorial" else f"model.network is {own}"


def _mean_not_zero(settings: TrialSettings) -> str:
    own = settings.model.bn_initial_mean
    return _no_bn(settings) or ("" if own == 0 else f"model.bn_initial_mean is {own}, not 0")


# (section.setting, what else decides whether it means anything, why it would mean nothing)
RULES: tuple[tuple[str, tuple[str, ...], Callable[[TrialSettings], str]], ...] = (
    *(
        (f"model.{name}", ("bn_placement",), _no_bn)
        for name in (
            "bn_order",
            "bn_gamma",
            "bn_beta",
            "bn_epsilon",
            "bn_updates",
            "bn_tower_updates",
            "bn_initial_mean",
            "bn_initial_variance",
            "ema_statistics",
        )
    ),
    ("model.bn_zero_debias", ("bn_placement", "bn_initial_mean"), _mean_not_zero),
    ("model.bn_statistics", ("bn_placement",), lambda settings: _no_bn(settings) or _one_tower(settings)),
    ("model.ema_statistics", ("ema_decay",), _no_ema),
    ("model.lrn", ("network",), _not_tutorial),
    ("train.eval_weights", ("ema_decay",), _not_averaged),
    ("train.eval_statistics", ("bn_placement", "ema_decay", "ema_statistics"), _no_averaged_statistics),
    ("train.sgd_momentum", ("optimizer",), _not("sgd")),
    ("train.adam_beta1", ("optimizer",), _not("adam")),
    ("train.adam_beta2", ("optimizer",), _not("adam")),
    ("train.adam_epsilon", ("optimizer",), _not("adam")),
    ("train.lr_decay_steps", ("lr_schedule",), _not_exponential),
    ("train.lr_decay_factor", ("lr_schedule",), _not_exponential),
    ("train.lr_staircase", ("lr_schedule",), _not_exponential),
)


def check_consistent(settings: TrialSettings, searched: Collection[str]) -> None:
    """Raise SettingError for a setting that the others make meaningless.

    ``searched`` names the parameters that differ between trials, whose values ``settings`` holds.
    """
    for name, deciders, why_not in RULES:
        section, own = name.split(".")
        value, default = getattr(getattr(settings, section), own), _default(settings, section, own)
        reason = why_not(settings)
        excused = own not in searched and any(decider in searched for decider in deciders)
        if value != default and reason and not excused:
            hint = " (in a space: give it a when)" if own in searched else ""
            raise SettingError(name, value, f"left out or {_plain(default)}, as {reason}{hint}")


def _default(settings: TrialSettings, section: str, name: str) -> object:
    return next(each.default for each in fields(getattr(settings, section)) if each.name == name)


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
