"""What the run folder's curves say, and how they and the study together make the sweep's record.

Entries are JSON objects, a line each. Their times are seconds of driving since the sweep's first start (the time
between an interruption and the resume is not counted). Numbers that are not finite are stored as null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import Any

from sweeps.records import (
    CurvePoint,
    Failure,
    FailureKind,
    LatticeCell,
    Measurement,
    Outcome,
    Params,
    Plateau,
    Score,
    StoredTrial,
    SweepRecord,
    Trajectory,
    TrialRecord,
    TrialState,
    Verdict,
)


def start_entry(trajectory: Trajectory, attempt: int, now: float) -> dict[str, Any]:
    """A trajectory's attempt begins."""
    return {"kind": "start", "trajectory": trajectory.number, "attempt": attempt, "time": round(now, 3)}


def measurement_entry(
    trajectory: Trajectory, attempt: int, measurement: Measurement, now: float
) -> dict[str, Any]:
    """A trajectory was measured."""
    return {
        "kind": "measurement",
        "trajectory": trajectory.number,
        "attempt": attempt,
        "time": round(now, 3),
        "step": measurement.step,
        "seconds": round(measurement.seconds, 4),
        "trials": [spec.number for spec in trajectory.trials],
        "scores": [_score_to_json(score) for score in measurement.scores],
        "curve": [
            [p.step, _finite(p.train_loss), _score_to_json(p.score), {k: _finite(v) for k, v in p.metrics.items()}]
            for p in measurement.curve
        ],
        "lattice": [
            [dict(readout), _score_to_json(score)]
            for readout, score in zip(trajectory.lattice, measurement.lattice_scores, strict=False)
        ],
        "test_scores": [_score_to_json(score) for score in measurement.test_scores],
        "references": {name: loss for name, loss in measurement.references.items() if isfinite(loss)},
    }


def end_entry(trajectory: Trajectory, attempt: int, outcome: Outcome, now: float) -> dict[str, Any]:
    """A trajectory ended, and why."""
    failure = outcome.failure
    return {
        "kind": "end",
        "trajectory": trajectory.number,
        "attempt": attempt,
        "time": round(now, 3),
        "state": outcome.state.value,
        "reason": outcome.reason,
        "failure": {"kind": failure.kind.value, "message": failure.message} if failure else None,
    }


def lost_entry(trajectory: Trajectory, attempt: int, failure: Failure, now: float) -> dict[str, Any]:
    """An attempt was lost; another follows."""
    return {
        "kind": "lost",
        "trajectory": trajectory.number,
        "attempt": attempt,
        "time": round(now, 3),
        "failure": {"kind": failure.kind.value, "message": failure.message},
    }


def generation_entry(first: int, now: float) -> dict[str, Any]:
    """A deterministic sweep asks for a generation of trajectories, from number ``first`` on."""
    return {"kind": "generation", "first": first, "time": round(now, 3)}


def session_entry(now: float, *, finished: bool) -> dict[str, Any]:
    """A driver came to an end of its own accord; ``finished`` if nothing was left to do."""
    return {"kind": "session", "time": round(now, 3), "finished": finished}


