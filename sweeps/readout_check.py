"""Does a trainable keep its word that its readouts leave the weights' path alone?

Sharing one training run between trials is honest only if readout parameters change nothing but how the result is
read. ``towersweep doctor`` puts that to the test before a sweep relies on it: short runs in this process that
differ in nothing but their readouts must have the same training loss, bit for bit.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite, isnan
from typing import Any

from search_spaces import Categorical, Parameter, ParamValue, Space
from sweeps import config
from sweeps.backends.worker import checked_measurement, to_failure
from sweeps.errors import TrainableError
from sweeps.progress import describe
from sweeps.trainable import Devices, Trainable, load_trainable

NUM_STEPS = 20
NUM_DRAWS = 64

Assignment = Mapping[str, ParamValue]
Curve = Mapping[int, float]


@dataclass(frozen=True)
class Difference:
    """The first step at which two curves of training loss part, and the losses (nats) there.

    A loss is None where that curve has no point at the step.
    """

    step: int
    first: float | None
    second: float | None

    def __str__(self) -> str:
        return f"{_shown(self.first)} and {_shown(self.second)} at step {self.step}"


@dataclass(frozen=True)
class Culprit:
    """A readout parameter that changes training: the losses with its first value and with its last one."""

    parameter: str
    difference: Difference


@dataclass(frozen=True)
class ReadoutCheck:
    """What was found. ``steps``: how far the runs were to go; 0 if there was nothing to run.

    ``checked`` and ``unchecked`` are the readout parameters of the space; one with a single value has nothing to
    be checked, and is in neither. ``problem`` says in a line why the check is no proof: the trainable is not
    deterministic, fails, or lets its training depend on how many readouts there are.
    """

    steps: int = 0
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    culprits: tuple[Culprit, ...] = ()
    problem: str | None = None

    @property
    def identical(self) -> bool:
        """Whether everything that was compared, if anything was, is the same."""
        return not self.culprits and self.problem is None

    def facts(self) -> dict[str, Any]:
        """For JSON, which has no NaN: a loss that is not finite, or not there, is None."""
        return {
            "checked": list(self.checked),
            "unchecked": list(self.unchecked),
            "steps": self.steps,
            "identical": self.identical,
            "culprits": [
                {
                    "parameter": culprit.parameter,
                    "step": culprit.difference.step,
                    "first": _finite(culprit.difference.first),
                    "second": _finite(culprit.difference.second),
                }
                for culprit in self.culprits
            ],
            "problem": self.problem,
        }


@dataclass(frozen=True)
class Pair:
    """Two assignments that differ in ``varied``, and beyond that only in what the varied values make active."""

    first: Assignment
    last: Assignment
    varied: tuple[str, ...]


def check_readouts(settings: config.Sweep, devices: Devices) -> ReadoutCheck:
    """Train a few steps with the first and with the last value of every readout parameter, and compare.

    Imports the trainable's libraries and trains in this process, unless the space has no readout parameter. An
    error of the trainable, whatever it is, becomes the ``problem``.
    """
    space = settings.space
    wanted = _readouts_to_vary(space)
    if not wanted:
        return ReadoutCheck()
    trainable = load_trainable(settings.trainable)(settings.settings)
    runs = _Runs(trainable, space, settings.search.seed, devices)
    checked: list[str] = []
    culprits: list[Culprit] = []
    problem = None
    try:
        for pair in plan(space, trainable):
            culprits += _culprits(runs, space, pair)
            checked += pair.varied
    except Exception as error:  # noqa: BLE001  A trainable may raise anything; it becomes a finding.
        problem = to_failure(error).message
    unchecked = tuple(name for name in wanted if name not in checked)
    steps = runs.steps if checked or problem else 0
    return ReadoutCheck(steps, tuple(checked), unchecked, tuple(culprits), problem)


def plan(space: Space, trainable: Trainable) -> list[Pair]:
    """Few pairs that between them vary every readout parameter that has more than one value.

    Each pair varies as many as are active together and not yet varied. One that is never seen active, or only in
    assignments that the trainable refuses, is in no pair.
    """
    remaining = _readouts_to_vary(space)
    candidates = list(_candidates(space))
    found: list[Pair] = []
    while remaining:
        # Each alone as well: what cannot be run together may be run by itself.
        choices = [remaining, *([name] for name in remaining)]
        pairs = [_pair(space, candidate, names) for names in choices for candidate in candidates]
        most_first = sorted((pair for pair in pairs if pair.varied), key=lambda pair: -len(pair.varied))
        best = next((pair for pair in most_first if _can_run(trainable, pair.first, pair.last)), None)
        if best is None:
            break
        found.append(best)
        remaining = [name for name in remaining if name not in best.varied]
    return found


def first_difference(first: Curve, second: Curve) -> Difference | None:
    """Where two curves part, a missing point included; None if they are the same. NaN equals NaN."""
    for step in sorted({*first, *second}):
        one, other = first.get(step), second.get(step)
        if not _same(one, other):
            return Difference(step, one, other)
    return None


class _Runs:
    """Short runs of one trainable in turn, as a warm worker has them. Each is remembered.

    Only the training loss is kept. The scores and further metrics may depend on readouts: that is what readouts
    are for. Others tell of the machine, such as its speed.
    """

    def __init__(self, trainable: Trainable, space: Space, seed: int, devices: Devices) -> None:
        self._trainable, self._space, self._seed, self._devices = trainable, space, seed, devices
        self._curves: dict[str, Curve] = {}
        self.steps = min(trainable.steps, NUM_STEPS)

    def can_have(self, assignment: Assignment) -> bool:
        """Whether the trainable takes these parameters."""
        return _can_run(self._trainable, assignment)

    def curve(self, *assignments: Assignment) -> Curve:
        """Training loss (nats) by step, of a run that has the readouts of all ``assignments``, one each.

        Raises TrainableError, whatever the trainable raises.
        """
        key = repr([sorted(assignment.items()) for assignment in assignments])
        if key not in self._curves:
            self._curves[key] = self._fresh(*assignments)
        return self._curves[key]

    def require_same_again(self, *runs: tuple[Assignment, ...]) -> None:
        """Raise TrainableError if one of the runs, done again, differs: then no other difference counts."""
        for assignments in runs:
            difference = first_difference(self.curve(*assignments), self._fresh(*assignments))
            if difference is not None:
                raise TrainableError(
                    "the trainable is not deterministic, so that nothing can be said of its readouts: the same "
                    f"parameters, readouts and seed gave train_loss {difference}"
                )

    def _fresh(self, *assignments: Assignment) -> Curve:
        try:
            return self._train(*assignments)
        except Exception as error:
            params = "; ".join(describe(assignment) for assignment in assignments)
            raise TrainableError(f"{to_failure(error).message} (with {params})") from error

    def _train(self, *assignments: Assignment) -> Curve:
        params = self._of_role("trajectory", assignments[0])
        readouts = [self._of_role("readout", assignment) for assignment in assignments]
        run = self._trainable.start(params, readouts, self._seed, self._devices, None)
        curve: dict[int, float] = {}
        # Two rungs, as scoring the first one must not touch what is trained further.
        for rung in sorted({max(1, self.steps // 2), self.steps}):
            measurement = checked_measurement(run.advance(rung), rung, len(readouts))
            curve |= {point.step: point.train_loss for point in measurement.curve}
            if measurement.diverged:  # A sweep trains no further either.
                break
        return curve

    def _of_role(self, role: str, assignment: Assignment) -> dict[str, ParamValue]:
        return {name: value for name, value in assignment.items() if self._space.roles[name] == role}


def _culprits(runs: _Runs, space: Space, pair: Pair) -> list[Culprit]:
    """The readout parameters of a pair that change training.

    Raises TrainableError where the trainable fails, is not deterministic, or depends on something else.
    """
    if first_difference(runs.curve(pair.first), runs.curve(pair.last)) is None:
        _require_shareable(runs, pair)
        return []
    runs.require_same_again((pair.first,), (pair.last,))
    found = _alone(runs, space, pair, pair.first, pair.last) or _alone(runs, space, pair, pair.last, pair.first)
    if not found:
        names = ", ".join(pair.varied)
        raise TrainableError(f"training depends on the readouts {names}, but on none of them by itself")
    return found


def _alone(runs: _Runs, space: Space, pair: Pair, base: Assignment, other: Assignment) -> list[Culprit]:
    """Those that change training when they alone go from ``base`` to ``other``."""
    found = []
    for name in pair.varied:
        changed = _assign(space, {**base, name: other[name]})
        if not runs.can_have(changed):
            continue
        ends = (base, changed) if base is pair.first else (changed, base)
        difference = first_difference(*map(runs.curve, ends))
        if difference is not None:
            found.append(Culprit(name, difference))
    return found


def _require_shareable(runs: _Runs, pair: Pair) -> None:
    """Raise TrainableError unless one run can have both readouts and train as with one of them."""
    difference = first_difference(runs.curve(pair.first), runs.curve(pair.first, pair.last))
    if difference is not None:
        runs.require_same_again((pair.first,), (pair.first, pair.last))
        raise TrainableError(
            f"training depends on how many readouts a run has: one and two of them gave train_loss {difference}"
        )


def _readouts_to_vary(space: Space) -> list[str]:
    return [p.name for p in space.parameters if space.roles[p.name] == "readout" and len(p.extremes) > 1]


def _candidates(space: Space) -> Iterator[dict[str, ParamValue]]:
    """Assignments to vary readouts in: the space's probes, and draws for what no probe makes active together.

    Ranges that the weights' path depends on are in the middle, if that can be run, and at an end if not: at an
    end, such as a learning rate of 0, what a readout does to training might not show.
    """
    rng = random.Random(0)
    draws = (space.sample(lambda parameter: rng.choice(parameter.extremes)) for _ in range(NUM_DRAWS))
    parents = {parent for parameter in space.parameters for parent in parameter.when}
    for drawn in (*space.probes(), *draws):
        middles = {
            parameter.name: parameter.at(0.5)
            for parameter in space.parameters
            if parameter.name in drawn
            and parameter.name not in parents
            and space.roles[parameter.name] == "trajectory"
            and not isinstance(parameter, Categorical)
        }
        yield {**drawn, **middles}
        yield drawn


def _pair(space: Space, candidate: Assignment, remaining: Collection[str]) -> Pair:
    """A pair that varies those of ``remaining`` that are active in ``candidate``.

    A readout that others depend on stays as it is if varying it would make them inactive, unless it is all there
    is to vary: its own effect and theirs could not be told apart.
    """
    active = [parameter for parameter in space.parameters if parameter.name in candidate]
    here = [parameter for parameter in active if parameter.name in remaining]
    free = [parameter for parameter in here if not _switches(parameter, active)]
    varied = free or here
    first = _assign(space, {**candidate, **{parameter.name: parameter.extremes[0] for parameter in varied}})
    last = _assign(space, {**candidate, **{parameter.name: parameter.extremes[-1] for parameter in varied}})
    # Of two that switch each other off, only the one that is there on both sides was varied.
    return Pair(
        first, last, tuple(parameter.name for parameter in varied if parameter.name in first.keys() & last)
    )


def _switches(parameter: Parameter, active: Collection[Parameter]) -> bool:
    """Whether one of the ``active`` would not be so at both ends of ``parameter``."""
    ends = {parameter.extremes[0], parameter.extremes[-1]}
    return any(not ends <= set(child.when.get(parameter.name, ends)) for child in active)


def _assign(space: Space, wanted: Assignment) -> dict[str, ParamValue]:
    """The ``wanted`` values where active, and the first possible one where nothing is wanted."""
    return space.sample(lambda parameter: wanted.get(parameter.name, parameter.extremes[0]))


def _can_run(trainable: Trainable, *assignments: Assignment) -> bool:
    try:
        for assignment in assignments:
            trainable.check(assignment)
    except ValueError:
        return False
    return True


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return one == other or (isnan(one) and isnan(other))


def _shown(loss: float | None) -> str:
    return "no point" if loss is None else repr(loss)


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and isfinite(loss) else None
