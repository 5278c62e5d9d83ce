"""The figure of eval loss over a parameter: one panel a value of the main category, one mark a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import ceil, isfinite
from typing import Any

from sweeps.records import ParamValue, SweepRecord, TrialState
from sweeps.report.drawing import (
    COLOURS,
    SYMBOLS,
    Figure,
    Trace,
    describe,
    legend,
    log_axis,
    loss_axis,
    rounded,
    spans_log,
)
from sweeps.report.summary import VERDICTS, RunView, categories, finite, is_category, parameter_names, runs, show

MAX_PANELS = 9
MAX_COLUMNS = 3

Placed = tuple[RunView, ParamValue]


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
    note = "One mark a trajectory: its best eval loss. Hollow marks have not run all steps."
    if missing := len(placed) - len(finite_losses):
        note += f" At the top edge, without a finite loss: {missing}."
    shown = {view.verdict for view, _ in placed}
    axes = _x_axis(x_name, [x for _, x in placed]), {**loss_axis(finite_losses), "matches": "y"}
    columns = min(MAX_COLUMNS, len(panels))
    return Figure(
        "scatter",
        title,
        note,
        data + legend(shown, "marker"),
        _grid([title for title, _ in panels], columns, *axes),
        _grid([title for title, _ in panels], 1, *axes),
    )


def main_parameter(record: SweepRecord, ranked: Sequence[str] = ()) -> str | None:
    """What to draw the loss over: learning_rate, else the most important (``ranked``) or first number.

    A sweep without a varying number falls back to any varying parameter, and to None without one.
    """
    values = {name: _values(record, name) for name in parameter_names(record)}
    varying = [name for name in dict.fromkeys([*ranked, *values]) if len(set(values.get(name, ()))) > 1]
    numbers = [name for name in varying if not is_category(values[name])]
    return next((n for n in ["learning_rate", *numbers] if n in numbers), varying[0] if varying else None)


def _values(record: SweepRecord, name: str) -> list[ParamValue]:
    return [trial.params[name] for trial in record.trials if name in trial.params]


def _value(view: RunView, name: str) -> ParamValue | None:
    """The trajectory's value, or its best sibling's if it is a readout; None if inactive or not finite."""
    params = view.params if name in view.params or view.best is None else view.best.params
    value = params.get(name)
    return None if isinstance(value, float) and not isfinite(value) else value


def _loss(view: RunView) -> float | None:
    return finite(view.best.value) if view.best is not None else None


def _panels(placed: Sequence[Placed], split: str | None) -> list[tuple[str, list[Placed]]]:
    """Trajectories by the value of ``split``, the commonest values first, the rest in one panel."""
    groups: dict[str, list[Placed]] = {}
    for view, x in placed:
        value = "" if split is None else show(view.params[split]) if split in view.params else "not set"
        groups.setdefault(value, []).append((view, x))
    if len(groups) <= MAX_PANELS:
        return sorted(groups.items())
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    rest = [pair for _, group in ordered[MAX_PANELS - 1 :] for pair in group]
    return [*sorted(ordered[: MAX_PANELS - 1]), ("all others", rest)]


def _panel(group: Sequence[Placed], index: int, ceiling: float, total_steps: int) -> list[Trace]:
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
                "y": [rounded(_loss(view) if _loss(view) is not None else ceiling) for view, _ in pairs],
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
    return f"{head}<br>{where}<br>{describe(best.number if best else None, best.params if best else view.params)}"


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
    return {"title": {"text": name}, **(log_axis(numbers) if spans_log(numbers) else {"type": "linear"})}
