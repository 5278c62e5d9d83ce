"""What to try next: a trajectory from the sampler, and the readouts that share it. Knows Optuna, but no storage.

Two models, both Optuna's own samplers over studies in memory. One sees each trajectory once, at its best readout:
siblings would only repeat a trajectory's parameters, and make its neighbourhood look eight times as promising. The
other sees each readout by its rank among its siblings, which leaves out how good the trajectory was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, cast

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, Trial, create_trial
from optuna.trial import TrialState as OptunaState

from search_spaces import Categorical, Float, Int, Parameter, Space
from sweeps.records import Params, ParamValue, TrialState

# Before so many trajectories have ended there is too little to model.
STARTUP_TRAJECTORIES = 8
# The readouts' model looks at so many trajectories at the most, the latest: proposing stays as quick as it was.
WINDOW_TRAJECTORIES = 16
# Points of the low-discrepancy sequence that may be passed over, for each that is wanted, as already taken.
MAX_DRAWS_PER_READOUT = 40
# A lattice of readouts with more cells than this is not scored.
MAX_CELLS = 64
# Whole numbers that span no more than this are a lattice's values as choices are.
MAX_VALUES = 16

HISTORY_FREE = frozenset({"random"})


@dataclass(frozen=True)
class SamplerSettings:
    """How trajectories are proposed. ``seed`` and what has ended fix the proposals.

    ``lattice``: whether the trainable scores a lattice of readouts.
    """

    name: str = "tpe"
    seed: int = 0
    readouts_per_trajectory: int = 8
    lattice: bool = False


class Proposer:
    """Proposes trajectories and their readouts, and learns from how they ended."""

    def __init__(self, space: Space, settings: SamplerSettings, baselines: Sequence[Params] = ()) -> None:
        self._space = space
        self._settings = settings
        self._baselines = list(baselines)
        self._whole = _scratch_study()
        self._numbers: dict[int, int] = {}
        self._readouts: dict[frozenset[str], _ReadoutModel] = {}
        self._ended = 0

    def propose(self, trajectory: int) -> dict[str, ParamValue]:
        """All parameters of trajectory number ``trajectory``'s first trial."""
        if self._settings.name in HISTORY_FREE:
            self._whole = _scratch_study()
        if trajectory < len(self._baselines):
            self._whole.enqueue_trial(dict(self._baselines[trajectory]))
        self._whole.sampler = _make_sampler(self._settings, trajectory)
        trial = self._whole.ask()
        self._numbers[trajectory] = trial.number
        return self._space.sample(partial(suggest, trial))

    def siblings(self, trajectory: int, shared: Params, first: Params, wanted: int) -> list[dict[str, ParamValue]]:
        """Up to ``wanted`` readouts beside ``first``, no two the same, that trajectory parameters allow."""
        if not first:
            return []
        taken: list[Params] = [first]
        model = self._readouts.get(frozenset(first))
        if self._settings.name not in ("random", "qmc") and model and model.num_observed >= STARTUP_TRAJECTORIES:
            taken += model.propose(shared, taken, wanted, self._seed(trajectory, 2))
        taken += self._spread(trajectory, shared, taken, wanted + 1 - len(taken))
        return [dict(readout) for readout in taken[1:]]

    def lattice(self, shared: Params, readouts: Sequence[Params]) -> tuple[dict[str, ParamValue], ...]:
        """The other cells of the lattice of readout values that ``readouts`` are cells of.

        The values are all choices of a parameter, or, where it is continuous, those that ``readouts`` hold. Empty
        where the trainable scores none, or where there would be more than MAX_CELLS.
        """
        if not self._settings.lattice:
            return ()
        values = {
            parameter.name: _lattice_values(parameter, readouts)
            for parameter in self._space.parameters
            if self._space.roles[parameter.name] == "readout"
        }
        names = [name for name in values if any(name in readout for readout in readouts)]
        if not names or np.prod([len(values[name]) for name in names]) > MAX_CELLS:
            return ()
        cells = (self.split(params)[1] for params in self._space.assignments(shared, values))
        return tuple(cell for cell in cells if cell not in readouts)

    def split(self, params: Params) -> tuple[dict[str, ParamValue], dict[str, ParamValue]]:
        """Trajectory parameters, and the readout."""
        roles = self._space.roles
        shared = {name: value for name, value in params.items() if roles[name] == "trajectory"}
        return shared, {name: value for name, value in params.items() if roles[name] == "readout"}

    def passed(self, trajectories: int) -> None:
        """Earlier drivers proposed so many: a low-discrepancy sequence goes on after them."""
        if self._settings.name == "qmc":
            for number in range(trajectories):
                self.propose(number)
                self._whole.tell(self._numbers.pop(number), state=OptunaState.FAIL)

    def began(self, trajectory: int, params: Params) -> None:
        """A trajectory is under way that an earlier driver proposed; ``params`` are its first trial's."""
        if self._settings.name not in HISTORY_FREE:
            trial = self._frozen(params, OptunaState.RUNNING)
            self._whole.add_trial(trial)
            self._numbers[trajectory] = len(self._whole.get_trials(deepcopy=False)) - 1

    def ended(
        self,
        trajectory: int,
        state: TrialState,
        step: int,
        shared: Params,
        scored: Sequence[tuple[Params, float]],
    ) -> None:
        """A trajectory ended after ``step`` steps, with these readouts and losses; none if it failed."""
        self._ended += 1
        number = self._numbers.pop(trajectory, None)
        if self._settings.name in HISTORY_FREE:
            return
        if number is not None:
            self._whole.tell(number, state=OptunaState.FAIL)  # What it was asked as; its end is added below.
        finite = [(loss, index) for index, (_, loss) in enumerate(scored) if isfinite(loss)]
        if state is TrialState.FAILED or not scored:
            return
        best = scored[min(finite)[1]][0] if finite else scored[0][0]
        loss = min(finite)[0] if finite else None
        complete = state is TrialState.COMPLETE and loss is not None
        self._whole.add_trial(
            self._frozen(
                {**shared, **best},
                OptunaState.COMPLETE if complete else OptunaState.PRUNED,
                value=loss if complete else None,
                intermediate_values={} if loss is None else {step: loss},
            )
        )
        self._learn_readouts(scored, [loss for loss, _ in finite])

    def seed(self, trajectory: int) -> int:
        """Of the trajectory itself."""
        return self._seed(trajectory)

    def _seed(self, *path: int) -> int:
        return int(np.random.SeedSequence((self._settings.seed, *path)).generate_state(1)[0])

    def _learn_readouts(self, scored: Sequence[tuple[Params, float]], finite: Sequence[float]) -> None:
        if len(finite) < 2 or not scored[0][0]:
            return
        names = frozenset(scored[0][0])
        if names not in self._readouts:
            self._readouts[names] = _ReadoutModel(self._space)
        losses = sorted(finite)
        ranks = [(readout, losses.index(loss) / (len(losses) - 1)) for readout, loss in scored if isfinite(loss)]
        trials = [self._frozen(readout, OptunaState.COMPLETE, value=rank) for readout, rank in ranks]
        self._readouts[names].observe(trials)

    def _spread(self, trajectory: int, shared: Params, taken: Sequence[Params], wanted: int) -> list[Params]:
        """Readouts spread evenly: the next points of a Kronecker sequence over the sweep's trajectories."""
        names = [p.name for p in self._space.parameters if self._space.roles[p.name] == "readout"]
        first = trajectory * self._settings.readouts_per_trajectory
        found: list[Params] = []
        numbers, seed = range(first, first + MAX_DRAWS_PER_READOUT * wanted), self._seed(0, 3)
        for point in kronecker_points(numbers, len(names), seed):
            readout = self._readout_at(shared, dict(zip(names, point.tolist(), strict=True)))
            if readout not in taken and readout not in found:
                found.append(readout)
            if len(found) == wanted:
                break
        return found

    def _readout_at(self, shared: Params, shares: Mapping[str, float]) -> Params:
        """The readout at a point of the unit cube."""
        params = self._space.sample(lambda p: shared[p.name] if p.name in shared else p.at(shares[p.name]))
        return self.split(params)[1]

    def _frozen(self, params: Params, state: OptunaState, **more: Any) -> FrozenTrial:
        by_name = {p.name: p.distribution() for p in self._space.parameters if p.name in params}
        return create_trial(state=state, params=dict(params), distributions=by_name, **more)


