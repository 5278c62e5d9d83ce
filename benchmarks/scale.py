"""What limits a sweep as slots grow in number: workers, Ray's calls, states, the driver's decisions, storage.

First table, on a real Ray whose CPUs exist by name only: how long workers take to come up, what they weigh, how
many answers a second one driver gets out of them (a command, a measurement with 8 readouts), and how fast states
come back. Second table, without Ray: trajectories and events a second that one driver decides on, writes down and
tells the study, for slots whose runs answer at once.

    .venv/bin/python benchmarks/scale.py [--slots 10 100] [--driver-slots 10 100 1000]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.support.no_op import NoOpRun, RunSettings, Settings
from sweeps import api, launch
from sweeps.backends import BackendEvent, Job, Measured, StateTaken, WorkerSpec
from sweeps.backends.worker import checked_measurement
from sweeps.errors import SweepFailedError
from sweeps.records import Trajectory, TrialSpec
from sweeps.run_folder import read_entries
from sweeps.trainable import Devices

TRAINABLE = "benchmarks.support.no_op:NoOp"
MIB = 2**20
STATE_BYTES = 4 * MIB  # The digits network keeps 1.8 MiB, whatever its readouts.
READOUTS = 8


def job(number: int) -> Job:
    """A trajectory with as many readouts as a sweep's by default."""
    specs = tuple(TrialSpec(number * READOUTS + i, {"c": i / 10, "d": 0.0}) for i in range(READOUTS))
    return Job(Trajectory(number, {"a": 0.5, "b": 0.5}, specs, number), 1, 1)


def answers_a_second(backend: object, slots: int, seconds: float, ask: Callable[[int, int], None]) -> float:
    """Every slot is asked again as soon as it answers."""
    rungs = dict.fromkeys(range(slots), 1)
    for slot in rungs:
        ask(slot, 1)
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        slot = backend.next_event(10.0).slot
        rungs[slot] += 1
        ask(slot, rungs[slot])
        count += 1
    took = time.monotonic() - began
    for _ in range(slots):
        backend.next_event(10.0)
    return count / took


def on_ray(slots: int, seconds: float) -> list[str]:
    """One row of the first table."""
    from sweeps.backends.ray import RayBackend

    spec = WorkerSpec(TRAINABLE, Settings(RunSettings(10**9, STATE_BYTES)), Devices(), 1.0, 0.0)
    began = time.monotonic()
    with RayBackend(spec, local_options={"num_cpus": slots}) as backend:
        for slot in range(slots):
            backend.start(slot, job(slot))
        for _ in range(slots):
            assert isinstance(backend.next_event(300.0), Measured)
        up = time.monotonic() - began
        workers = [p for p in psutil.Process().children(recursive=True) if "_Worker" in p.name() + p.cmdline()[0]]
        own = sum(p.memory_info().rss - p.memory_info().shared for p in workers) / len(workers)
        calls = answers_a_second(backend, slots, seconds, lambda slot, rung: backend.advance(slot, rung + 1))
        states = answers_a_second(backend, slots, seconds, lambda slot, _: backend.take_state(slot))
    return [
        f"{slots}",
        f"{up:.1f}",
        f"{own / MIB:.0f}",
        f"{calls:,.0f}",
        f"{states:,.0f}",
        f"{states * STATE_BYTES / MIB:,.0f}",
    ]


class Instant:
    """A backend whose runs answer at once, so that what is left is the driver's own time."""

    def __init__(self, slots: int) -> None:
        self.num_slots = slots
        self._jobs: dict[int, Job] = {}
        self._runs: dict[int, NoOpRun] = {}
        self._events: deque[BackendEvent] = deque()
        self.count = 0

    def start(self, slot: int, job: Job) -> None:
        """The first rung is reached at once."""
        self._jobs[slot] = job
        self._runs[slot] = NoOpRun([0.5] * len(job.trajectory.readouts), 0)
        self.advance(slot, job.to_step)

    def advance(self, slot: int, to_step: int) -> None:
        """So is every other."""
        job, given = self._jobs[slot], self._runs[slot].advance(to_step)
        told = checked_measurement(given, to_step, len(job.trajectory.readouts))
        self._events.append(Measured(slot, job.trajectory.number, job.attempt, told))

    def take_state(self, slot: int) -> None:
        """There is nothing in it."""
        job = self._jobs[slot]
        self._events.append(StateTaken(slot, job.trajectory.number, job.attempt, b""))

    def pause(self, slot: int) -> None:
        """Nothing takes long enough."""

    def abandon(self, slot: int) -> None:
        """Nothing hangs."""

    def release(self, slot: int) -> None:
        """Nothing is held."""

    def next_event(self, timeout_seconds: float | None = None) -> BackendEvent | None:
        """Counted."""
        self.count += bool(self._events)
        return self._events.popleft() if self._events else None

    def __enter__(self) -> Instant:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Nothing to end."""


def driven(slots: int, seconds: float) -> list[str]:
    """One row of the second table: the default sampler and pruner, three rungs, 8 readouts."""
    backend = Instant(slots)
    api._make_backend = lambda *args: backend
    unit = {"type": "float", "low": 0.0, "high": 1.0}
    sweep = {
        "name": "scale",
        "trainable": TRAINABLE,
        "run": {"steps": 900},
        "space": {"parameters": dict.fromkeys("abcd", unit)},
        "search": {
            "trajectories": 10**6,
            "time_budget": seconds,
            "readouts_per_trajectory": READOUTS,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        with suppress(SweepFailedError):  # So many slots that none got its second rung.
            launch(sweep, out=run)
        entries = list(read_entries(run / "curves" / "curves.jsonl"))
        written = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    begun = [entry["time"] for entry in entries if entry["kind"] == "start"]
    took = max(entry["time"] for entry in entries)
    return [
        f"{slots:,}",
        f"{backend.count / took:,.0f}",
        f"{len(begun) / took:,.1f}",
        f"{READOUTS * len(begun) / took:,.0f}",
        f"{written / took / MIB:.2f}",
    ]


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    shown = Table(*columns, title=title)
    for row in rows:
        shown.add_row(*row)
    Console(width=140).print(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, nargs="*", default=[10, 100])
    parser.add_argument("--driver-slots", type=int, nargs="*", default=[10, 100, 1000])
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    print(f"{os.cpu_count()} CPUs, {psutil.virtual_memory().total / 2**30:.0f} GiB")
    rows = [on_ray(slots, options.seconds) for slots in options.slots]
    columns = ["slots", "all up after s", "MiB a worker", "measurements/s", "states/s (4 MiB each)", "MiB/s"]
    table("One driver, Ray's calls and object store", columns, rows)
    rows = [driven(slots, options.seconds) for slots in options.driver_slots]
    columns = ["slots", "events/s", "trajectories/s", "trials/s", "MiB written/s"]
    table("One driver, runs that answer at once", columns, rows)


if __name__ == "__main__":
    main()
