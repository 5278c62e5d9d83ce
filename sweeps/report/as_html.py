"""SweepRecord -> report.html: one file that needs nothing else, with plotly.js inside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from sweeps.records import ParamValue, SweepRecord, TrialRecord, TrialState, Verdict
from sweeps.report.drawing import COLOURS, spans_log
from sweeps.report.figures import figures
from sweeps.report.lattice import lattice_maps, num_maps
from sweeps.report.sharing import sharing, sharing_sentences
from sweeps.report.summary import (
    best_trial,
    categories,
    finite,
    is_category,
    parameter_names,
    plateau_sentence,
    runs,
    show,
    show_params,
    stall_sentence,
    tallies,
    verdict_counts,
)

# A browser sorts and scrolls this many rows at once without delay.
MAX_ROWS = 500
MAX_TALLIES = 12

MEANINGS = {
    Verdict.CONVERGED: "met the target loss and held it",
    Verdict.IMPROVING: "still improving when it ended",
    Verdict.STALLED: "had stopped improving short of the target",
    Verdict.DIVERGED: "ended above its start, or not as a number",
    Verdict.UNDETERMINED: "too short or too noisy to say",
}


@dataclass(frozen=True)
class Cell:
    """A table cell: what is shown, and what it is sorted by (numbers before text, empty last)."""

    text: str
    key: str
    number: bool = False


def render(record: SweepRecord, csv_name: str) -> str:
    """The page's text. ``csv_name`` is the file beside it that has all trials."""
    template = _environment().get_template("template.html")
    return template.render(**context(record), csv_name=csv_name, plotly_js=_plotly_js(), **_assets())


def context(record: SweepRecord) -> dict[str, Any]:
    """Everything that the template shows."""
    rows, names = listed(record.trials), parameter_names(record)
    text = {n for n in names if is_category(t.params[n] for t in record.trials if n in t.params)}
    drawn, maps, shared = figures(record), lattice_maps(record), sharing(record)
    return {
        "record": record,
        "standing": standing(record),
        "headline": headline(record),
        "facts": facts(record),
        "searched": searched(record),
        "verdicts": verdicts(record),
        "breakdowns": breakdowns(record),
        "figures": drawn,
        "figure_data": {f.id: {k: v for k, v in asdict(f).items() if k != "note"} for f in drawn if f.data},
        "sharing": shared,
        "sharing_says": sharing_sentences(shared),
        "lattices": [asdict(found) for found in maps],
        "num_lattices_left_out": num_maps(record) - len(maps),
        "columns": columns(record),
        "rows": [row(trial, names, text) for trial in rows],
        "num_left_out": len(record.trials) - len(rows),
        "colours": {verdict.value: colour for verdict, colour in COLOURS.items()},
        "failures": failures(record.trials),
    }


def standing(record: SweepRecord) -> str:
    """Whether the sweep was done when the report was written."""
    return "finished" if record.finished else "not finished when this was written"


def headline(record: SweepRecord) -> dict[str, str] | None:
    """The best trial, in words; None if there is none."""
    best = best_trial(record.trials)
    if best is None or best.value is None:
        return None
    scores = [point.score for point in best.curve if point.score is not None]
    accuracy = finite(scores[-1].eval_accuracy) if scores else None
    return {
        "number": str(best.number),
        "value": f"{best.value:.4g}",
        "accuracy": "" if accuracy is None else f"{accuracy:.2%}",
        "verdict": best.verdict.value,
        "step": str(best.steps),
        "params": show_params(best.params),
        "test": "" if best.test is None else f"{best.test.eval_loss:.4g} (accuracy {best.test.eval_accuracy:.2%})",
    }


def facts(record: SweepRecord) -> list[tuple[str, str]]:
    """The numbers at the top: name and value."""
    states = {state: sum(t.state is state for t in record.trials) for state in TrialState}
    found = [
        ("trajectories", f"{len({t.trajectory for t in record.trials}):,}"),
        ("trials", f"{len(record.trials):,}"),
        *((state.value, f"{count:,}") for state, count in states.items() if count),
        ("running time", duration(record.wall_seconds)),
    ]
    ended = len(record.trials) - states[TrialState.RUNNING]
    if ended and record.wall_seconds > 0:
        found.append(("trials a minute", f"{60 * ended / record.wall_seconds:,.1f}"))
    return found


def searched(record: SweepRecord) -> list[dict[str, str]]:
    """What was swept: each parameter, its role, and the values that it took."""
    names = parameter_names(record)
    found = []
    for name in names:
        values = [trial.params[name] for trial in record.trials if name in trial.params]
        role = record.roles.get(name, "trajectory")
        found.append({"name": name, "role": role, "tried": value_range(values)})
    return found