class _ReadoutModel:
    """TPE over the readouts of trajectories that have the same ones, each by its rank: 0 best, 1 worst."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._observed: list[list[FrozenTrial]] = []
        self._study = _scratch_study()

    @property
    def num_observed(self) -> int:
        """Trajectories in the window."""
        return len(self._observed)

    def observe(self, trials: list[FrozenTrial]) -> None:
        """A trajectory's readouts; the oldest leave the window, a half at a time."""
        self._observed.append(trials)
        if len(self._observed) <= WINDOW_TRAJECTORIES:
            self._study.add_trials(trials)
            return
        self._observed = self._observed[-WINDOW_TRAJECTORIES // 2 :]
        self._study = _scratch_study()
        for kept in self._observed:
            self._study.add_trials(kept)

    def propose(self, shared: Params, taken: Sequence[Params], wanted: int, seed: int) -> list[Params]:
        """At most ``wanted`` readouts that are not ``taken``; what was proposed pushes the next ones away."""
        self._study.sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constant_liar=True, n_startup_trials=1
        )
        found: list[Params] = []
        asked = []
        for _ in range(wanted):
            trial = self._study.ask()
            asked.append(trial.number)
            params = self._space.sample(partial(_suggest_unless_fixed, trial, shared))
            readout = {name: value for name, value in params.items() if name not in shared}
            if readout not in found and readout not in taken:
                found.append(readout)
        for number in asked:
            self._study.tell(number, state=OptunaState.FAIL)
        return found


