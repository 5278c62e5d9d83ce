"""All figures of a report, in the order of the page, and the parameter importances.

Importances come from Optuna's conditional PED-ANOVA, on an in-memory study rebuilt from the records: it handles
parameters that are not always active (Watanabe et al. 2304.10255; Yasuda et al. 2601.20800). This is the only part
of the report that imports Optuna.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from sweeps.records import ParamValue, SweepRecord, TrialRecord, TrialState
from sweeps.report.curves import best_so_far, learning_curves
from sweeps.report.drawing import TEXT_COLOUR, Figure, spans_log
from sweeps.report.scatter import loss_over_parameter, main_parameter
from sweeps.report.summary import finite, is_category, parameter_names

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

# Below this the ranking is noise: siblings share a training run, so trajectories count, not trials.
MIN_TRAJECTORIES = 10

# PED-ANOVA asks what sets the best trials apart: the best quarter, and at least this many. Optuna's default is a
# tenth; on made-up sweeps of 30 to 400 trials a quarter named the parameter that decides more often.
MIN_BEST_TRIALS = 8
BEST_SHARE = 0.25

# A number with so few values, each seen so often, was chosen from a list rather than drawn from a range.
MAX_CHOICES = 12
MIN_SEEN_PER_CHOICE = 3


@dataclass(frozen=True)
class Importances:
    """Shares that add up to 1, highest first; or none, and why. ``share`` is the part called the best."""

    shares: Mapping[str, float]
    why_none: str = ""
    num_trials: int = 0
    share: float = BEST_SHARE


def figures(record: SweepRecord) -> tuple[Figure, ...]:
    """Learning curves, loss over the main parameter, importances, best so far."""
    found = importances(record)
    return (
        learning_curves(record),
        loss_over_parameter(record, main_parameter(record, tuple(found.shares))),
        importance_figure(found, record.roles),
        best_so_far(record),
    )


def importances(record: SweepRecord) -> Importances:
    """How much each parameter decided whether a trial was among the best.

    Trials that were stopped early count with their last loss, and those without a finite loss as the worst: left
    out, the bad settings that pruning removes could not show.
    """
    measured = [t for t in record.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) and t.curve]
    num_runs = len({t.trajectory for t in measured})
    if num_runs < MIN_TRAJECTORIES:
        return Importances(
            {}, f"Too few: {num_runs} trajectories have ended with a measurement; {MIN_TRAJECTORIES} are needed."
        )
    losses = [loss for t in measured if (loss := finite(t.value)) is not None]
    if len(set(losses)) < 2:
        return Importances({}, "All trials have the same loss, so no parameter can explain a difference.")
    distributions = _distributions(record, measured)
    if not distributions:
        return Importances({}, "No parameter took more than one value.")
    share = min(0.5, max(BEST_SHARE, MIN_BEST_TRIALS / len(measured)))
    shares = _ped_anova(measured, max(losses), distributions, share)
    ordered = sorted(shares.items(), key=lambda item: (-item[1], item[0]))
    return Importances(dict(ordered), num_trials=len(measured), share=share)


def importance_figure(found: Importances, roles: Mapping[str, str]) -> Figure:
    """One bar a parameter, the most important on top."""
    title = "Parameter importances"
    if not found.shares:
        return Figure("importances", title, found.why_none)
    names = list(found.shares)[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [round(found.shares[name], 5) for name in names],
        "y": [f"{name} (readout)" if roles.get(name) == "readout" else name for name in names],
        "texttemplate": "%{x:.0%}",
        "textposition": "outside",
        "cliponaxis": False,
        "meta": TEXT_COLOUR,
        "marker": {"opacity": 0.7},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }
    layout = {
        "height": 90 + 34 * len(names),
        "margin": {"t": 15, "b": 50},
        "xaxis": {
            "title": {"text": "share"},
            "tickformat": ".0%",
            "range": [0, max(found.shares.values()) * 1.18],
        },
        "yaxis": {"type": "category", "automargin": True},
        "showlegend": False,
    }
    note = (
        f"What sets the best {found.share:.0%} of {found.num_trials} trials apart (PED-ANOVA). "
        "Trials stopped early count with their last loss."
    )
    return Figure("importances", title, note, [bars], layout)


def _ped_anova(
    trials: Sequence[TrialRecord], worst: float, distributions: Mapping[str, BaseDistribution], share: float
) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    rebuilt = []
    for trial in trials:
        value = finite(trial.value)
        active = {name: value for name, value in trial.params.items() if name in distributions}
        rebuilt.append(
            optuna.trial.create_trial(
                value=worst + 1 if value is None else value,
                params=active,
                distributions={name: distributions[name] for name in active},
            )
        )
    with _quiet_optuna():
        study = optuna.create_study(direction="minimize")
        study.add_trials(rebuilt)
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna logs every new study, and warns where few trials are left; the figure's note says what matters."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _distributions(record: SweepRecord, trials: Sequence[TrialRecord]) -> dict[str, BaseDistribution]:
    """A range or a list for each parameter that took at least two values."""
    found = {}
    for name in parameter_names(record):
        values = [trial.params[name] for trial in trials if name in trial.params]
        if len(set(values)) > 1:
            found[name] = _distribution(values)
    return found


def _distribution(values: Sequence[ParamValue]) -> BaseDistribution:
    """The record keeps values, not ranges: take the range that the values span, or the list that they show."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    numbers = [v for v in values if isinstance(v, int | float) and isfinite(v)]
    seen = Counter(values)
    listed = len(seen) <= MAX_CHOICES and len(values) >= MIN_SEEN_PER_CHOICE * len(seen)
    if is_category(values) or len(numbers) < len(values) or listed:
        return CategoricalDistribution(sorted(seen, key=str))
    low, high, log = min(numbers), max(numbers), spans_log(numbers)
    if all(isinstance(v, int) for v in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)
