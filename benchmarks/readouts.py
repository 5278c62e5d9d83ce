"""What more readouts cost: a whole trajectory with 8 and with 42 readouts, beside the same with one.

Each trajectory trains 300 steps at batch 128 and is measured at three rungs. A round runs all three in turn; the
table shows medians of times and of the ratios within a round. The lattice is the ``batch_norm`` space's: 6 momenta
and 7 decays; 8 readouts are 8 of its cells, drawn anew each round, and the one is (0.99, no EMA).

    .venv/bin/python benchmarks/readouts.py [--rounds 5] [--only digits|tutorial] [--profile]
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from model.config import DataSettings, ModelSettings, TrainSettings, TrialSettings
from model.trial import ToweredCNN
from search_spaces import presets
from sweeps.trainable import Devices

RUNGS = (33, 100, 300)
COUNTS = (1, 8, 42)
TRAIN = TrainSettings(steps=RUNGS[-1], batch_size=128)
ALONE = {"bn_momentum": 0.99, "ema_decay": 0.0}


@dataclass(frozen=True)
class Case:
    """A network on its data, and the most that 8 and 42 readouts may cost, as ratios to one."""

    name: str
    settings: TrialSettings
    bars: tuple[float, float]


def cases() -> list[Case]:
    """Digits with the small network, and 24x24 crops of 1,000 evaluation images with the tutorial's."""
    small = ModelSettings(network="small", bn_placement="conv+fc", ema_warmup=False)
    digits = TrialSettings(DataSettings(dataset="digits"), small, TRAIN)
    images = DataSettings(
        dataset="synthetic", image_size=24, channels=3, num_classes=10, num_train=2000, num_eval=1000
    )
    tutorial = TrialSettings(images, replace(small, network="tutorial"), TRAIN)
    found = []
    for name, settings, bars in (("digits", digits, (1.2, 1.6)), ("tutorial", tutorial, (1.2, 1.5))):
        found.append(Case(name, settings, bars))
        warm = replace(settings, model=replace(settings.model, ema_warmup=True))
        found.append(Case(f"{name}, EMA warm-up", warm, bars))
    return found


def lattice() -> list[dict[str, float]]:
    """Every (momentum, decay) of the ``batch_norm`` space."""
    choices = {p.name: p.choices for p in presets()["batch_norm"].parameters if hasattr(p, "choices")}
    names = ("bn_momentum", "ema_decay")
    return [dict(zip(names, pair, strict=True)) for pair in product(*(choices[name] for name in names))]


def readouts_of(count: int) -> list[dict[str, float]]:
    """So many of the lattice's cells; one is read without an EMA."""
    return [ALONE] if count == 1 else random.sample(lattice(), count)


def seconds(trainable: ToweredCNN, count: int, seed: int, devices: Devices) -> float:
    """Training and measuring, from the first step to the last rung."""
    run = trainable.start({}, readouts_of(count), seed, devices)
    began = time.perf_counter()
    for rung in RUNGS:
        run.advance(rung)
    return time.perf_counter() - began


def measure(case: Case, rounds: int, devices: Devices) -> list[list[float]]:
    """[round][count]: seconds; a first round, which traces, is thrown away."""
    trainable = ToweredCNN(case.settings)
    table = []
    for seed in range(rounds + 1):
        table.append([seconds(trainable, count, seed, devices) for count in COUNTS])
        print(f"{case.name}: round {seed} of {rounds}", " ".join(f"{s:.2f}" for s in table[-1]), file=sys.stderr)
    return table[1:]


def main() -> None:
    """Measure in turn and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name begins so")
    options = parser.parse_args()
    devices = Devices(num_towers=1, gpus_per_tower=0, threads=options.threads)
    table = Table(title=f"A trajectory of {RUNGS[-1]} steps, measured at {RUNGS}; {options.threads} threads")
    for column in ("", "1 readout, s", *(f"{count} readouts, ratio (bar)" for count in COUNTS[1:])):
        table.add_column(column, justify="right")
    for case in cases():
        if not case.name.startswith(options.only):
            continue
        rows = measure(case, options.rounds, devices)
        cells = [f"{statistics.median(row[0] for row in rows):.2f}"]
        for index, bar in enumerate(case.bars, start=1):
            cells.append(f"{statistics.median(row[index] / row[0] for row in rows):.2f} ({bar})")
        table.add_row(case.name, *cells)
    Console().print(table)


if __name__ == "__main__":
    main()