def value_range(values: Sequence[ParamValue]) -> str:
    """``low to high`` for many numbers, a list for few values or names."""
    distinct = set(values)
    if not distinct:
        return "never active"
    if len(distinct) <= 8 or is_category(distinct):
        ordered = sorted(distinct, key=lambda v: (isinstance(v, str), v if not isinstance(v, str) else 0, str(v)))
        return ", ".join(show(value) for value in ordered[:20]) + (", …" if len(ordered) > 20 else "")
    numbers = [float(value) for value in distinct]
    return f"{show(min(numbers))} to {show(max(numbers))}" + (" (log)" if spans_log(numbers) else "")


def verdicts(record: SweepRecord) -> list[dict[str, Any]]:
    """Trajectories by verdict: count, share of the ended, and what the word means."""
    views = runs(record)
    counts = verdict_counts(views)
    total, where = sum(counts.values()), plateau_sentence(views)
    meanings = {**MEANINGS, **({Verdict.STALLED: f"{MEANINGS[Verdict.STALLED]}: {where}"} if where else {})}
    return [
        {"name": v.value, "count": n, "share": n / total, "meaning": meanings[v], "colour": COLOURS[v]}
        for v, n in counts.items()
    ]


def breakdowns(record: SweepRecord) -> list[dict[str, Any]]:
    """For each parameter that takes names: which of them stall, in words and as bars."""
    views = runs(record)
    found = []
    for name in categories(views):
        all_tallies = tallies(views, name)
        if not all_tallies:
            continue
        bars = [
            {
                "value": tally.value,
                "total": tally.total,
                "parts": [
                    {"name": v.value, "count": n, "percent": 100 * n / tally.total, "colour": COLOURS[v]}
                    for v, n in tally.counts.items()
                ],
            }
            for tally in all_tallies[:MAX_TALLIES]
        ]
        left_out = len(all_tallies) - len(bars)
        found.append({"name": name, "says": stall_sentence(name, all_tallies), "bars": bars, "left_out": left_out})
    return found


def listed(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The trials of the table, best first: at most MAX_ROWS, failed and running ones last."""
    order = {TrialState.COMPLETE: 0, TrialState.PRUNED: 1, TrialState.FAILED: 2, TrialState.RUNNING: 3}

    def key(trial: TrialRecord) -> tuple[int, float, int]:
        value = finite(trial.value)
        return order[trial.state], float("inf") if value is None else value, trial.number

    return sorted(trials, key=key)[:MAX_ROWS]


def columns(record: SweepRecord) -> list[str]:
    """The table's heads, in the order of ``row``."""
    fixed = ["trial", "trajectory", "state", "verdict", "eval loss"]
    return [*fixed, *parameter_names(record), "steps", "seconds", "attempts", "why it ended"]


def row(trial: TrialRecord, names: Sequence[str], as_text: Collection[str] = ()) -> list[Cell]:
    """One trial as cells; the parameters in ``as_text`` take names, so their numbers are text too."""
    why = f"{trial.failure.kind.value}: {trial.failure.message}" if trial.failure else trial.reason
    return [
        _number(trial.number),
        _number(trial.trajectory),
        _text(trial.state.value),
        _text(trial.verdict.value),
        _number(finite(trial.value)),
        *(_cell(trial.params.get(name), as_text=name in as_text) for name in names),
        _number(trial.steps),
        _number(finite(trial.seconds)),
        _number(trial.attempts),
        _text(why),
    ]


def failures(trials: Sequence[TrialRecord]) -> list[tuple[str, str, int]]:
    """Failed trajectories by kind and message: kind, message, how many; the commonest first."""
    found: dict[tuple[str, str], set[int]] = {}
    for trial in trials:
        if trial.failure is not None:
            found.setdefault((trial.failure.kind.value, trial.failure.message), set()).add(trial.trajectory)
    ordered = sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))
    return [(kind, message, len(numbers)) for (kind, message), numbers in ordered[:10]]


def duration(seconds: float) -> str:
    """``8 s``, ``2 min 05 s``, ``3 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cell(value: ParamValue | None, *, as_text: bool) -> Cell:
    if value is None:
        return _text("")
    return _text(show(value)) if as_text or isinstance(value, str) else _number(value)


def _number(value: float | None) -> Cell:
    return Cell("", "", number=True) if value is None else Cell(show(value), repr(value), number=True)


def _text(value: str) -> Cell:
    return Cell(value, value)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("sweeps.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _assets() -> Mapping[str, str]:
    folder = files("sweeps.report")
    return {
        "style": (folder / "style.css").read_text(encoding="utf-8"),
        "script": (folder / "page.js").read_text(encoding="utf-8"),
        "lattice_script": (folder / "lattice.js").read_text(encoding="utf-8"),
    }


@cache
def _plotly_js() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())