@dataclass
class TrajectoryHistory:
    """One trajectory as its entries tell it: the curve, and every trial's own scores by step."""

    started: float = 0.0
    ended: float | None = None
    attempts: int = 0
    slot_seconds: float = 0.0
    """How long its attempts held a slot, as far as the entries tell."""
    attempt_began: float = 0.0
    earlier_attempts: float = 0.0
    seconds: float = 0.0
    points: dict[int, CurvePoint] = field(default_factory=dict)
    scores: dict[int, dict[int, Score]] = field(default_factory=dict)
    references: Mapping[str, float] = field(default_factory=dict)
    lattice: list[tuple[Params, Score]] = field(default_factory=list)
    test: dict[int, Score] = field(default_factory=dict)
    """By trial number; that of cell c of the lattice is at -1 - c."""
    state: TrialState | None = None
    reason: str = ""
    failure: Failure | None = None
    lost: list[FailureKind] = field(default_factory=list)
    """Why attempts were lost after which another was to follow."""

    @property
    def train_loss(self) -> tuple[list[int], list[float]]:
        """Steps and mean training cross-entropy, in order."""
        steps = sorted(self.points)
        return steps, [self.points[step].train_loss for step in steps]

    def measurement(self, trajectory: Trajectory, step: int) -> Measurement:
        """What was measured at ``step``, without the curve before it."""
        return Measurement(
            step=step,
            curve=(self.points[step],),
            scores=tuple(self.scores[step][spec.number] for spec in trajectory.trials),
            lattice_scores=tuple(score for _, score in self.lattice) if step == max(self.scores) else (),
        )

    def best_at(self, step: int) -> float:
        """The best finite eval loss of any readout up to ``step``."""
        losses = (s.eval_loss for at, row in self.scores.items() if at <= step for s in row.values())
        return min((loss for loss in losses if isfinite(loss)), default=float("inf"))

    def add(self, entry: Mapping[str, Any]) -> None:
        """Take in one entry. A step that a second attempt measured again keeps its first values."""
        self.attempts = max(self.attempts, entry["attempt"])
        if entry["kind"] == "start":
            self.attempt_began, self.earlier_attempts = entry["time"], self.slot_seconds
        self.slot_seconds = self.earlier_attempts + entry["time"] - self.attempt_began
        match entry["kind"]:
            case "start":
                self.started = self.started or entry["time"]
            case "measurement":
                self._add_measurement(entry)
            case "lost":
                self.lost.append(FailureKind(entry["failure"]["kind"]))
            case "end":
                self.ended, self.reason = entry["time"], entry["reason"]
                self.state = TrialState(entry["state"])
                if entry["failure"]:
                    kind = FailureKind(entry["failure"]["kind"])
                    self.failure = Failure(kind, entry["failure"]["message"])

    def _add_measurement(self, entry: Mapping[str, Any]) -> None:
        self.seconds += entry["seconds"]
        self.references = entry.get("references", self.references)
        if entry["step"] in self.scores:
            return
        self.lattice = [(readout, _score_from_json(score)) for readout, score in entry.get("lattice", ())]
        if tests := entry.get("test_scores"):
            keys = [*entry["trials"], *(-1 - cell for cell in range(len(self.lattice)))]
            pairs = zip(keys, tests, strict=True)
            self.test = {key: _score_from_json(score) for key, score in pairs if score is not None}
        pairs = zip(entry["trials"], entry["scores"], strict=True)
        self.scores[entry["step"]] = {number: _score_from_json(score) for number, score in pairs}
        for step, loss, score, metrics in entry["curve"]:
            point = CurvePoint(step, _number(loss), _score_from_json(score) if score else None, metrics)
            self.points.setdefault(step, point)


@dataclass
class History:
    """A whole sweep's entries."""

    trajectories: dict[int, TrajectoryHistory] = field(default_factory=dict)
    elapsed_seconds: float = 0.0
    finished: bool = False
    generation_first: int = 0
    """The first trajectory of the generation under way, in a deterministic sweep."""

    @property
    def slot_seconds(self) -> float:
        """How long all attempts together held slots."""
        return sum(past.slot_seconds for past in self.trajectories.values())


def read_history(entries: Iterable[Mapping[str, Any]]) -> History:
    """Gather the entries of ``curves.jsonl`` by trajectory."""
    history = History()
    for entry in entries:
        history.elapsed_seconds = max(history.elapsed_seconds, entry["time"])
        history.finished = entry["kind"] == "session" and entry["finished"]
        if entry["kind"] == "generation":
            history.generation_first = entry["first"]
        if "trajectory" in entry:
            history.trajectories.setdefault(entry["trajectory"], TrajectoryHistory()).add(entry)
    return history


@dataclass(frozen=True)
class SweepFacts:
    """What the record says of the sweep besides its trials."""

    name: str
    config_digest: str
    seed: int
    versions: Mapping[str, str]
    roles: Mapping[str, str]
    total_steps: int
    devices: int = 1
    """That a trajectory holds at a time."""


