"""What all figures share: the palette, the plain data that plotly.js draws, axes and labels.

Colours of axes and text are left to the page, which follows the reader's light or dark theme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from sweeps.records import Params, Verdict
from sweeps.report.summary import VERDICTS, show

# A verdict has one colour and one symbol everywhere: Okabe and Ito's palette, safe for colour-blind readers, each
# with a contrast of at least 3 to the page in light and in dark.
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


def legend(verdicts: Iterable[Verdict], kind: str) -> list[Trace]:
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


def loss_axis(losses: Sequence[float]) -> dict[str, Any]:
    """Cross-entropies are positive and span decades; another loss may not."""
    return log_axis(losses) if min(losses) > 0 else {"type": "linear"}


def log_axis(values: Sequence[float]) -> dict[str, Any]:
    """Ticks at the powers of ten; where few of them lie in sight, at 2 and 5 as well."""
    few = max(values) < 30 * min(values)
    return {"type": "log", "dtick": "D2" if few else 1, "tickformat": "~g"}


def spans_log(values: Sequence[float]) -> bool:
    """Whether these numbers are better shown, or were probably searched, on a log scale."""
    return bool(values) and min(values) > 0 and max(values) / min(values) >= LOG_SPAN


def describe(number: int | None, params: Params) -> str:
    """Parameters for a hover label, one a line; plotly reads it as HTML and takes %{...} for a place-holder."""
    head = [f"trial {number}"] if number is not None else []
    lines = [*head, *(f"{name}: {show(value)}" for name, value in params.items())]
    return "<br>".join(escape(line).replace("%{", "% {") for line in lines)


def evenly(items: Sequence[Any], limit: int) -> list[Any]:
    """At most ``limit`` of ``items``, evenly spaced, the first and the last among them."""
    if len(items) <= limit:
        return list(items)
    if limit == 1:
        return [items[-1]]
    return [items[round(i * (len(items) - 1) / (limit - 1))] for i in range(limit)]


def rounded(value: float | None) -> float | None:
    """Six significant digits: finer than a pixel, and half the size."""
    return None if value is None else float(f"{value:.6g}")
