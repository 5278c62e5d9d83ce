"""The report's drawings as plotly traces in plain data: learning curves, loss over a parameter, best so far.

Colours of axes and text are left to the page, which follows the reader's light or dark theme; plotly.js draws.
A verdict has one colour and one symbol everywhere (Okabe and Ito's palette, safe for colour-blind readers).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil
from typing import Any

from sweeps.records import ParamValue, SweepRecord, TrialRecord, TrialState, Verdict
from sweeps.report.summary import (
    VERDICTS,
    RunView,
    best_trial,
    categories,
    finite,
    is_category,
    parameter_names,
    runs,
    show,
)

COLOURS = {
    Verdict.CONVERGED: "#009E73",
    Verdict.IMPROVING: "#0072B2",
    Verdict.STALLED: "#D55E00",
    Verdict.DIVERGED: "#CC79A7",
    Verdict.UNDETERMINED: "#8A8F98",
}
SYMBOLS = {
    Verdict.CONVERGED: "circle",
    Verdict.IMPROVING: "triangle-up",
    Verdict.STALLED: "square",
    Verdict.DIVERGED: "x",
    Verdict.UNDETERMINED: "diamond",
}

# A trace with this as its ``meta`` says nothing of a verdict: the page gives it the colour of text.
TEXT_COLOUR = "text colour"

# More lines than this cannot be told apart, and make the page slow.
MAX_CURVES = 200
MAX_POINTS_PER_CURVE = 120
MAX_PANELS = 9
MAX_STEPS = 2000

# Values that span more than this factor are drawn on a log axis.
LOG_SPAN = 20

Trace = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One figure: ``data`` and ``layout`` are plotly's; ``narrow`` replaces parts of the layout on a phone.

    A figure without data is not drawn; ``note`` then says why.
    """

    id: str
    title: str
    note: str
    data: list[Trace] = field(default_factory=list)
    layout: dict[str, Any] = field(default_factory=dict)
    narrow: dict[str, Any] = field(default_factory=dict)


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
        "yaxis": {"title": {"text": "train loss"}, **_loss_axis(losses)},
        "hovermode": "closest",
    }
    return Figure("curves", title, note, data + _legend({view.verdict for view in drawn}, "line"), layout)


