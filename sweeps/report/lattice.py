"""Lattices as maps: for each trajectory, every readout's eval loss at the last step, as data for lattice.js.

Two readout parameters make rows and columns, one a single row. More, or cells that do not all have the same
parameters, make a list. lattice.js draws one map at a time and gives it colours that suit the reader's theme.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite, log
from typing import Any

from sweeps.records import LatticeCell, Params, ParamValue, SweepRecord
from sweeps.report.drawing import rounded
from sweeps.report.summary import best_trial, finite, runs, show, show_params

# More than this is too long to choose from, and makes the page slow to load.
MAX_MAPS = 500

# The colours span at least this factor of loss: differences that mean nothing shall not look like cliffs.
MIN_SPAN = 1.05


@dataclass(frozen=True)
class LatticeMap:
    """One trajectory's lattice, ready to be drawn.

    ``cells`` are [heads, eval loss, accuracy, trial, shade], best first: ``heads`` gives one text a parameter in
    ``names``, empty where it is inactive; ``shade`` is 0 (lowest loss) to 100 on the scale from ``low`` to
    ``high`` (nats). Loss, accuracy and shade are None where they are not finite; trial is None where no trial
    stands for the cell. ``rows`` and ``columns`` are the heads of a map in their order; a list has neither.
    """

    trajectory: int
    label: str
    about: str
    step: int
    names: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: list[list[Any]]
    low: float | None
    high: float | None
    log: bool


def lattice_maps(record: SweepRecord) -> list[LatticeMap]:
    """One map a lattice of at least two cells: the best trial's trajectory first, then by lowest loss."""
    best = best_trial(record.trials)
    first = best.trajectory if best else None
    views = {view.number: view for view in runs(record)}
    lattices = _worth_drawing(record)

    def rank(number: int) -> tuple[bool, float, int]:
        return number != first, lowest(lattices[number]), number

    names = axes(record.roles, lattices.values())
    made = []
    for number in sorted(lattices, key=rank)[:MAX_MAPS]:
        shared = show_params(views[number].params) if number in views else ""
        loss = lowest(lattices[number])
        label = f"trajectory {number}: " + (f"lowest loss {show(loss)}" if isfinite(loss) else "no finite loss")
        label += f", holds the best trial, {best.number}" if best and number == first else ""
        made.append(_map(number, label, shared, last_step(record, number), names, lattices[number]))
    return made


def num_maps(record: SweepRecord) -> int:
    """How many maps there would be without the limit."""
    return len(_worth_drawing(record))


def lowest(cells: Iterable[LatticeCell]) -> float:
    """The lowest finite eval loss (nats); infinity if there is none."""
    return min((c.score.eval_loss for c in cells if isfinite(c.score.eval_loss)), default=float("inf"))


def last_step(record: SweepRecord, trajectory: int) -> int:
    """The step at which a trajectory's lattice was scored."""
    return max((t.steps for t in record.trials if t.trajectory == trajectory), default=record.total_steps)


def axes(roles: Iterable[str], lattices: Iterable[Sequence[LatticeCell]]) -> tuple[str, ...]:
    """The readout parameters as the maps of a sweep have them: that with the fewest values last, across.

    So a map is rather tall than wide, as a phone is. All maps of a sweep lie the same way round.
    """
    values: dict[str, set[ParamValue]] = {}
    for cells in lattices:
        for cell in cells:
            for name, value in cell.readout.items():
                values.setdefault(name, set()).add(value)
    ordered = [*(name for name in roles if name in values), *(name for name in values if name not in set(roles))]
    return tuple(sorted(ordered, key=lambda name: -len(values[name])))


def heads(values: Iterable[ParamValue]) -> dict[ParamValue, str]:
    """Each value's text: names in front, for they mostly mean "off", then numbers, rising.

    Numbers have four digits, or as many as tell them apart, and a decay from 1.
    """
    distinct = set(values)
    names = sorted(value for value in distinct if isinstance(value, str))
    numbers = sorted(value for value in distinct if not isinstance(value, str))
    for digits in range(4, 18):
        texts = [f"{v:.{digits}g}" if isinstance(v, float) else show(v) for v in numbers]
        if len(set(texts)) == len(texts) and all(map(_faithful, numbers, texts)):
            break
    return {**{name: name for name in names}, **dict(zip(numbers, texts, strict=True))}


def shades(losses: Sequence[float | None]) -> tuple[list[int | None], tuple[float, float, bool] | None]:
    """Each loss' place on the colour scale, 0 to 100, and the scale: both ends (nats) and whether it is log.

    Cross-entropies are positive and get a log scale; another loss may not be, and gets a linear one.
    """
    found = [loss for loss in losses if loss is not None]
    if not found:
        return [None for _ in losses], None
    low, high = min(found), max(found)
    logarithmic = low > 0
    high = max(high, low * MIN_SPAN) if logarithmic else high

    def place(loss: float) -> int:
        if high == low:
            return 0
        way = log(loss / low) / log(high / low) if logarithmic else (loss - low) / (high - low)
        return round(100 * way)

    return [None if loss is None else place(loss) for loss in losses], (low, high, logarithmic)


def _worth_drawing(record: SweepRecord) -> dict[int, tuple[LatticeCell, ...]]:
    return {number: cells for number, cells in record.lattices.items() if len(cells) > 1}


def _faithful(value: ParamValue, text: str) -> bool:
    """Whether ``text`` has ``value`` to 5 %, and, as an average's decay, its distance from 1 as well."""
    if not isinstance(value, float) or not isfinite(value):
        return True
    error = abs(float(text) - value)
    return error <= 0.05 * abs(value) and error <= 0.05 * abs(1 - value)


def _map(
    number: int, label: str, about: str, step: int, names: Sequence[str], cells: Sequence[LatticeCell]
) -> LatticeMap:
    active = tuple(name for name in names if any(name in cell.readout for cell in cells))
    texts = {name: heads(c.readout[name] for c in cells if name in c.readout) for name in active}
    drawable = 1 <= len(active) <= 2 and all(set(cell.readout) == set(active) for cell in cells)
    rows = tuple(texts[active[0]].values()) if drawable and len(active) == 2 else ()
    columns = tuple(texts[active[-1]].values()) if drawable else ()
    ordered = sorted(cells, key=_by_loss)
    losses = [rounded(finite(cell.score.eval_loss)) for cell in ordered]
    places, scale = shades(losses)
    low, high, logarithmic = scale or (None, None, False)
    drawn = [
        [_texts(c.readout, texts), loss, rounded(finite(c.score.eval_accuracy)), c.trial, place]
        for c, loss, place in zip(ordered, losses, places, strict=True)
    ]
    return LatticeMap(
        number, label, about, step, active, rows, columns, drawn, rounded(low), rounded(high), logarithmic
    )


def _texts(readout: Params, texts: dict[str, dict[ParamValue, str]]) -> list[str]:
    return [found[readout[name]] if name in readout else "" for name, found in texts.items()]


def _by_loss(cell: LatticeCell) -> tuple[float, bool, int]:
    """Of equal losses a trial's comes first: the lattice did not beat it."""
    loss = finite(cell.score.eval_loss)
    return float("inf") if loss is None else loss, cell.trial is None, cell.trial or 0
