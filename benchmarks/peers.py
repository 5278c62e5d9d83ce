"""The same search by towersweep, by Ray Tune + OptunaSearch + ASHA, and by plain Optuna in two processes.

The ``batch_norm`` space on digits: same network, data, batch (128), steps (300), rungs (11, 33, 100, 300),
reduction factor (3) and TPE; two trainings at a time with a core each. Every system has the same wall time, which
starts before its first process does, so that imports and start-up count; they take their turns in one run, once a
seed. Any eval loss measured at any rung counts, for all alike, if its driver had it in time. How low a loss can
get depends on which images are held out: ``--splits`` takes another split for each seed, the same for all.

The tables: the best eval loss so far at several moments, the time until it was low enough (a miss counts as the
whole time), what was ended; medians over the seeds. Below them the bars.

    .venv/bin/python benchmarks/peers.py [--seconds 120] [--seeds 3] [--tune-reuse] [--kernel-size 5]
        [--splits] [--plot FILE.html]

The peers' trial is ``support/keras_trial.py``. Ray Tune starts a process a trial, its default; ``--tune-reuse``
adds a fourth contestant, Ray Tune with ``reuse_actors``, which is shown and judged like the others.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log10
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.table import Table

from benchmarks.support.race import Race

OURS, TUNE, REUSE, OPTUNA = "towersweep", "Ray Tune", "Ray Tune, reuse_actors", "Optuna"
# Module in support/, and its variant.
CONTESTANTS = {
    OURS: ("race_towersweep", ""),
    TUNE: ("race_tune", ""),
    REUSE: ("race_tune", "reuse"),
    OPTUNA: ("race_optuna", ""),
}
MOMENTS = (10, 20, 30, 45, 60, 90, 120)
TARGETS, BAR_TARGET = (0.03, 0.02, 0.01), 0.02
GRACE_SECONDS = 90  # How long a contestant may take to leave when its time is over.
# The bars.
SHARE_OF_TIME, TIMES_TRIALS, TIMES_TRAININGS, BEST_AFTER = 1 / 3, 80, 12, 30
NEVER = float("inf")


@dataclass(frozen=True)
class Result:
    """One system's run with one seed. ``improvements``: (seconds, eval loss), each lower than the one before."""

    improvements: list[tuple[float, float]]
    first_measured: float
    trainings: int
    trials: int

    @classmethod
    def of(cls, events: Sequence[Mapping[str, float]], seconds: float) -> Result:
        """Of what happened within ``seconds``."""
        within = sorted((event for event in events if event["time"] <= seconds), key=lambda event: event["time"])
        improvements: list[tuple[float, float]] = []
        measured = [(event["time"], event["loss"]) for event in within if "loss" in event]
        for moment, loss in measured:
            if not improvements or loss < improvements[-1][1]:
                improvements.append((moment, loss))
        ends = [int(event["trials"]) for event in within if "trials" in event]
        return cls(improvements, measured[0][0] if measured else seconds, len(ends), sum(ends))

    def best_at(self, moment: float) -> float:
        """The lowest eval loss until then; infinity where there is none."""
        return min((loss for at, loss in self.improvements if at <= moment), default=NEVER)

    def time_to(self, target: float) -> float | None:
        """When the best first was at most ``target``."""
        return next((at for at, loss in self.improvements if loss <= target), None)


Results = dict[str, list[Result]]


