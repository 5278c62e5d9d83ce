"""What driving costs, with a trainable that does nothing: 4 parameters, 10 rungs, 4 slots, durable storage.

First table: trials a second by towersweep on Ray with its default of 8 readouts a trajectory and with one (so that
nothing is shared), beside Ray Tune + OptunaSearch; random samplers, no pruning, in turn in one run. Each is timed
over its steady state, from the first trial's end to the last's. Second table: towersweep's time a trial around the
200th trial and around the 5,000th.

    .venv/bin/python benchmarks/overhead.py [--rounds 3] [--trials 400] [--long 5200]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from sweeps import launch
from sweeps.run_folder import read_entries

SLOTS, RUNGS = 4, 10
BAR, GROWTH_BAR = 10.0, 1.5
PARAMETERS = ("a", "b", "c", "d")


def sweep(trajectories: int, readouts: int) -> dict[str, object]:
    """Settings of a sweep that measures every trajectory at ten rungs and prunes none."""
    unit = {"type": "float", "low": 0.0, "high": 1.0}
    return {
        "name": "overhead",
        "trainable": "benchmarks.support.no_op:NoOp",
        "run": {"steps": 1024},
        "space": {"parameters": dict.fromkeys(PARAMETERS, unit)},
        "search": {
            "sampler": "random",
            "pruner": "none",
            "trajectories": trajectories,
            "readouts_per_trajectory": readouts,
            "num_rungs": RUNGS,
            "reduction_factor": 2,
        },
        "resources": {"workers": SLOTS, "cpus_per_tower": min(1.0, len(os.sched_getaffinity(0)) / SLOTS)},
    }


def towersweep_ends(trials: int, readouts: int) -> list[float]:
    """When each trial ended, in seconds of driving."""
    with tempfile.TemporaryDirectory() as folder:
        launch(sweep(-(-trials // readouts), readouts), out=Path(folder) / "run")
        entries = list(read_entries(Path(folder) / "run" / "curves" / "curves.jsonl"))
    return sorted(entry["time"] for entry in entries if entry["kind"] == "end" for _ in range(readouts))


def tune_parts() -> tuple[Any, Any]:
    """Ray Tune's trainable, a class, and the callback that notes in ``times`` when trials end."""
    from ray import tune

    class NoOpTrial(tune.Trainable):
        """The class form is the one whose actors Tune can use again."""

        def setup(self, config):
            self.config = config

        def step(self):
            return {"loss": sum(v**2 for v in self.config.values()) / (self.iteration + 1)}

        def reset_config(self, new_config):
            self.config = new_config
            return True

        def save_checkpoint(self, checkpoint_dir):
            """Tune saves every trial at its end; there is nothing to save."""

        def load_checkpoint(self, checkpoint):
            """Nor to restore."""

    class Ends(tune.Callback):
        """Notes when trials end."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def on_trial_complete(self, iteration, trials, trial, **info):
            self.times.append(time.monotonic())

    return NoOpTrial, Ends()


def tune_ends(trials: int) -> list[float]:
    """The same by Ray Tune, whose trials report ten times and whose results are kept on the disk as it does."""
    import optuna
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "0")

    no_op_trial, ends = tune_parts()
    storage = tempfile.mkdtemp(prefix="ts-tune-")
    temporary = tempfile.mkdtemp(prefix="ts-ray-")
    ray.init(
        address="local", num_cpus=SLOTS, include_dashboard=False, _temp_dir=temporary, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    try:
        search = OptunaSearch(
            {name: optuna.distributions.FloatDistribution(0, 1) for name in PARAMETERS},
            metric="loss", mode="min", sampler=optuna.samplers.RandomSampler(seed=0),
        )  # fmt: skip
        tune.Tuner(
            tune.with_resources(no_op_trial, {"cpu": 1}),
            tune_config=tune.TuneConfig(
                search_alg=search, num_samples=trials, max_concurrent_trials=SLOTS, reuse_actors=True,
                metric="loss", mode="min",
            ),
            run_config=tune.RunConfig(
                stop={"training_iteration": RUNGS}, storage_path=storage, verbose=0, callbacks=[ends]
            ),
        ).fit()  # fmt: skip
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(storage, ignore_errors=True)
    return sorted(ends.times)


def rate(ends: list[float]) -> float:
    """Trials a second, from the first end to the last."""
    return (len(ends) - 1) / (ends[-1] - ends[0])


def seconds_a_trial(ends: list[float], around: int, half: int = 150) -> float:
    """Over the ``2 * half`` trials around a number."""
    low, high = max(0, around - half), min(len(ends) - 1, around + half)
    return (ends[high] - ends[low]) / (high - low)


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=400)
    parser.add_argument("--long", type=int, default=5200, help="trials of the long sweeps; 0: none")
    parser.add_argument("--json", default="")
    options = parser.parse_args()
    rows = []
    for number in range(options.rounds):
        eight = rate(towersweep_ends(options.trials * 4, 8))
        one = rate(towersweep_ends(options.trials, 1))
        tune = rate(tune_ends(max(40, options.trials // 5)))
        rows.append((eight, one, tune))
        print(f"round {number}: {eight:.0f} {one:.0f} {tune:.0f} trials/s", file=sys.stderr)
    eight, one, tune = (statistics.median(column) for column in zip(*rows, strict=True))
    table = Table(title=f"No-op trials a second, {RUNGS} rungs, {SLOTS} slots (medians of {len(rows)})")
    for column in ("", "trials/s", "times Ray Tune's", "bar"):
        table.add_column(column, justify="right")
    table.add_row("towersweep, 8 readouts a trajectory", f"{eight:.0f}", f"{_ratio(rows, 0):.1f}", f"{BAR:g}")
    table.add_row("towersweep, 1 readout", f"{one:.0f}", f"{_ratio(rows, 1):.1f}", f"{BAR:g}")
    table.add_row("Ray Tune + OptunaSearch", f"{tune:.0f}", "1", "")
    Console().print(table)
    found = {"rates": rows}
    if options.long:
        growth = Table(title="towersweep's time a trial, random sampler")
        for column in ("readouts", "around 200, ms", f"around {options.long - 200}, ms", "ratio", "bar"):
            growth.add_column(column, justify="right")
        for readouts in (8, 1):
            times = []
            for _ in range(options.rounds):
                ends = towersweep_ends(options.long, readouts)
                times.append([seconds_a_trial(ends, at) * 1e3 for at in (200, options.long - 200)])
            early, late = (statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(late / early for early, late in times)
            growth.add_row(str(readouts), f"{early:.2f}", f"{late:.2f}", f"{ratio:.2f}", f"{GROWTH_BAR:g}")
            found[f"growth_{readouts}"] = times
        Console().print(growth)
    if options.json:
        Path(options.json).write_text(json.dumps(found))


def _ratio(rows: list[tuple[float, float, float]], column: int) -> float:
    return statistics.median(row[column] / row[2] for row in rows)


if __name__ == "__main__":
    main()
