"""What a sweep's trials amount to: training runs, counts and sentences. Pure functions of the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from sweeps.records import CurvePoint, Params, ParamValue, Plateau, SweepRecord, TrialRecord, TrialState, Verdict

# At least this many judged trajectories, and this share of them, before a setting is said to stall.
MIN_TRAJECTORIES = 2
STALL_SHARE = 0.5

# The order in which verdicts are listed and drawn: the good news last, so that it lies on top.
VERDICTS = (Verdict.CONVERGED, Verdict.IMPROVING, Verdict.STALLED, Verdict.DIVERGED, Verdict.UNDETERMINED)


@dataclass(frozen=True)
class RunView:
    """One trajectory: what its sibling trials share, and the best of them.

    ``params`` are the trajectory parameters; ``best`` is the sibling with the lowest finite eval loss, or None.
    """

    number: int
    params: Params
    state: TrialState
    verdict: Verdict
    curve: tuple[CurvePoint, ...]
    best: TrialRecord | None
    num_trials: int
    plateau: Plateau | None = None


@dataclass(frozen=True)
class Tally:
    """Verdicts of the ended trajectories that share one value of a parameter."""

    value: str
    counts: Mapping[Verdict, int]

    @property
    def total(self) -> int:
        """How many trajectories."""
        return sum(self.counts.values())

    @property
    def judged(self) -> int:
        """How many got a verdict that says something."""
        return self.total - self.counts.get(Verdict.UNDETERMINED, 0)

    @property
    def stalled(self) -> int:
        """How many of them stalled."""
        return self.counts.get(Verdict.STALLED, 0)

    @property
    def stalls(self) -> bool:
        """Whether this value can be said to stall: at least half of the judged trajectories did."""
        return self.judged >= MIN_TRAJECTORIES and self.stalled >= STALL_SHARE * self.judged


def finite(value: float | None) -> float | None:
    """``value``, or None where it is not a finite number."""
    return value if value is not None and isfinite(value) else None


def best_trial(trials: Iterable[TrialRecord]) -> TrialRecord | None:
    """The completed trial with the lowest finite value; the lower number wins a tie."""
    done = [t for t in trials if t.state is TrialState.COMPLETE and finite(t.value) is not None]
    return min(done, key=lambda t: (t.value, t.number), default=None)


def parameter_names(record: SweepRecord) -> tuple[str, ...]:
    """Every parameter of the sweep: the declared ones in their order, then any others in order of appearance."""
    seen = dict.fromkeys(name for trial in record.trials for name in trial.params)
    return tuple(dict.fromkeys([*record.roles, *seen]))


def runs(record: SweepRecord) -> tuple[RunView, ...]:
    """The trajectories, by number. A parameter without a declared role is taken for a trajectory parameter."""
    siblings: dict[int, list[TrialRecord]] = {}
    for trial in record.trials:
        siblings.setdefault(trial.trajectory, []).append(trial)
    return tuple(_run(number, trials, record.roles) for number, trials in sorted(siblings.items()))


def verdict_counts(views: Iterable[RunView]) -> dict[Verdict, int]:
    """How many ended trajectories got each verdict, in the order of VERDICTS; zeros left out."""
    counts = Counter(view.verdict for view in views if view.state is not TrialState.RUNNING)
    return {verdict: counts[verdict] for verdict in VERDICTS if counts[verdict]}


def is_category(values: Iterable[ParamValue]) -> bool:
    """Whether a parameter's values are names or switches rather than numbers."""
    return any(isinstance(value, bool | str) for value in values)


def categories(views: Sequence[RunView]) -> tuple[str, ...]:
    """The trajectory parameters that take at least two values, some of them names; bn_placement first."""
    values: dict[str, set[ParamValue]] = {}
    for view in views:
        for name, value in view.params.items():
            values.setdefault(name, set()).add(value)
    names = [name for name, found in values.items() if len(found) > 1 and is_category(found)]
    return tuple(sorted(names, key=lambda name: name != "bn_placement"))


def tallies(views: Iterable[RunView], name: str) -> tuple[Tally, ...]:
    """Verdicts by the value of parameter ``name``, over ended trajectories; the most stalled first."""
    found: dict[str, list[RunView]] = {}
    for view in views:
        if view.state is not TrialState.RUNNING and name in view.params:
            found.setdefault(show(view.params[name]), []).append(view)
    made = [Tally(value, verdict_counts(group)) for value, group in found.items()]
    return tuple(
        sorted(made, key=lambda tally: (-tally.stalled / max(1, tally.judged), -tally.total, tally.value))
    )


def stall_sentence(name: str, found: Sequence[Tally]) -> str:
    """Which values of ``name`` stall, in words; shares are of the trajectories that could be judged."""
    stalled, judged, total = (sum(getattr(t, key) for t in found) for key in ("stalled", "judged", "total"))
    guilty, others = [t for t in found if t.stalls], [t for t in found if not t.stalls]
    unknown = f" {total - judged} of {total} ended too early to tell." if judged < total else ""
    if not stalled:
        return f"No trajectory was seen to stall, whatever the {name}.{unknown}"
    if not guilty:
        return f"{stalled} of {judged} trajectories stalled, but no {name} stalled in most of its own.{unknown}"
    named = ", ".join(f"{tally.value} ({tally.stalled} of {tally.judged})" for tally in guilty)
    rest = f"; all others: {sum(t.stalled for t in others)} of {sum(t.judged for t in others)}" if others else ""
    return f"Stalls with {name} {named}{rest}.{unknown}"


def plateau_sentence(views: Iterable[RunView]) -> str:
    """Which reference losses stalled trajectories lie nearest to: how many at each, and how far from it."""
    found: dict[tuple[str, float], list[float]] = {}
    for view in views:
        if view.plateau is not None and view.state is not TrialState.RUNNING:
            known = view.plateau.reference, view.plateau.reference_loss
            found.setdefault(known, []).append(view.plateau.loss)
    parts = [
        f"{len(losses)} nearest to {name} ({show(reference)}), at {show(min(losses))}"
        + (f" to {show(max(losses))}" if len(losses) > 1 else "")
        for (name, reference), losses in sorted(found.items())
    ]
    return "; ".join(parts)


def show(value: ParamValue) -> str:
    """A parameter's value for people: four significant digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_params(params: Params) -> str:
    """All parameters on one line."""
    return ", ".join(f"{name} {show(value)}" for name, value in params.items())


def _run(number: int, trials: Sequence[TrialRecord], roles: Mapping[str, str]) -> RunView:
    first = trials[0]
    measured = [trial for trial in trials if finite(trial.value) is not None]
    return RunView(
        number=number,
        params={k: v for k, v in first.params.items() if roles.get(k, "trajectory") == "trajectory"},
        state=first.state,
        verdict=first.verdict,
        curve=max((trial.curve for trial in trials), key=len),
        best=min(measured, key=lambda t: (t.value, t.number), default=None),
        num_trials=len(trials),
        plateau=first.plateau,
    )