def run(name: str, seconds: float, seed: int, kernel_size: int, split_seed: int = 0) -> Result:
    """One contestant in processes of its own. Raises RuntimeError with its last words if it fails."""
    module, variant = CONTESTANTS[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryDirectory(prefix="ts-peers-") as folder:
        output = Path(folder) / "output"
        race = Race(
            Path(folder) / "events.jsonl", time.monotonic(), seconds, seed, kernel_size, split_seed, variant
        )
        race.events.touch()
        command = [sys.executable, "-m", f"benchmarks.support.{module}", *race.arguments]
        with output.open("w") as file:
            process = subprocess.Popen(
                command, env=environment, cwd=ROOT, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )
            try:
                status = process.wait(seconds + GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                # As Ctrl-C, so that it ends what it started.
                process.send_signal(signal.SIGINT)
                status = process.wait()
        if status:
            raise RuntimeError(f"{name} ended with {status}:\n{output.read_text()[-3000:]}")
        return Result.of([json.loads(line) for line in race.events.read_text().splitlines()], seconds)


def median_best(results: Sequence[Result], moment: float) -> float:
    """Over the seeds."""
    return statistics.median(result.best_at(moment) for result in results)


def median_time(results: Sequence[Result], target: float, seconds: float) -> float:
    """Over the seeds; a miss counts as the whole time."""
    times = [result.time_to(target) for result in results]
    return statistics.median(seconds if moment is None else moment for moment in times)


def best_over_time(results: Results, seconds: float) -> Table:
    """Medians of the best eval loss at each moment."""
    moments = [moment for moment in MOMENTS if moment <= seconds]
    table = Table(title="Best eval loss so far, after seconds (medians)")
    for column in ("", *map(str, moments)):
        table.add_column(column, justify="right")
    for name, each in results.items():
        losses = [median_best(each, moment) for moment in moments]
        table.add_row(name, *("-" if loss == NEVER else f"{loss:.4f}" for loss in losses))
    return table


def reached_and_ended(results: Results, seconds: float) -> Table:
    """Medians of the times to the targets, of first measurements, and of what was ended."""
    table = Table(title=f"First measurement, time to a loss (hits), ended in {seconds:g} s (medians)")
    targets = [f"to {target:g}, s" for target in TARGETS]
    for column in ("", "first, s", *targets, "trainings", "trials"):
        table.add_column(column, justify="right")
    for name, each in results.items():
        cells = [f"{statistics.median(result.first_measured for result in each):.1f}"]
        for target in TARGETS:
            hits = sum(result.time_to(target) is not None for result in each)
            cells.append(f"{median_time(each, target, seconds):.1f} ({hits}/{len(each)})")
        cells += [f"{statistics.median(result.trainings for result in each):g}"]
        cells += [f"{statistics.median(result.trials for result in each):g}"]
        table.add_row(name, *cells)
    return table


def bars(results: Results, seconds: float) -> list[tuple[str, bool, str]]:
    """(the bar, whether it is met, what was found), of towersweep against the others."""
    ours, peers = results[OURS], {name: each for name, each in results.items() if name != OURS}
    low = BAR_TARGET
    own, other = median_time(ours, low, seconds), min(median_time(each, low, seconds) for each in peers.values())
    hit = any(result.time_to(low) is not None for result in ours)
    found = [
        (
            f"reaches {low:g} in at most {SHARE_OF_TIME:.2f} of the better peer's time",
            hit and own <= SHARE_OF_TIME * other,
            f"{own:.1f} s of {other:.1f} s: {own / other:.2f}",
        )
    ]
    for name in (name for name in peers if name in (TUNE, REUSE)):
        for word, most in (("trials", TIMES_TRIALS), ("trainings", TIMES_TRAININGS)):
            mine, theirs = (
                statistics.median(getattr(result, word) for result in each) for each in (ours, peers[name])
            )
            ratio = mine / theirs if theirs else NEVER
            bar = f"ends at least {most} times {name}'s {word}"
            found.append((bar, ratio >= most, f"{mine:g} / {theirs:g}: {ratio:.1f}"))
    late = [moment / 2 for moment in range(2 * BEST_AFTER, int(2 * seconds) + 1)]
    behind = [
        moment
        for moment in late
        if median_best(ours, moment) > min(median_best(each, moment) for each in peers.values())
    ]
    words = f"behind for {len(behind) / 2:g} s, first at {behind[0]:g} s" if behind else "at all of them"
    found.append((f"has the best loss at every moment after {BEST_AFTER} s", not behind, words))
    return found


def draw(results: Results, seconds: float, path: Path) -> None:
    """The best so far over time: a line a seed, the medians bold."""
    import plotly.graph_objects as go

    moments = [moment / 2 for moment in range(int(2 * seconds) + 1)]
    figure = go.Figure()
    for (name, each), color in zip(results.items(), ("#0072b2", "#d55e00", "#e69f00", "#009e73"), strict=False):
        lines = [([result.best_at(moment) for moment in moments], 1, 0.4) for result in each]
        lines.append(([median_best(each, moment) for moment in moments], 4, 1.0))
        for losses, width, opacity in lines:
            shown = [None if loss == NEVER else loss for loss in losses]
            figure.add_scatter(
                x=moments, y=shown, name=name, legendgroup=name, showlegend=width > 1, opacity=opacity,
                mode="lines", line={"color": color, "width": width, "shape": "hv"},
            )  # fmt: skip
    for target in TARGETS:
        figure.add_hline(target, line={"color": "grey", "dash": "dot"})
        # On a logarithmic axis Plotly places annotations, unlike lines, by the exponent.
        figure.add_annotation(x=1, xref="paper", y=log10(target), yshift=8, text=f"{target:g}", showarrow=False)
    figure.update_layout(
        title="Best eval loss so far: a line a seed, medians bold", template="plotly_white",
        xaxis_title="seconds since the system's first process began", yaxis_title="eval loss (nats)",
        yaxis_type="log",
    )  # fmt: skip
    figure.write_html(path)


def main() -> None:
    """Race in turn, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tune-reuse", action="store_true", help="race Ray Tune with reuse_actors as well")
    parser.add_argument("--kernel-size", type=int, default=5, help="of the convolutions of all contestants")
    parser.add_argument("--splits", action="store_true", help="each seed has another split of the images")
    parser.add_argument("--plot", type=Path, help="draw the best over time into this HTML file")
    parser.add_argument("--json", type=Path, help="write what was found into this file")
    options = parser.parse_args()
    names = [name for name in CONTESTANTS if name != REUSE or options.tune_reuse]
    results: Results = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            result = run(name, options.seconds, seed, options.kernel_size, seed + 1 if options.splits else 0)
            results[name].append(result)
            best = result.best_at(options.seconds)
            words = f"{result.trainings} trainings, {result.trials} trials, best {best:.4f}"
            print(f"seed {seed}, {name}: {words}", file=sys.stderr)
    console = Console()
    console.print(best_over_time(results, options.seconds))
    console.print(reached_and_ended(results, options.seconds))
    for bar, met, found in bars(results, options.seconds):
        console.print(f"{OURS} {bar}: {found}: {'met' if met else 'NOT MET'}", soft_wrap=True, highlight=False)
    if options.plot:
        draw(results, options.seconds, options.plot)
    if options.json:
        rows = {name: [asdict(result) for result in each] for name, each in results.items()}
        options.json.write_text(json.dumps(rows))


if __name__ == "__main__":
    main()
