"""Sweeps as processes that tests may kill, and what is left of a sweep once times and attempts are taken out."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

ROOT = Path(__file__).parents[2]
# What a report says of time, and how often things were tried: all that may differ between two equal sweeps.
OF_TIME = frozenset({"wall_seconds", "trials_per_minute", "seconds", "started", "ended", "attempts"})
OF_TIME_TOO = frozenset({"device_seconds", "device_seconds_saved"})
SECONDS = 120.0


def command(*arguments):
    """The program, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "sweeps", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition, what, process=None, seconds=SECONDS):
    """Wait for a condition; False if ``process`` ended before."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            return False
        assert time.monotonic() < deadline, f"no {what} after {seconds:g} s"
        time.sleep(0.002)
    return True


def kill_after(process, folder, entries, rng=random):
    """End a driver the hard way, moments after so many more entries in its curves; False if it ended first."""
    curves = folder / "curves" / "curves.jsonl"
    before = count_lines(curves)
    alive = until(lambda: count_lines(curves) >= before + entries, "progress", process)
    try:
        process.wait(rng.uniform(0.0, 0.05))
        alive = False
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    return alive and process.returncode == -9


def count_lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def trials_of(folder, name):
    """The study as Optuna reads it."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    return optuna.load_study(study_name=name, storage=storage).trials


def essence(trials):
    """Everything about trials but times and attempts."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.params,
            trial.value if trial.state.name == "COMPLETE" else None,
            repr(trial.intermediate_values),
            {key: value for key, value in trial.user_attrs.items() if key != "attempts"},
        )
        for trial in trials
    ]


def without_times(report):
    """A report.json without what tells of time and of attempts."""
    if isinstance(report, dict):
        return {k: without_times(v) for k, v in report.items() if k not in OF_TIME | OF_TIME_TOO}
    return [without_times(each) for each in report] if isinstance(report, list) else report
