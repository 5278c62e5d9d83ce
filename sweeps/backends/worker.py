"""What every backend's worker does: hold one trainable and at most one run, and turn errors into Failures."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import nan
from typing import Any, cast

from sweeps.backends import Job, WorkerSpec
from sweeps.backends.envelope import Partial, unwrap, wrap
from sweeps.errors import TrainableError
from sweeps.records import CurvePoint, Failure, FailureKind, Measurement, Score, Trajectory
from sweeps.trainable import Run, SelectiveRun, load_trainable, scores_lattice


@dataclass(frozen=True)
class Halted:
    """The run was stopped between rungs; ``state`` is as ``WorkerHost.take_state`` gives it."""

    state: bytes


def never() -> bool:
    """Nobody asks the run to stop."""
    return False


class WorkerHost:
    """Runs trajectories of one trainable, one at a time. Exceptions leave as they are; see ``to_failure``.

    A run is advanced in legs, where its trainable says that it may be, and can be halted between them. What was
    measured in the legs since the last rung travels with the run's state, so that a rung's measurement is the same
    whether the run was halted on the way or not.
    """

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._trainable = load_trainable(spec.trainable)(spec.settings)
        self._run: Run | None = None
        self._trajectory: Trajectory | None = None
        self._partial = Partial()

    def prepare(self) -> None:
        """Let the trainable do ahead what every trajectory needs, if it knows how (imports, devices, data)."""
        prepare = getattr(self._trainable, "prepare", None)
        if prepare is not None:
            prepare(self._spec.devices)

    def start(self, job: Job, asked_to_halt: Callable[[], bool] = never) -> Measurement | Halted:
        """Begin (or go on with) a trajectory and run it to its first rung."""
        trajectory = job.trajectory
        self._partial, state = (Partial(), None) if job.state is None else unwrap(job.state)
        self._trajectory = trajectory
        self._run = self._trainable.start(
            trajectory.params,
            (*trajectory.readouts, *trajectory.lattice),
            trajectory.seed,
            self._spec.devices,
            state,
        )
        return self.advance(job.to_step, asked_to_halt)

    def advance(self, to_step: int, asked_to_halt: Callable[[], bool] = never) -> Measurement | Halted:
        """Run on to a rung, or until ``asked_to_halt`` between two legs.

        Raises TrainableError if what comes back is not a measurement of the step that was asked for.
        """
        _, trajectory = self._held()
        for end in self._legs(to_step):
            leg = checked_measurement(self._advance(end, 1), end, 1)
            self._partial = self._partial.plus(leg)
            if leg.diverged:
                return self._measured(self._diverged(leg, to_step))
            if asked_to_halt():
                return Halted(self.take_state())
        num_readouts, cells = len(trajectory.readouts), len(trajectory.lattice)
        if cells and to_step < self._trainable.steps:
            return self._measured(checked_measurement(self._advance(to_step, num_readouts), to_step, num_readouts))
        return self._measured(checked_measurement(self._advance(to_step), to_step, num_readouts, cells))

    def take_state(self) -> bytes:
        """The whole state of the run, in an envelope."""
        state = self._held()[0].state()
        if not isinstance(state, bytes):
            raise TrainableError(f"state() is a {type(state).__name__}, but must be bytes")
        return wrap(self._partial, state)

    def release(self) -> None:
        """Forget the run."""
        self._run = None

    def _legs(self, to_step: int) -> range:
        """Where the run may be halted before ``to_step``."""
        every = getattr(self._trainable, "pause_every", None)
        if every is None or not (self._selective() or len(self._held()[1].readouts) == 1):
            return range(0)
        if type(every) is not int or every < 1:
            raise TrainableError(f"pause_every is {every!r}, but must be a whole number of at least 1")
        return range((self._partial.step // every + 1) * every, to_step, every)

    def _selective(self) -> bool:
        return scores_lattice(type(self._trainable))

    def _advance(self, to_step: int, num_scored: int | None = None) -> Any:
        run = self._held()[0]
        if num_scored is None or not self._selective():
            return run.advance(to_step)
        return cast("SelectiveRun", run).advance(to_step, num_scored)

    def _measured(self, last: Measurement) -> Measurement:
        """The rung's measurement: the legs' points and seconds, and the scores of the last leg."""
        whole = self._partial.plus(last)
        self._partial = Partial(last.step)
        return replace(last, curve=whole.curve, seconds=whole.seconds)

    def _diverged(self, leg: Measurement, to_step: int) -> Measurement:
        """What is told at a rung that the run will not reach: nothing there is a number."""
        trajectory, score = self._held()[1], Score(nan, nan)
        return Measurement(
            to_step,
            (CurvePoint(to_step, nan, score),),
            (score,) * len(trajectory.readouts),
            references=leg.references,
            lattice_scores=(score,) * len(trajectory.lattice) if to_step >= self._trainable.steps else (),
        )

    def _held(self) -> tuple[Run, Trajectory]:
        if self._run is None or self._trajectory is None:
            raise TrainableError("this worker holds no run, but must have started one")
        return self._run, self._trajectory


def checked_measurement(given: Any, to_step: int, num_readouts: int, num_cells: int = 0) -> Measurement:
    """Make sure of what a trainable reports, and take it into the sweep's own types (by attribute names).

    The scores are the trials' readouts', then those of the lattice's cells, if any were to be scored.

    Raises TrainableError naming what is wrong.
    """
    try:
        scores = _scores(given.scores)
        measurement = Measurement(
            step=int(given.step),
            curve=tuple(_point(point) for point in given.curve),
            scores=scores[:num_readouts],
            lattice_scores=scores[num_readouts:] if num_cells else (),
            seconds=float(given.seconds),
            test_scores=tuple(
                None if score is None else _score(score) for score in getattr(given, "test_scores", ())
            ),
            references={str(k): float(v) for k, v in getattr(given, "references", {}).items()},
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise TrainableError(f"advance({to_step}) gave no measurement: {error}") from error
    if measurement.step != to_step:
        raise TrainableError(f"measurement.step is {measurement.step}, but must be {to_step}, as asked")
    if len(scores) != num_readouts + num_cells:
        rule = f"must hold one a readout, {num_readouts + num_cells}"
        raise TrainableError(f"measurement.scores holds {len(scores)}, but {rule}")
    return measurement


def _point(given: Any) -> CurvePoint:
    score = None if given.score is None else _score(given.score)
    metrics = {str(key): float(value) for key, value in given.metrics.items()}
    return CurvePoint(int(given.step), float(given.train_loss), score, metrics)


def _scores(given: Iterable[Any]) -> tuple[Score, ...]:
    return tuple(_score(score) for score in given)


def _score(given: Any) -> Score:
    return Score(float(given.eval_loss), float(given.eval_accuracy))


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
