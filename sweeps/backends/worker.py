"""What every backend's worker does: hold one trainable and at most one run, and turn errors into Failures."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import Any

from sweeps.backends import Job, WorkerSpec
from sweeps.errors import TrainableError
from sweeps.records import CurvePoint, Failure, FailureKind, Measurement, Score
from sweeps.trainable import Run, load_trainable


class WorkerHost:
    """Runs trajectories of one trainable, one at a time. Exceptions leave as they are; see ``to_failure``."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._trainable = load_trainable(spec.trainable)(spec.settings)
        self._run: Run | None = None
        self._num_readouts = 0

    def prepare(self) -> None:
        """Let the trainable do ahead what every trajectory needs, if it knows how (imports, devices, data)."""
        prepare = getattr(self._trainable, "prepare", None)
        if prepare is not None:
            prepare(self._spec.devices)

    def start(self, job: Job) -> Measurement:
        """Begin (or go on with) a trajectory and run it to its first rung."""
        trajectory = job.trajectory
        self._num_readouts = len(trajectory.readouts)
        self._run = self._trainable.start(
            trajectory.params, trajectory.readouts, trajectory.seed, self._spec.devices, job.state
        )
        return self.advance(job.to_step)

    def advance(self, to_step: int) -> Measurement:
        """Run on to a rung. Raises TrainableError if what comes back is not a measurement of it."""
        return checked_measurement(self._held().advance(to_step), to_step, self._num_readouts)

    def take_state(self) -> bytes:
        """The whole state of the run."""
        state = self._held().state()
        if not isinstance(state, bytes):
            raise TrainableError(f"state() is a {type(state).__name__}, but must be bytes")
        return state

    def release(self) -> None:
        """Forget the run."""
        self._run = None

    def _held(self) -> Run:
        if self._run is None:
            raise TrainableError("this worker holds no run, but must have started one")
        return self._run


def checked_measurement(given: Any, to_step: int, num_readouts: int) -> Measurement:
    """Make sure of what a trainable reports, and take it into the sweep's own types (by attribute names).

    Raises TrainableError naming what is wrong.
    """
    try:
        measurement = Measurement(
            step=int(given.step),
            curve=tuple(_point(point) for point in given.curve),
            scores=_scores(given.scores),
            seconds=float(given.seconds),
            test_scores=_scores(getattr(given, "test_scores", ())),
            references={str(k): float(v) for k, v in getattr(given, "references", {}).items()},
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise TrainableError(f"advance({to_step}) gave no measurement: {error}") from error
    if measurement.step != to_step:
        raise TrainableError(f"measurement.step is {measurement.step}, but must be {to_step}, as asked")
    if len(measurement.scores) != num_readouts:
        rule = f"must hold one a readout, {num_readouts}"
        raise TrainableError(f"measurement.scores holds {len(measurement.scores)}, but {rule}")
    return measurement


def _point(given: Any) -> CurvePoint:
    score = None if given.score is None else _scores([given.score])[0]
    metrics = {str(key): float(value) for key, value in given.metrics.items()}
    return CurvePoint(int(given.step), float(given.train_loss), score, metrics)


def _scores(given: Iterable[Any]) -> tuple[Score, ...]:
    return tuple(Score(float(score.eval_loss), float(score.eval_accuracy)) for score in given)


def to_failure(error: BaseException) -> Failure:
    """Which kind of failure an exception in a trial is."""
    if isinstance(error, MemoryError):
        kind = FailureKind.HOST_OUT_OF_MEMORY
    elif type(error).__name__ == "ResourceExhaustedError":  # TensorFlow's, which is not imported here.
        kind = FailureKind.DEVICE_OUT_OF_MEMORY
    elif isinstance(error, ValueError) and hasattr(error, "rule"):
        kind = FailureKind.INVALID_SETTINGS
    else:
        kind = FailureKind.TRIAL_ERROR
    first_line = (str(error).splitlines() or [""])[0]
    message = first_line if isinstance(error, TrainableError) else f"{type(error).__name__}: {first_line}"
    return Failure(kind, message, "".join(traceback.format_exception(error)))
