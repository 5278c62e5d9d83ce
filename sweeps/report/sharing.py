"""What readout sharing was worth: how many trials a training run scored, and what they would have cost alone."""

from __future__ import annotations

from dataclasses import dataclass

from sweeps.records import SweepRecord
from sweeps.report.summary import finite


@dataclass(frozen=True)
class Sharing:
    """A sweep's trials against its training runs, running and failed ones among both.

    ``from_lattice`` counts the trials that were made of a lattice's cell, ``cells`` the cells of all lattices and
    ``lattices`` the training runs that have one. ``device_seconds`` is what the sweep had of devices, ``saved`` an
    estimate (see ``sharing``) of what it did not need.
    """

    trainings: int
    trials: int
    from_lattice: int
    lattices: int
    cells: int
    device_seconds: float
    saved: float

    @property
    def trials_per_training(self) -> float | None:
        """None before the first training run."""
        return self.trials / self.trainings if self.trainings else None

    @property
    def shared(self) -> bool:
        """Whether any training run scored more than one readout."""
        return self.trials > self.trainings or self.cells > self.lattices


def sharing(record: SweepRecord) -> Sharing:
    """The sweep's numbers.

    Had each of a training run's k trials been trained alone, the run's share of device time would have been spent
    k - 1 times more: saved = device_seconds * sum((k - 1) * seconds) / sum(seconds), over the training runs'
    worker seconds. It is an estimate, and on the high side: a run trained alone keeps and scores fewer averages.
    """
    counts: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for trial in record.trials:
        counts[trial.trajectory] = counts.get(trial.trajectory, 0) + 1
        seconds[trial.trajectory] = finite(trial.seconds) or 0.0
    trained, device_seconds = sum(seconds.values()), finite(record.device_seconds) or 0.0
    repeated = sum((count - 1) * seconds[number] for number, count in counts.items())
    return Sharing(
        trainings=len(counts),
        trials=len(record.trials),
        from_lattice=sum(trial.from_lattice for trial in record.trials),
        lattices=len(record.lattices),
        cells=sum(len(cells) for cells in record.lattices.values()),
        device_seconds=device_seconds,
        saved=device_seconds * repeated / trained if trained > 0 else 0.0,
    )


def sharing_sentences(found: Sharing) -> str:
    """What was shared, and what it saved, in words; what is not known or did not happen is left out."""
    saved = f"{found.saved:,.0f}"
    alone = f"; training each trial alone would have taken about {saved} more device-seconds"
    says = f"{_count(found.trainings, 'training run')} scored {_count(found.trials, 'trial')}"
    says += f"{alone if saved != '0' else ''}."
    if found.cells:
        where = "its" if found.trainings == 1 else "their"
        says += f" At {where} last step, {_count(found.cells, 'readout')} were scored"
        says += f" in {_count(found.lattices, 'lattice')}" if found.lattices > 1 else ""
        made = "became a trial" if found.from_lattice == 1 else "became trials"
        says += f"; {found.from_lattice} beat every sibling and {made}." if found.from_lattice else "."
    return says


def sharing_line(found: Sharing) -> str:
    """The same for a terminal, on one line."""
    says = f"sharing: {found.trials_per_training or 0:.3g} trials a training run"
    says += f", {found.cells:,} readouts scored at last steps" if found.cells else ""
    saved = f"{found.saved:,.0f}"
    return says + (f", about {saved} device-seconds saved" if saved != "0" else "")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
