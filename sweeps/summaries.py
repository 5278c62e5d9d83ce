"""Records as text for a terminal, and as facts for programs."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sweeps.progress import describe, duration
from sweeps.records import SweepRecord, TrialState
from sweeps.report.sharing import sharing, sharing_line


def verdicts_by_trajectory(record: SweepRecord) -> dict[str, int]:
    """How many trajectories got each verdict, running ones left out."""
    verdict_of = {t.trajectory: t.verdict for t in record.trials if t.state is not TrialState.RUNNING}
    return {verdict.value: count for verdict, count in Counter(verdict_of.values()).most_common()}


def status_facts(record: SweepRecord, *, live: bool, size: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Where the sweep stands; report.json has the whole. ``size`` is what RunFolder.size tells, in bytes."""
    best = record.best()
    states = Counter(trial.state.value for trial in record.trials)
    return {
        "sweep": record.name,
        "state": "running" if live else "finished" if record.finished else "interrupted",
        "counts": {
            **{state.value: states[state.value] for state in TrialState},
            "trajectories": len({t.trajectory for t in record.trials}),
        },
        "verdicts": verdicts_by_trajectory(record),
        "wall_seconds": record.wall_seconds,
        "best": best
        and {
            "number": best.number,
            "value": best.value,
            "params": dict(best.params),
            "verdict": best.verdict.value,
        },
        **({} if size is None else {"folder_bytes": {"total": sum(size.values()), **size}}),
    }


def status_text(record: SweepRecord, *, live: bool, size: Mapping[str, int] | None = None) -> str:
    """The same for people."""
    facts = status_facts(record, live=live)
    counts = facts["counts"]
    trials = ", ".join(f"{counts[state.value]} {state.value}" for state in TrialState if counts[state.value])
    lines = [
        f"sweep {record.name}: {facts['state']}, {duration(record.wall_seconds)} of driving",
        f"{counts['trajectories']} trajectories, {len(record.trials)} trials: {trials or 'none yet'}",
    ]
    if (shared := sharing(record)).shared:
        lines.append(sharing_line(shared))
    if facts["verdicts"]:
        lines.append("verdicts: " + ", ".join(f"{n} {verdict}" for verdict, n in facts["verdicts"].items()))
    if best := record.best():
        lines.append(f"best: eval_loss {best.value:.4g}, trial {best.number}, {describe(best.params)}")
        if best.test is not None:
            accuracy = f"accuracy {best.test.eval_accuracy:.2%}"
            lines.append(f"its loss on the test part, seen by no decision: {best.test.eval_loss:.4g}, {accuracy}")
    if size is not None:
        parts = ", ".join(
            f"{part} {_bytes(n)}" for part, n in sorted(size.items(), key=lambda item: -item[1]) if n
        )
        lines.append(f"run folder: {_bytes(sum(size.values()))} ({parts})")
    return "\n".join(lines)


def _bytes(count: int) -> str:
    """``1536`` -> ``1.54 kB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"


def result_text(record: SweepRecord, folder: Path) -> str:
    """What a sweep's end looks like."""
    return f"{status_text(record, live=False)}\nreport: {folder / 'report.html'}\nstudy:  towersweep view {folder}"


def evaluation_text(found: Mapping[str, Any]) -> str:
    """The evaluation matrix as a table."""
    table = Table(title=f"trial {found['trial']}: {describe(found['params'])}", title_justify="left")
    for column in ("weights", "statistics", "part"):
        table.add_column(column)
    table.add_column("loss", justify="right")
    table.add_column("accuracy", justify="right")
    for row in found["rows"]:
        table.add_row(
            row["weights"], row["statistics"], row["part"], f"{row['loss']:.4f}", f"{row['accuracy']:.4f}"
        )
    return _rendered(table)


def doctor_text(facts: Mapping[str, Any]) -> str:
    """What the machine offers, and what a sweep would ask of it."""
    table = Table(show_header=False, box=None)
    for key, value in facts.items():
        if key not in ("shortages", "readouts"):
            table.add_row(key.replace("_", " "), escape(str(value)))
    for shortage in facts.get("shortages", ()):
        table.add_row("shortage", escape(shortage))
    for line in _readout_lines(facts["readouts"]) if "readouts" in facts else ():
        table.add_row("readouts", escape(line))
    return _rendered(table)


def _readout_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What the check of the readouts found; see ``readout_check``."""
    culprits = {culprit["parameter"]: culprit for culprit in found["culprits"]}
    sound = [name for name in found["checked"] if name not in culprits]
    if sound:
        yield f"{', '.join(sound)}: no effect on training in {found['steps']} steps, as it must be"
    for name, culprit in culprits.items():
        losses = " and ".join(
            "no finite loss" if loss is None else repr(loss) for loss in (culprit["first"], culprit["second"])
        )
        yield f"{name}: changes training, so it is no readout (train_loss at step {culprit['step']}: {losses})"
    if found["problem"]:
        yield f"problem: {found['problem']}"
    if found["unchecked"]:
        why = "" if found["problem"] else ", as no assignment was found that varies it and can be run"
        yield f"{', '.join(found['unchecked'])}: not checked{why}"
    if not found["checked"] and not found["unchecked"]:
        yield "none to check in this space; nothing was run"


def _rendered(table: Table) -> str:
    stream = io.StringIO()
    Console(file=stream, width=110).print(table)
    return stream.getvalue().rstrip()
