"""SweepRecord -> trials.csv: one row a trial, one column a parameter. RFC 4180, UTF-8."""

from __future__ import annotations

import csv
import io

from sweeps.records import SweepRecord, TrialRecord
from sweeps.report.summary import finite, parameter_names

BEFORE = ("number", "trajectory", "state", "verdict", "eval_loss", "eval_accuracy")
AFTER = (
    *("steps", "seconds", "attempts", "started", "ended", "reason", "failure_kind", "failure_message"),
    "from_lattice",
)


def render(record: SweepRecord) -> str:
    """The table as text. A cell is empty where a parameter is inactive or a number is not finite.

    A parameter's column is headed ``params.<name>``, so that it can never be taken for one of the others.
    """
    names = parameter_names(record)
    stream = io.StringIO(newline="")
    writer = csv.writer(stream)
    writer.writerow([*BEFORE, *(f"params.{name}" for name in names), *AFTER])
    for trial in record.trials:
        writer.writerow(_row(trial, names))
    return stream.getvalue()


def _row(trial: TrialRecord, names: tuple[str, ...]) -> list[object]:
    scores = [point.score for point in trial.curve if point.score is not None]
    failure = trial.failure
    cells: list[object] = [
        trial.number,
        trial.trajectory,
        trial.state.value,
        trial.verdict.value,
        finite(trial.value),
        finite(scores[-1].eval_accuracy) if scores else None,
        *(trial.params.get(name) for name in names),
        trial.steps,
        finite(trial.seconds),
        trial.attempts,
        finite(trial.started),
        finite(trial.ended),
        trial.reason,
        failure.kind.value if failure else None,
        failure.message if failure else None,
        trial.from_lattice,
    ]
    return ["" if cell is None else cell for cell in cells]