# Curve to verdict: ``sweeps.convergence`` with the sweep's thresholds.
Judge = Callable[[Sequence[int], Sequence[float]], Verdict]
# A curve and the trainable's reference losses to where it stalled, if it did.
Locate = Callable[[Sequence[int], Sequence[float], Mapping[str, float]], Plateau | None]


def assemble(
    facts: SweepFacts, stored: Sequence[StoredTrial], history: History, judge: Judge, locate: Locate
) -> SweepRecord:
    """The sweep's record, from what the study and the curves hold. One verdict a trajectory."""
    verdicts: dict[int, tuple[Verdict, Plateau | None]] = {}
    trials = []
    for trial in stored:
        past = history.trajectories.get(trial.trajectory) or TrajectoryHistory()
        if trial.trajectory not in verdicts:
            curve = past.train_loss
            verdicts[trial.trajectory] = judge(*curve), locate(*curve, past.references)
        trials.append(_trial_record(trial, past, *verdicts[trial.trajectory]))
    return SweepRecord(
        name=facts.name,
        config_digest=facts.config_digest,
        seed=facts.seed,
        versions=facts.versions,
        roles=facts.roles,
        total_steps=facts.total_steps,
        wall_seconds=history.elapsed_seconds,
        finished=history.finished,
        trials=tuple(trials),
        lattices=_lattices(facts, stored, history),
        device_seconds=facts.devices * history.slot_seconds,
    )


def _lattices(
    facts: SweepFacts, stored: Sequence[StoredTrial], history: History
) -> dict[int, tuple[LatticeCell, ...]]:
    """By trajectory that reached its last step: every readout that was scored there."""
    found: dict[int, list[LatticeCell]] = {}
    promoted = {(trial.trajectory, trial.cell): trial.number for trial in stored if trial.cell is not None}
    for trial in stored:
        past = history.trajectories.get(trial.trajectory)
        score = past.scores.get(facts.total_steps, {}).get(trial.number) if past else None
        if score is not None:
            own = {name: value for name, value in trial.params.items() if facts.roles[name] == "readout"}
            found.setdefault(trial.trajectory, []).append(LatticeCell(own, score, trial.number))
    for number, cells in found.items():
        for cell, (readout, score) in enumerate(history.trajectories[number].lattice):
            cells.append(LatticeCell(readout, score, promoted.get((number, cell))))
    return {number: tuple(cells) for number, cells in found.items()}


def _trial_record(
    trial: StoredTrial, past: TrajectoryHistory, verdict: Verdict, plateau: Plateau | None
) -> TrialRecord:
    own = {step: row[trial.number] for step, row in past.scores.items() if trial.number in row}
    if trial.cell is not None and trial.cell < len(past.lattice):
        own = {max(past.scores): past.lattice[trial.cell][1]}
    first = min((min(row) for row in past.scores.values() if row), default=trial.number) == trial.number
    curve = tuple(
        replace(past.points[step], score=own.get(step) or (past.points[step].score if first else None))
        for step in sorted(past.points)
    )
    last = own[max(own)].eval_loss if own else None
    return TrialRecord(
        number=trial.number,
        trajectory=trial.trajectory,
        state=trial.state,
        params=trial.params,
        value=trial.value if trial.value is not None else last,
        verdict=verdict,
        steps=max(past.points, default=0),
        seconds=past.seconds,
        attempts=past.attempts,
        reason=past.reason,
        failure=past.failure,
        curve=curve,
        started=past.started,
        ended=past.ended,
        plateau=plateau,
        test=past.test.get(trial.number if trial.cell is None else -1 - trial.cell),
        from_lattice=trial.cell is not None,
    )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _number(value: float | None) -> float:
    return nan if value is None else value


def _score_to_json(score: Score | None) -> list[float | None] | None:
    return None if score is None else [_finite(score.eval_loss), _finite(score.eval_accuracy)]


def _score_from_json(pair: Sequence[float | None]) -> Score:
    return Score(_number(pair[0]), _number(pair[1]))
