"""The sweep's data: frozen, and valid from birth.

Everything that passes between driver, study, backends, run folder and report is one of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from math import isfinite

ParamValue = bool | int | float | str
Params = Mapping[str, ParamValue]


class TrialState(StrEnum):
    """How a trial stands; the names are report.json's."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"


class Verdict(StrEnum):
    """What a learning curve says about convergence."""

    CONVERGED = "converged"
    STALLED = "stalled"
    DIVERGED = "diverged"
    IMPROVING = "improving"
    UNDETERMINED = "undetermined"


class FailureKind(StrEnum):
    """Why an attempt ended without a result."""

    INVALID_SETTINGS = "invalid settings"
    DEVICE_OUT_OF_MEMORY = "device out of memory"
    HOST_OUT_OF_MEMORY = "host out of memory"
    WORKER_LOST = "worker lost"
    TIMED_OUT = "timed out"
    TRIAL_ERROR = "error in the trial"


@dataclass(frozen=True)
class Failure:
    """Why an attempt ended without a result. ``traceback`` may be empty."""

    kind: FailureKind
    message: str
    traceback: str = ""


@dataclass(frozen=True)
class Score:
    """One readout's evaluation: mean cross-entropy (nats) and accuracy (0..1), on the eval part unless said."""

    eval_loss: float
    eval_accuracy: float


@dataclass(frozen=True)
class CurvePoint:
    """One row of a learning curve.

    ``train_loss`` is the mean training cross-entropy (nats) over the steps since the previous point.
    ``score`` is that of the trajectory's first readout, where it was evaluated at this step.
    ``metrics`` holds whatever else the trainable reports.
    """

    step: int
    train_loss: float
    score: Score | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """What a trajectory reports when it has reached a rung.

    ``curve`` holds the points since the previous measurement, in order, the last one at ``step``.
    ``scores`` holds one score a readout, in the order in which the readouts were given.
    ``seconds`` is the worker's own time since the previous measurement.
    ``references`` are losses (nats) with a name that a plateau may be compared with, such as the loss of a guess.
    ``lattice_scores``: at the last step only, one a cell of the trajectory's ``lattice``, in its order.
    ``test_scores``: at the last step, one a readout and then one a cell of the lattice, each None where it was not
    asked for: on a test part, which no decision of a sweep looks at.
    """

    step: int
    curve: tuple[CurvePoint, ...]
    scores: tuple[Score, ...]
    seconds: float = 0.0
    references: Mapping[str, float] = field(default_factory=dict)
    test_scores: tuple[Score | None, ...] = ()
    lattice_scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        if self.step < 1:
            raise ValueError(f"measurement.step is {self.step}, but must be at least 1")
        if not self.scores:
            raise ValueError("measurement.scores is empty, but must hold one score a readout")
        everything = len(self.scores) + len(self.lattice_scores)
        if self.test_scores and len(self.test_scores) != everything:
            count, rule = len(self.test_scores), f"must hold none, or one a readout, {everything}"
            raise ValueError(f"measurement.test_scores holds {count}, but {rule}")
        steps = [point.step for point in self.curve]
        if not steps or steps[-1] != self.step or any(a >= b for a, b in pairwise(steps)):
            raise ValueError(f"measurement.curve has steps {steps}, but must rise strictly to {self.step}")

    @property
    def best_loss(self) -> float:
        """The lowest finite eval loss over the readouts and the lattice; infinity if none is finite."""
        scores = (*self.scores, *self.lattice_scores)
        return min((s.eval_loss for s in scores if isfinite(s.eval_loss)), default=float("inf"))

    @property
    def winning_cell(self) -> int | None:
        """The cell of the lattice that beats every readout, if one does."""
        losses = [score.eval_loss for score in self.lattice_scores]
        if self.best_loss not in losses or any(score.eval_loss <= self.best_loss for score in self.scores):
            return None
        return losses.index(self.best_loss)

    @property
    def diverged(self) -> bool:
        """Whether training loss is no longer a number, so that no further step can help."""
        return not all(isfinite(point.train_loss) for point in self.curve)


