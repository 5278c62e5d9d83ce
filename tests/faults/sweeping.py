"""Sweeps in processes of their own, and what must be true of every study that one leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna

from sweeps.run_folder import read_entries

ROOT = Path(__file__).parents[2]
SWEEP = """
name = "faulty"
trainable = "tests.support.paced:Paced"
[run]
steps = 90
pace = 0.05
[space.parameters.rate]
type = "float"
low = 0.001
high = 0.5
log = true
[space.parameters.offset]
type = "categorical"
choices = [0.0, 0.125, 0.25]
[search]
trajectories = 16
readouts_per_trajectory = 2
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", **more}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "sweeps", *map(str, args)]


def begin(*args: object, **more: str) -> subprocess.Popen[str]:
    """``towersweep ARGS`` on the inline backend, under way."""
    return subprocess.Popen(
        [*command(*args), "--backend", "inline"],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*args: object, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args), env=environment(**more), capture_output=True, text=True, check=False, timeout=240
    )


def until(condition: Callable[[], Any], what: str, seconds: float = 60.0) -> Any:
    """The first true value of ``condition``."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def measured(folder: Path, count: int) -> Callable[[], bool]:
    """Whether so many measurements are on record."""
    path = folder / "curves" / "curves.jsonl"
    return lambda: path.exists() and path.read_bytes().count(b'"kind":"measurement"') >= count


def essence(trials: Sequence[optuna.trial.FrozenTrial]) -> list[tuple[Any, ...]]:
    """What a fault must not change."""
    return [
        (t.number, t.state.name, t.params, t.values, t.intermediate_values, t.user_attrs["trajectory"])
        for t in trials
    ]


def assert_sound(folder: Path, trials: Sequence[optuna.trial.FrozenTrial], trajectories: int = 16) -> None:
    """Nothing lost, nothing doubled, nothing left running."""
    assert [trial.number for trial in trials] == list(range(2 * trajectories))
    assert Counter(t.user_attrs["trajectory"] for t in trials) == Counter(dict.fromkeys(range(trajectories), 2))
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    entries = list(read_entries(folder / "curves" / "curves.jsonl"))
    ends = Counter(entry["trajectory"] for entry in entries if entry["kind"] == "end")
    assert ends == Counter(range(trajectories))
    told = {t.number: t.intermediate_values for t in trials}
    for entry in entries:
        if entry["kind"] == "measurement":
            for number, (loss, _) in zip(entry["trials"], entry["scores"], strict=True):
                assert told[number][entry["step"]] == loss
    report = json.loads((folder / "report.json").read_text())
    assert report["counts"]["running"] == 0
    assert [row["number"] for row in report["trials"]] == [trial.number for trial in trials]