def kronecker_points(numbers: range, dimensions: int, seed: int) -> NDArray[np.float64]:
    """[numbers, dimensions]: points of a low-discrepancy sequence in the unit cube, shifted as ``seed`` says.

    Each coordinate goes round by a constant step, 1/g, 1/g^2, ...; g > 1 solves g^(dimensions + 1) = g + 1, which
    makes it the golden ratio for one dimension (the R sequence of Roberts, 2018). SciPy's sequences would do as
    well, but SciPy's statistics take longer to import than all else that a sweep's first proposal needs.
    """
    (g,) = (root.real for root in np.roots([1, *[0] * (dimensions - 1), -1, -1]) if root.real > 1)
    steps: NDArray[np.float64] = g ** -np.arange(1.0, dimensions + 1)
    return (np.random.default_rng(seed).random(dimensions) + np.outer(numbers, steps)) % 1


def suggest(trial: Trial, parameter: Parameter) -> ParamValue:
    """What a trial's sampler proposes for a parameter."""
    if isinstance(parameter, Float):
        return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Categorical):
        # One of the choices, none of which is None, as Optuna's type allows.
        return cast(ParamValue, trial.suggest_categorical(parameter.name, parameter.choices))
    return trial.suggest_int(parameter.name, parameter.low, parameter.high, log=parameter.log)


def _suggest_unless_fixed(trial: Trial, fixed: Params, parameter: Parameter) -> ParamValue:
    return fixed[parameter.name] if parameter.name in fixed else suggest(trial, parameter)


def _lattice_values(parameter: Parameter, readouts: Sequence[Params]) -> tuple[ParamValue, ...]:
    if isinstance(parameter, Categorical):
        return parameter.choices
    if isinstance(parameter, Int) and parameter.high - parameter.low < MAX_VALUES:
        return tuple(range(parameter.low, parameter.high + 1))
    return tuple(sorted({readout[parameter.name] for readout in readouts if parameter.name in readout}))


def _scratch_study() -> optuna.Study:
    return optuna.create_study(storage=InMemoryStorage())


def _make_sampler(settings: SamplerSettings, trajectory: int) -> optuna.samplers.BaseSampler:
    """A fresh sampler a trajectory: its proposals depend on the seed, the number and the history alone."""
    seed = int(np.random.SeedSequence((settings.seed, trajectory, 1)).generate_state(1)[0])
    if settings.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.name == "qmc":  # A sequence: all its points come from one seed, numbered in the study.
        return optuna.samplers.QMCSampler(seed=settings.seed, warn_independent_sampling=False)
    if settings.name == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP_TRAJECTORIES)
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, group=True, constant_liar=True, n_startup_trials=STARTUP_TRAJECTORIES
    )
