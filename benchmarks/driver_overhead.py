"""What driving costs: trials a second with a trainable that does nothing, beside plain Optuna on the same storage.

Both ask for the same number of trials with the same number of reports on a journal file, in turn, five times; the
table shows medians and their ratio. One trajectory has one trial here, so that nothing is shared.

    .venv/bin/python benchmarks/driver_overhead.py
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from sweeps import launch

TRIALS, RUNGS, ROUNDS = 100, 3, 5

SWEEP = {
    "name": "overhead",
    "trainable": "tests.support.trainables:Quadratic",
    "run": {"steps": 9},
    "space": {"parameters": {"rate": {"type": "float", "low": 0.1, "high": 0.5}}},
    "search": {"trajectories": TRIALS, "sampler": "random", "pruner": "none", "num_rungs": RUNGS},
}


def towersweep_seconds(folder: Path) -> float:
    """Driving, from the first to the last trial; without start-up and report."""
    return launch(SWEEP, out=folder / "run", backend="inline").record.wall_seconds


def optuna_seconds(folder: Path) -> float:
    """The same asks, reports and tells by hand."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = JournalStorage(JournalFileBackend(str(folder / "plain.journal")))
    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    began = time.monotonic()
    for _ in range(TRIALS):
        trial = study.ask()
        rate = trial.suggest_float("rate", 0.1, 0.5)
        for step in (1, 3, 9):
            trial.report((1 - rate) ** (2 * step) / 2, step)
        study.tell(trial, (1 - rate) ** 18 / 2)
    return time.monotonic() - began


def main() -> None:
    """Measure in turn and print."""
    rows = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            rows.append((towersweep_seconds(Path(folder)), optuna_seconds(Path(folder))))
    ours, theirs = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(a / b for a, b in rows)
    table = Table(
        title=f"{TRIALS} trials, {RUNGS} rungs, {platform.machine()}, Python {platform.python_version()}"
    )
    for column in ("", "median s", "trials/s"):
        table.add_column(column, justify="right")
    table.add_row("towersweep, inline", f"{ours:.2f}", f"{TRIALS / ours:.0f}")
    table.add_row("plain Optuna", f"{theirs:.2f}", f"{TRIALS / theirs:.0f}")
    table.add_row("ratio of times", f"{ratio:.2f}", "")
    Console().print(table)


if __name__ == "__main__":
    main()