def evenly_by_verdict(views: Sequence[RunView], limit: int, keep: RunView | None) -> list[RunView]:
    """At most about ``limit`` of ``views``: the same share of each verdict, evenly spaced, and always ``keep``."""
    if len(views) <= limit:
        return list(views)
    chosen: list[RunView] = [] if keep is None else [keep]
    for verdict in VERDICTS:
        group = [view for view in views if view.verdict is verdict and view is not keep]
        chosen += _evenly(group, max(1, limit * len(group) // len(views)))
    return chosen


def loss_over_parameter(record: SweepRecord, x_name: str | None) -> Figure:
    """Each trajectory's best eval loss over parameter ``x_name``, one panel a value of the main category."""
    if x_name is None:
        return Figure("scatter", "Eval loss by parameter", "No parameter took more than one value.")
    names = [name for name in parameter_names(record) if name != x_name]
    views = [view for view in runs(record) if view.state is not TrialState.FAILED or view.curve]
    points = [(view, _value(view, x_name)) for view in views]
    placed = [(view, x) for view, x in points if x is not None and view.curve]
    split = next((name for name in categories(views) if name in names), None)
    title = f"Eval loss over {x_name}" + (f", by {split}" if split else "")
    finite_losses = [loss for view, _ in placed if (loss := _loss(view)) is not None]
    if not finite_losses:
        return Figure("scatter", title, "No trajectory has a finite eval loss yet.")
    panels = _panels(placed, split)
    ceiling = max(finite_losses) * (1.6 if min(finite_losses) > 0 else 1.1)
    data = [t for i, (_, group) in enumerate(panels) for t in _panel(group, i, ceiling, record.total_steps)]
    note = "One mark a trajectory: its best eval loss. Hollow marks were stopped early."
    if missing := len(placed) - len(finite_losses):
        note += f" At the top edge, without a finite loss: {missing}."
    shown = {view.verdict for view, _ in placed}
    axes = _x_axis(x_name, [x for _, x in placed]), {**_loss_axis(finite_losses), "matches": "y"}
    columns = min(3, len(panels))
    return Figure(
        "scatter",
        title,
        note,
        data + _legend(shown, "marker"),
        _grid([title for title, _ in panels], columns, *axes),
        _grid([title for title, _ in panels], 1, *axes),
    )


def best_so_far(record: SweepRecord) -> Figure:
    """The lowest eval loss of the completed trials over the sweep's running time, as a step line."""
    title = "Best so far"
    ended = sorted(
        (t for t in record.trials if t.state is TrialState.COMPLETE and finite(t.value) is not None and t.ended),
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
        "x": [_round((t.ended or 0.0) / seconds) for t in steps] + [_round(end / seconds)],
        "y": [t.value for t in steps] + [steps[-1].value],
        "text": [_describe(t.number, t.params) for t in steps] + [""],
        "meta": TEXT_COLOUR,
        "line": {"shape": "hv", "width": 2},
        "marker": {"size": [7] * len(steps) + [0]},
        "hovertemplate": "%{y:.4g}<br>%{text}<extra></extra>",
    }
    losses = [t.value for t in ended if t.value is not None]
    layout = {
        "xaxis": {"title": {"text": f"running time ({unit})"}, "rangemode": "tozero"},
        "yaxis": {"title": {"text": "eval loss"}, **_loss_axis(losses)},
    }
    note = "Eval loss of the best completed trial; dots are the trials that completed."
    drawn = _evenly(ended, MAX_STEPS)
    if len(drawn) < len(ended):
        note += f" Of {len(ended)} trials, {len(drawn)} are drawn."
    verdicts = {t.verdict for t in drawn}
    dots = [_dots([t for t in drawn if t.verdict is v], v, seconds) for v in VERDICTS if v in verdicts]
    return Figure("best", title, note, [*dots, line, *_legend(verdicts, "marker")], layout)


def improvements(ended: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those of ``ended`` (in order of time, values finite) that were the best so far when they ended."""
    found: list[TrialRecord] = []
    for trial in ended:
        if trial.value is not None and (not found or trial.value < (found[-1].value or 0.0)):
            found.append(trial)
    return found


def main_parameter(record: SweepRecord, ranked: Sequence[str] = ()) -> str | None:
    """What to draw the loss over: learning_rate, else the most important (``ranked``) or first number.

    A sweep without a varying number falls back to any varying parameter, and to None without one.
    """
    values = {name: _values(record, name) for name in parameter_names(record)}
    varying = [name for name in dict.fromkeys([*ranked, *values]) if len(set(values.get(name, ()))) > 1]
    numbers = [name for name in varying if not is_category(values[name])]
    return next((n for n in ["learning_rate", *numbers] if n in numbers), varying[0] if varying else None)


def spans_log(values: Sequence[float]) -> bool:
    """Whether these numbers are better shown, or were probably searched, on a log scale."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_SPAN


def _values(record: SweepRecord, name: str) -> list[ParamValue]:
    return [trial.params[name] for trial in record.trials if name in trial.params]


def _value(view: RunView, name: str) -> ParamValue | None:
    if name in view.params:
        return view.params[name]
    return view.best.params.get(name) if view.best is not None else None


def _loss(view: RunView) -> float | None:
    return finite(view.best.value) if view.best is not None else None


def _curve(view: RunView, *, bold: bool) -> Trace:
    points = _evenly(view.curve, MAX_POINTS_PER_CURVE)
    text = _describe(None, view.params)
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 1 else "markers",
        "name": f"trajectory {view.number}",
        "legendgroup": view.verdict.value,
        "showlegend": False,
        "x": [point.step for point in points],
        "y": [_round(finite(point.train_loss)) for point in points],
        "line": {"color": COLOURS[view.verdict], "width": 3.5 if bold else 1.3},
        "opacity": 1.0 if bold else 0.65,
        "hovertemplate": f"step %{{x}}: %{{y:.4g}}<br>{text}<extra>{view.number}: {view.verdict.value}</extra>",
    }


def _panels(
    placed: Sequence[tuple[RunView, ParamValue]], split: str | None
) -> list[tuple[str, list[tuple[RunView, ParamValue]]]]:
    """Trajectories by the value of ``split``, the commonest values first, the rest in one panel."""
    groups: dict[str, list[tuple[RunView, ParamValue]]] = {}
    for view, x in placed:
        value = "" if split is None else show(view.params[split]) if split in view.params else "not set"
        groups.setdefault(value, []).append((view, x))
    if len(groups) <= MAX_PANELS:
        return sorted(groups.items())
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    rest = [pair for _, group in ordered[MAX_PANELS - 1 :] for pair in group]
    return [*sorted(ordered[: MAX_PANELS - 1]), ("all others", rest)]


def _panel(
    group: Sequence[tuple[RunView, ParamValue]], index: int, ceiling: float, total_steps: int
) -> list[Trace]:
    suffix = str(index + 1) if index else ""
    traces = []
    for verdict in VERDICTS:
        pairs = [(view, x) for view, x in group if view.verdict is verdict]
        if not pairs:
            continue
        whole = [view.state is TrialState.COMPLETE for view, _ in pairs]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": verdict.value,
                "legendgroup": verdict.value,
                "showlegend": False,
                "xaxis": f"x{suffix}",
                "yaxis": f"y{suffix}",
                "x": [show(x) if isinstance(x, bool) else x for _, x in pairs],
                "y": [_round(_loss(view) if _loss(view) is not None else ceiling) for view, _ in pairs],
                "text": [_scatter_text(view, total_steps) for view, _ in pairs],
                "marker": {
                    "color": COLOURS[verdict],
                    "symbol": [SYMBOLS[verdict] + ("" if done else "-open") for done in whole],
                    "size": 9,
                    "line": {"width": 1.5, "color": COLOURS[verdict]},
                },
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    return traces


def _scatter_text(view: RunView, total_steps: int) -> str:
    loss = _loss(view)
    best = view.best
    head = "no finite loss" if loss is None else f"eval loss {loss:.4g}"
    steps = view.curve[-1].step if view.curve else 0
    where = f"{view.verdict.value}, {view.state.value} at step {steps} of {total_steps}"
    return f"{head}<br>{where}<br>{_describe(best.number if best else None, best.params if best else view.params)}"


def _dots(trials: Sequence[TrialRecord], verdict: Verdict, seconds: float) -> Trace:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": verdict.value,
        "legendgroup": verdict.value,
        "showlegend": False,
        "x": [_round((trial.ended or 0.0) / seconds) for trial in trials],
        "y": [_round(finite(trial.value)) for trial in trials],
        "text": [f"trial {trial.number}" for trial in trials],
        "marker": {"color": COLOURS[verdict], "symbol": SYMBOLS[verdict], "size": 6},
        "opacity": 0.5,
        "hovertemplate": "%{text}: %{y:.4g}<extra></extra>",
    }


def _legend(verdicts: Iterable[Verdict], kind: str) -> list[Trace]:
    """One empty trace a verdict, which stands in the legend for all of its colour."""
    traces = []
    for verdict in (v for v in VERDICTS if v in set(verdicts)):
        colour = COLOURS[verdict]
        look = (
            {"mode": "lines", "line": {"color": colour, "width": 3}}
            if kind == "line"
            else {"mode": "markers", "marker": {"color": colour, "symbol": SYMBOLS[verdict], "size": 9}}
        )
        entry = {"type": "scatter", "x": [None], "y": [None], "name": verdict.value, "showlegend": True}
        traces.append({**entry, "legendgroup": verdict.value, **look})
    return traces


def _grid(titles: Sequence[str], columns: int, x_axis: dict[str, Any], y_axis: dict[str, Any]) -> dict[str, Any]:
    """Axes of a grid of panels, row by row from the top; all panels share their scales."""
    rows = ceil(len(titles) / columns)
    layout: dict[str, Any] = {"annotations": [], "height": 130 + 250 * rows, "margin": {"t": 75, "b": 50}}
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        suffix = str(index + 1) if index else ""
        left, right = _share(column, columns, 0.06)
        low, high = _share(rows - 1 - row, rows, 0.28 if rows > 1 else 0.0)
        last_of_column = index + columns >= len(titles)
        layout[f"xaxis{suffix}"] = {
            **x_axis,
            "domain": [left, right],
            "anchor": f"y{suffix}",
            "matches": "x",
            "title": x_axis["title"] if last_of_column else {"text": ""},
        }
        layout[f"yaxis{suffix}"] = {
            **y_axis,
            "domain": [low, high],
            "anchor": f"x{suffix}",
            "showticklabels": column == 0,
            "title": {"text": "eval loss" if column == 0 else ""},
        }
        if title:
            place = {
                "x": left,
                "y": high,
                "xref": "paper",
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
            }
            layout["annotations"].append({"text": f"<b>{escape(title)}</b>", "showarrow": False, **place})
    for name in ("xaxis", "yaxis"):
        layout[name].pop("matches", None)
    return layout


def _share(index: int, count: int, gap: float) -> tuple[float, float]:
    """The ``index``-th of ``count`` equal parts of 0..1 with ``gap`` of a part between them."""
    size = 1 / (count + (count - 1) * gap)
    low = index * size * (1 + gap)
    return round(low, 4), round(min(1.0, low + size), 4)


def _x_axis(name: str, values: Sequence[ParamValue]) -> dict[str, Any]:
    if is_category(values):
        return {"title": {"text": name}, "type": "category"}
    numbers = [float(value) for value in values]
    return {"title": {"text": name}, **(_log_axis(numbers) if spans_log(numbers) else {"type": "linear"})}


def _loss_axis(losses: Sequence[float]) -> dict[str, Any]:
    """Cross-entropies are positive and span decades; another loss may not."""
    return _log_axis(losses) if min(losses) > 0 else {"type": "linear"}


def _log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Ticks at the powers of ten; where few of them lie in sight, at 2 and 5 as well."""
    few = max(values) < 30 * min(values)
    return {"type": "log", "dtick": "D2" if few else 1, "tickformat": "~g"}


def _time_unit(seconds: float) -> tuple[str, float]:
    return ("s", 1.0) if seconds < 180 else ("min", 60.0) if seconds < 3 * 3600 else ("h", 3600.0)


def _describe(number: int | None, params: Any) -> str:
    """Parameters for a hover label, one a line; plotly reads it as HTML and takes %{...} for a place-holder."""
    head = [f"trial {number}"] if number is not None else []
    lines = [*head, *(f"{name}: {show(value)}" for name, value in params.items())]
    return "<br>".join(escape(line).replace("%{", "% {") for line in lines)


def _evenly(items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of ``items``, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    if limit == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def _round(value: float | None) -> float | None:
    """Six significant digits: finer than a pixel, and half the size."""
    return None if value is None else float(f"{value:.6g}")
