"""The figures over time: learning curves, and the best so far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sweeps.records import SweepRecord, TrialRecord, TrialState, Verdict
from sweeps.report.drawing import (
    COLOURS,
    SYMBOLS,
    TEXT_COLOUR,
    Figure,
    Trace,
    describe,
    evenly,
    legend,
    loss_axis,
    rounded,
)
from sweeps.report.summary import VERDICTS, RunView, best_trial, finite, runs

# More lines than this cannot be told apart, and make the page slow.
MAX_CURVES = 200
MAX_POINTS_PER_CURVE = 120
MAX_DOTS = 2000


def learning_curves(record: SweepRecord) -> Figure:
    """Training loss over steps, one line a trajectory, coloured by verdict; the best one is drawn bold."""
    title = "Learning curves"
    views = [view for view in runs(record) if any(finite(p.train_loss) is not None for p in view.curve)]
    if not views:
        return Figure("curves", title, "Nothing has been measured yet.")
    best = best_trial(record.trials)
    top = next((view for view in views if best is not None and view.number == best.trajectory), None)
    drawn = evenly_by_verdict(views, MAX_CURVES, top)
    data = [_curve(view, bold=view is top) for view in sorted(drawn, key=lambda v: (v is top, v.number))]
    note = "Training cross-entropy (nats), one line a trajectory. The trajectory of the best trial is drawn bold."
    if len(drawn) < len(views):
        note += f" Drawn are {len(drawn)} of {len(views)} trajectories, spread evenly over each verdict."
    losses = [p.train_loss for view in drawn for p in view.curve if finite(p.train_loss) is not None]
    layout = {
        "xaxis": {"title": {"text": "step"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "train loss"}, **loss_axis(losses)},
        "hovermode": "closest",
    }
    return Figure("curves", title, note, data + legend({view.verdict for view in drawn}, "line"), layout)


def evenly_by_verdict(views: Sequence[RunView], limit: int, keep: RunView | None) -> list[RunView]:
    """At most about ``limit`` of ``views``: the same share of each verdict, evenly spaced, and always ``keep``."""
    if len(views) <= limit:
        return list(views)
    chosen: list[RunView] = [] if keep is None else [keep]
    for verdict in VERDICTS:
        group = [view for view in views if view.verdict is verdict and view is not keep]
        chosen += evenly(group, max(1, limit * len(group) // len(views)))
    return chosen


def best_so_far(record: SweepRecord) -> Figure:
    """The lowest eval loss of the completed trials over the sweep's running time, as a step line."""
    title = "Best so far"
    ended = sorted(
        (
            t
            for t in record.trials
            if t.state is TrialState.COMPLETE and finite(t.value) is not None and t.ended is not None
        ),
        key=lambda t: (t.ended, t.number),
    )
    if not ended:
        return Figure("best", title, "No trial has completed with a finite loss yet.")
    unit, seconds = _time_unit(record.wall_seconds)
    steps = improvements(ended)
    end = max(record.wall_seconds, ended[-1].ended or 0.0)
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "best so far",
        "showlegend": False,
        "x": [rounded((t.ended or 0.0) / seconds) for t in steps] + [rounded(end / seconds)],
        "y": [t.value for t in steps] + [steps[-1].value],
        "text": [describe(t.number, t.params) for t in steps] + [""],
        "meta": TEXT_COLOUR,
        "line": {"shape": "hv", "width": 2},
        "marker": {"size": [7] * len(steps) + [0]},
        "hovertemplate": "%{y:.4g}<br>%{text}<extra></extra>",
    }
    losses = [t.value for t in ended if t.value is not None]
    layout = {
        "xaxis": {"title": {"text": f"running time ({unit})"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "eval loss"}, **loss_axis(losses)},
    }
    note = "Eval loss of the best completed trial; dots are the trials that completed."
    drawn = evenly(ended, MAX_DOTS)
    if len(drawn) < len(ended):
        note += f" Of {len(ended)} trials, {len(drawn)} are drawn."
    verdicts = {t.verdict for t in drawn}
    dots = [_dots([t for t in drawn if t.verdict is v], v, seconds) for v in VERDICTS if v in verdicts]
    return Figure("best", title, note, [*dots, line, *legend(verdicts, "marker")], layout)


def improvements(ended: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those of ``ended`` (in order of time, values finite) that were the best so far when they ended."""
    found: list[TrialRecord] = []
    for trial in ended:
        if trial.value is not None and (not found or trial.value < (found[-1].value or 0.0)):
            found.append(trial)
    return found


def _curve(view: RunView, *, bold: bool) -> Trace:
    points = evenly(view.curve, MAX_POINTS_PER_CURVE)
    text = describe(None, view.params)
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": f"trajectory {view.number}",
        "legendgroup": view.verdict.value,
        "showlegend": False,
        "x": [point.step for point in points],
        "y": [rounded(finite(point.train_loss)) for point in points],
        "line": {"color": COLOURS[view.verdict], "width": 3.5 if bold else 1.3},
        "opacity": 1.0 if bold else 0.65,
        "hovertemplate": f"step %{{x}}: %{{y:.4g}}<br>{text}<extra>{view.number}: {view.verdict.value}</extra>",
    }


def _dots(trials: Sequence[TrialRecord], verdict: Verdict, seconds: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": verdict.value,
        "legendgroup": verdict.value,
        "showlegend": False,
        "x": [rounded((trial.ended or 0.0) / seconds) for trial in trials],
        "y": [rounded(finite(trial.value)) for trial in trials],
        "text": [f"trial {trial.number}" for trial in trials],
        "marker": {"color": COLOURS[verdict], "symbol": SYMBOLS[verdict], "size": 6},
        "opacity": 0.5,
        "hovertemplate": "%{text}: %{y:.4g}<extra></extra>",
    }


def _time_unit(seconds: float) -> tuple[str, float]:
    return ("s", 1.0) if seconds < 180 else ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)
