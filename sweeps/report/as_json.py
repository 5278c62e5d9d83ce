"""SweepRecord -> report.json, and back as typed data. The format is pinned by docs/report.schema.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict, cast, get_origin, get_type_hints

from sweeps.errors import RunFolderError
from sweeps.records import LatticeCell, Params, ParamValue, SweepRecord, TrialRecord, TrialState
from sweeps.report.lattice import last_step
from sweeps.report.sharing import sharing
from sweeps.report.summary import best_trial, finite

SCHEMA_VERSION: Literal[1] = 1


class Objective(TypedDict):
    """What trials are compared by: the mean cross-entropy (nats) on the eval part."""

    metric: Literal["eval_loss"]
    direction: Literal["minimize"]


class Counts(TypedDict):
    """Trials by state, and the number of training runs they share."""

    complete: int
    pruned: int
    failed: int
    running: int
    trajectories: int


class Test(TypedDict):
    """A score on the test part, which no decision of the sweep looked at."""

    loss: float | None
    accuracy: float | None


class Best(TypedDict):
    """The completed trial with the lowest eval loss."""

    number: int
    value: float
    params: dict[str, ParamValue | None]
    verdict: str
    step: int
    test: NotRequired[Test | None]


class Plateau(TypedDict):
    """Where a stalled curve lies (nats), and the reference loss that is nearest to it."""

    loss: float
    reference: str
    reference_loss: float


class Curve(TypedDict):
    """Columns of equal length; None where a number was not finite, or the trial was not evaluated at the step."""

    step: list[int]
    train_loss: list[float | None]
    eval_loss: list[float | None]
    eval_accuracy: list[float | None]


class TrialFailure(TypedDict):
    """Why a trial has no result."""

    kind: str
    message: str


class Trial(TypedDict):
    """One trial. ``seconds`` is the trajectory's, which its siblings share; times are since the sweep's start."""

    number: int
    trajectory: int
    state: str
    params: dict[str, ParamValue | None]
    value: float | None
    verdict: str
    steps: int
    seconds: float | None
    attempts: int
    reason: NotRequired[str]
    started: NotRequired[float | None]
    ended: NotRequired[float | None]
    failure: TrialFailure | None
    plateau: NotRequired[Plateau | None]
    from_lattice: NotRequired[bool]
    curve: Curve


class Sharing(TypedDict):
    """Trials against training runs. What was saved is estimated; see report.schema.json."""

    trainings: int
    trials: int
    trials_per_training: float | None
    trials_from_lattice: int
    lattice_cells: int
    device_seconds: float
    device_seconds_saved: float


class Cell(TypedDict):
    """A readout, its score at its trajectory's last step, and the trial that stands for it, if one does."""

    params: dict[str, ParamValue | None]
    eval_loss: float | None
    eval_accuracy: float | None
    trial: int | None


class Lattice(TypedDict):
    """Every readout that was scored at a trajectory's last step."""

    trajectory: int
    step: int
    cells: list[Cell]


class Report(TypedDict):
    """report.json, version 1. ``best`` is None as long as no trial has completed with a finite loss."""

    schema_version: Literal[1]
    sweep: str
    config_digest: str
    seed: int
    versions: dict[str, str]
    objective: Objective
    finished: NotRequired[bool]
    total_steps: NotRequired[int]
    roles: NotRequired[dict[str, str]]
    counts: Counts
    wall_seconds: float | None
    trials_per_minute: float | None
    best: Best | None
    sharing: NotRequired[Sharing]
    lattices: NotRequired[list[Lattice]]
    trials: list[Trial]


def build(record: SweepRecord) -> Report:
    """The report as data. No number in it is NaN or infinite."""
    return {
        "schema_version": SCHEMA_VERSION,
        "sweep": record.name,
        "config_digest": record.config_digest,
        "seed": record.seed,
        "versions": dict(record.versions),
        "objective": {"metric": "eval_loss", "direction": "minimize"},
        "finished": record.finished,
        "total_steps": record.total_steps,
        "roles": dict(record.roles),
        "counts": _counts(record.trials),
        "wall_seconds": finite(record.wall_seconds),
        "trials_per_minute": _per_minute(record),
        "best": _best(record),
        "sharing": _sharing(record),
        "lattices": [_lattice(record, number, cells) for number, cells in sorted(record.lattices.items())],
        "trials": [_trial(trial) for trial in record.trials],
    }


def render(record: SweepRecord) -> str:
    """report.json's text: compact, one line a lattice or trial, to be searched and compared by line."""
    report = build(record)
    head = {key: value for key, value in report.items() if key not in ("lattices", "trials")}
    lattices, trials = (",\n".join(map(_dump, entries)) for entries in (report["lattices"], report["trials"]))
    return f'{_dump(head)[:-1]},\n"lattices":[\n{lattices}\n],\n"trials":[\n{trials}\n]}}\n'