@dataclass(frozen=True)
class TrialSpec:
    """One trial of a trajectory: Optuna's number, and the readout it stands for."""

    number: int
    readout: Params


@dataclass(frozen=True)
class Trajectory:
    """One training run and the trials that share it (at least one; the first is the one it was asked for).

    ``lattice`` holds further readouts, each a cell that no trial stands for, to be scored at the last step alone.
    """

    number: int
    params: Params
    trials: tuple[TrialSpec, ...]
    seed: int
    lattice: tuple[Params, ...] = ()

    def __post_init__(self) -> None:
        if not self.trials:
            raise ValueError(f"trajectory {self.number} has no trials, but must have at least one")

    @property
    def readouts(self) -> tuple[Params, ...]:
        """The readouts to be scored, in the order of ``trials``."""
        return tuple(trial.readout for trial in self.trials)


@dataclass(frozen=True)
class Outcome:
    """How a trajectory ended, and why: a stop always carries its reason."""

    state: TrialState
    reason: str
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if self.state is TrialState.RUNNING:
            raise ValueError("outcome.state is running, but must be an end")
        if not self.reason:
            raise ValueError("outcome.reason is empty, but every end has one")


@dataclass(frozen=True)
class StoredTrial:
    """A trial as the study's storage holds it. ``value`` is None unless it is complete.

    ``cell`` is the place in its trajectory's lattice of a trial that was made of a cell that beat all siblings.
    """

    number: int
    trajectory: int
    state: TrialState
    params: Params
    value: float | None
    cell: int | None = None


@dataclass(frozen=True)
class Plateau:
    """Where a stalled curve lies (nats), and the trainable's nearest reference loss, by name."""

    loss: float
    reference: str
    reference_loss: float


@dataclass(frozen=True)
class TrialRecord:
    """One trial as the study and the curves tell it: what report.json and the viewer are made of.

    ``curve`` is the trajectory's; its ``score`` is this trial's own readout, where that was measured.
    ``value`` is the eval loss at the last measured step; None while nothing was measured.
    ``started`` and ``ended`` are seconds since the sweep's first start. ``test`` is the score on the test part, of
    a trial whose trajectory reached its last step.
    """

    number: int
    trajectory: int
    state: TrialState
    params: Params
    value: float | None
    verdict: Verdict
    steps: int
    seconds: float
    attempts: int
    reason: str
    failure: Failure | None
    curve: tuple[CurvePoint, ...]
    started: float = 0.0
    ended: float | None = None
    plateau: Plateau | None = None
    test: Score | None = None
    from_lattice: bool = False


@dataclass(frozen=True)
class LatticeCell:
    """A readout, and its score at a trajectory's last step. ``trial`` is the trial that stands for it, if any."""

    readout: Params
    score: Score
    trial: int | None = None


@dataclass(frozen=True)
class SweepRecord:
    """A whole sweep as it is stored: the report's only input.

    ``roles`` maps each searched parameter's name to "trajectory" or "readout". ``lattices`` holds, for each
    trajectory that reached its last step, every readout that was scored there, its trials' among them.
    ``device_seconds`` is what all attempts together had of devices, one count a tower.
    """

    name: str
    config_digest: str
    seed: int
    versions: Mapping[str, str]
    roles: Mapping[str, str]
    total_steps: int
    wall_seconds: float
    finished: bool
    trials: tuple[TrialRecord, ...]
    lattices: Mapping[int, tuple[LatticeCell, ...]] = field(default_factory=dict)
    device_seconds: float = 0.0

    def best(self) -> TrialRecord | None:
        """The completed trial with the lowest finite value; the lower number wins a tie."""
        done = [
            (trial.value, trial.number, trial)
            for trial in self.trials
            if trial.state is TrialState.COMPLETE and trial.value is not None and isfinite(trial.value)
        ]
        return min(done, key=lambda entry: entry[:2], default=(None, None, None))[2]