def load_report(folder: str | Path) -> Report:
    """The report.json of a run folder.

    Raises RunFolderError if it is missing, damaged, or of a version that this program does not know.
    """
    path = Path(folder) / "report.json"
    rule = f"(to write it anew: towersweep report {folder})"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing, but must be there {rule}") from error
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read, but must be readable ({error.strerror})") from error
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged, but must be JSON {rule}") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != SCHEMA_VERSION:
        raise RunFolderError(f"{path}: schema_version is {version!r}, but must be {SCHEMA_VERSION} {rule}")
    _require(path, found, Report, "", rule)
    for index, trial in enumerate(found["trials"]):
        _require(path, trial, Trial, f"trials[{index}].", rule)
    return cast("Report", found)


def _require(path: Path, found: Any, shape: Any, where: str, rule: str) -> None:
    present = found.keys() if isinstance(found, dict) else ()
    # Not __required_keys__: annotations that are still text hide their NotRequired from it.
    hints = get_type_hints(shape, include_extras=True)
    required = {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}
    if missing := sorted(required - set(present)):
        raise RunFolderError(f"{path}: {where}{missing[0]} is missing, but must be there {rule}")


def _dump(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def _counts(trials: Iterable[TrialRecord]) -> Counts:
    trials = tuple(trials)
    states = Counter(trial.state for trial in trials)
    return {
        "complete": states[TrialState.COMPLETE],
        "pruned": states[TrialState.PRUNED],
        "failed": states[TrialState.FAILED],
        "running": states[TrialState.RUNNING],
        "trajectories": len({trial.trajectory for trial in trials}),
    }


def _per_minute(record: SweepRecord) -> float | None:
    ended = sum(trial.state is not TrialState.RUNNING for trial in record.trials)
    return finite(60 * ended / record.wall_seconds) if record.wall_seconds > 0 else None


def _best(record: SweepRecord) -> Best | None:
    best = best_trial(record.trials)
    if best is None or best.value is None:
        return None
    return {
        "number": best.number,
        "value": best.value,
        "params": _params(best.params),
        "verdict": best.verdict.value,
        "step": best.steps,
        "test": _test(best),
    }


def _sharing(record: SweepRecord) -> Sharing:
    found = sharing(record)
    return {
        "trainings": found.trainings,
        "trials": found.trials,
        "trials_per_training": found.trials_per_training,
        "trials_from_lattice": found.from_lattice,
        "lattice_cells": found.cells,
        "device_seconds": found.device_seconds,
        "device_seconds_saved": found.saved,
    }


def _lattice(record: SweepRecord, trajectory: int, cells: Iterable[LatticeCell]) -> Lattice:
    return {
        "trajectory": trajectory,
        "step": last_step(record, trajectory),
        "cells": [
            {
                "params": _params(cell.readout),
                "eval_loss": finite(cell.score.eval_loss),
                "eval_accuracy": finite(cell.score.eval_accuracy),
                "trial": cell.trial,
            }
            for cell in cells
        ],
    }


def _test(trial: TrialRecord) -> Test | None:
    if trial.test is None:
        return None
    return {"loss": finite(trial.test.eval_loss), "accuracy": finite(trial.test.eval_accuracy)}


def _trial(trial: TrialRecord) -> Trial:
    failure = trial.failure
    return {
        "number": trial.number,
        "trajectory": trial.trajectory,
        "state": trial.state.value,
        "params": _params(trial.params),
        "value": finite(trial.value),
        "verdict": trial.verdict.value,
        "steps": trial.steps,
        "seconds": finite(trial.seconds),
        "attempts": trial.attempts,
        "reason": trial.reason,
        "started": finite(trial.started),
        "ended": finite(trial.ended),
        "failure": None if failure is None else {"kind": failure.kind.value, "message": failure.message},
        "plateau": _plateau(trial),
        "from_lattice": trial.from_lattice,
        "curve": _curve(trial),
    }


def _plateau(trial: TrialRecord) -> Plateau | None:
    found = trial.plateau
    if found is None:
        return None
    return {"loss": found.loss, "reference": found.reference, "reference_loss": found.reference_loss}


def _params(params: Params) -> dict[str, ParamValue | None]:
    """JSON has no infinity: such a parameter becomes null."""
    return {k: None if isinstance(v, float) and not isfinite(v) else v for k, v in params.items()}


def _curve(trial: TrialRecord) -> Curve:
    scores = [point.score for point in trial.curve]
    return {
        "step": [point.step for point in trial.curve],
        "train_loss": [finite(point.train_loss) for point in trial.curve],
        "eval_loss": [finite(score.eval_loss) if score else None for score in scores],
        "eval_accuracy": [finite(score.eval_accuracy) if score else None for score in scores],
    }
