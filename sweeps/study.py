"""The Optuna study behind a sweep: ask, report, tell. The only place where the driver meets Optuna's storage.

All trials of a trajectory are ordinary Optuna trials with their own parameters, intermediate values, state and
value. What they are is decided in ``sweeps.proposals``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import isnan
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, create_trial
from optuna.trial import TrialState as OptunaState

from search_spaces import Space
from sweeps.errors import StorageError
from sweeps.lease import Lease
from sweeps.patient import PatientStorage
from sweeps.proposals import Proposer, SamplerSettings, suggest
from sweeps.records import (
    Measurement,
    Outcome,
    Params,
    ParamValue,
    Score,
    StoredTrial,
    Trajectory,
    TrialSpec,
    TrialState,
)
from sweeps.storage import create_trials, describe, flush, is_shared, later, try_flush
from sweeps.writer_lock import Holder

METRIC = "eval_loss"

_STATES = {
    OptunaState.RUNNING: TrialState.RUNNING,
    OptunaState.WAITING: TrialState.RUNNING,
    OptunaState.COMPLETE: TrialState.COMPLETE,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}
_OPTUNA_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}


def quiet() -> None:
    """Keep Optuna's own log lines off the terminal: the driver says what happens."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Grouped TPE and metric names have been "experimental" for years; the pinned version is what we test.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class Study:
    """One sweep's study. Its name is the sweep's, and never changes.

    What ``report`` and ``tell`` write may wait for ``flush``: the curves hold it before it is acted on.
    """

    def __init__(
        self, study: optuna.Study, space: Space, settings: SamplerSettings, baselines: Sequence[Params] = ()
    ) -> None:
        self._study = study
        self._storage = study._storage
        self._space = space
        self._settings = settings
        self._proposer = Proposer(space, settings, baselines)
        self._distributions = {p.name: p.distribution() for p in space.parameters}
        self._ids: dict[int, int] = {}
        self._reported: set[tuple[int, int]] = set()
        # What a restart found: trials that had ended while their siblings had not, and cells that became trials.
        self._ended: set[int] = set()
        self._promoted: set[tuple[int, int]] = set()
        self._lease: Lease | None = None

    @classmethod
    def create(
        cls,
        storage: BaseStorage,
        name: str,
        space: Space,
        settings: SamplerSettings,
        baselines: Sequence[Params] = (),
    ) -> Study:
        """A new study. ``baselines`` are tried first. Raises StorageError if the name is taken."""
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="minimize")
        except optuna.exceptions.DuplicatedStudyError as error:
            raise StorageError(f"name is {name!r}, but must be new in this storage") from error
        study.set_metric_names([METRIC])
        return cls(study, space, settings, baselines)

    @classmethod
    def load(
        cls,
        storage: BaseStorage,
        name: str,
        space: Space,
        settings: SamplerSettings,
        baselines: Sequence[Params] = (),
    ) -> Study:
        """The study that an earlier driver made. Raises StorageError if there is none."""
        try:
            study = optuna.load_study(storage=storage, study_name=name)
        except KeyError as error:
            raise StorageError(
                f"{describe(storage)} holds no study {name!r}, but must hold this sweep's"
            ) from error
        return cls(study, space, settings, baselines)

    @contextmanager
    def held_by(self, holder: Holder) -> Iterator[Study]:
        """Within: this driver alone writes the study, where others can reach it.

        Raises StorageError, naming the other driver, if one holds it.
        """
        if not is_shared(self._storage):
            yield self
            return
        with Lease(self._storage, self._study._study_id, holder) as self._lease:
            yield self
        self._lease = None

    def wait_by(self, wait: Callable[[float], None]) -> None:
        """Wait with ``wait`` (seconds) for a storage that went away; what it raises ends the waiting."""
        if isinstance(self._storage, PatientStorage):
            self._storage.wait = wait

    def ask(self, trajectory: int, max_trials: int | None = None) -> Trajectory:
        """Propose trajectory number ``trajectory``: one trial from the sampler, and its siblings.

        At most ``max_trials`` in all. They are RUNNING in the storage when this returns. Raises WriterLostError if
        another driver has taken over the study.
        """
        if self._lease is not None:
            self._lease.look()
        params = self._proposer.propose(trajectory)
        shared, readout = self._proposer.split(params)
        wanted = self._settings.readouts_per_trajectory
        wanted = wanted if max_trials is None else min(wanted, max_trials)
        readouts = [readout, *self._proposer.siblings(trajectory, shared, readout, wanted - 1)]
        return self._trajectory(trajectory, shared, tuple(self._make(trajectory, shared, readouts)))

    def report(self, trajectory: Trajectory, measurement: Measurement) -> None:
        """Report each readout's eval loss at this step to its own trial."""
        with later(self._storage):
            for spec, score in zip(trajectory.trials, measurement.scores, strict=True):
                if (spec.number, measurement.step) in self._reported or spec.number in self._ended:
                    continue  # A second attempt passes the rung again.
                self._reported.add((spec.number, measurement.step))
                trial_id = self._id(spec.number)
                self._storage.set_trial_intermediate_value(trial_id, measurement.step, score.eval_loss)

    def tell(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        measurement: Measurement | None,
        attributes: Mapping[str, ParamValue],
    ) -> None:
        """End all trials of a trajectory. ``attributes`` and the reason are kept as user attributes.

        A cell of the lattice that beats every sibling becomes a trial of its own.
        """
        known = {**attributes, "reason": outcome.reason}
        complete = outcome.state is TrialState.COMPLETE and measurement is not None
        scores: Sequence[Score | None] = measurement.scores if measurement else [None] * len(trajectory.trials)
        if complete and measurement and (cell := measurement.winning_cell) is not None:
            self._promote(trajectory, cell, measurement, known)
        with later(self._storage):
            for spec, score in zip(trajectory.trials, scores, strict=True):
                if spec.number not in self._ended:
                    self._end(spec.number, outcome.state, score, known)
        self._learn(trajectory, outcome.state, measurement)

    def _end(self, number: int, state: TrialState, score: Score | None, attributes: Params) -> None:
        trial_id = self._id(number)
        for key, attribute in attributes.items():
            self._storage.set_trial_user_attr(trial_id, key, attribute)
        # As Study.tell does: a pruned trial's value is its last intermediate one, and no value is a failure.
        value = None if state is TrialState.FAILED or score is None or isnan(score.eval_loss) else score.eval_loss
        ended = OptunaState.FAIL if value is None and state is TrialState.COMPLETE else _OPTUNA_STATES[state]
        self._storage.set_trial_state_values(trial_id, ended, None if value is None else [value])
        del self._ids[number]

    def flush(self) -> None:
        """Make all reports and ends durable; waits for a storage that went away."""
        self._check_lease()
        flush(self._storage)

    def try_flush(self) -> None:
        """Make all reports and ends durable, unless the storage went away: then they go on waiting."""
        self._check_lease()
        try_flush(self._storage)

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def stored_trials(self) -> list[StoredTrial]:
        """All trials that have begun, in the order of their numbers."""
        return [
            StoredTrial(
                number=trial.number,
                trajectory=trial.user_attrs["trajectory"],
                state=_STATES[trial.state],
                params=trial.params,
                value=trial.value if trial.state is OptunaState.COMPLETE else None,
                cell=trial.user_attrs.get("cell"),
            )
            for trial in self._study.get_trials(deepcopy=False)
            if "trajectory" in trial.user_attrs
        ]

    def recall(self) -> None:
        """Learn from what earlier drivers ran, and take up what they left RUNNING."""
        groups: dict[int, list[FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if "cell" in trial.user_attrs:
                self._promoted.add((trial.user_attrs["trajectory"], trial.user_attrs["cell"]))
            elif "trajectory" in trial.user_attrs:
                groups.setdefault(trial.user_attrs["trajectory"], []).append(trial)
        self._proposer.passed(len(groups))
        for number, trials in sorted(groups.items()):
            if any(trial.state is OptunaState.RUNNING for trial in trials):
                self._proposer.began(number, trials[0].params)
                continue
            scored = [
                (self._proposer.split(trial.params)[1], trial.intermediate_values[max(trial.intermediate_values)])
                for trial in trials
                if trial.intermediate_values
            ]
            step = max((max(trial.intermediate_values, default=0) for trial in trials), default=0)
            shared = self._proposer.split(trials[0].params)[0]
            self._proposer.ended(number, _STATES[trials[0].state], step, shared, scored)

    def running_trajectories(self, max_trials: int | None = None) -> list[Trajectory]:
        """The trajectories that an earlier driver left RUNNING, in the order of their numbers.

        One whose asking was cut short is given the siblings that it lacks, within ``max_trials`` of the whole
        study.
        """
        groups: dict[int, list[FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state is OptunaState.RUNNING and "trajectory" not in trial.user_attrs:
                # Somebody else asked for it, or an older driver died while asking: nothing was ever run for it.
                self._study.tell(trial.number, state=OptunaState.FAIL)
            elif "cell" not in trial.user_attrs and "trajectory" in trial.user_attrs:
                groups.setdefault(trial.user_attrs["trajectory"], []).append(trial)
        left = None if max_trials is None else max_trials - sum(map(len, groups.values()))
        return [
            self._completed(self._taken_up(number, trials), left)
            for number, trials in sorted(groups.items())
            if any(trial.state is OptunaState.RUNNING for trial in trials)
        ]

    def _completed(self, trajectory: Trajectory, left: int | None) -> Trajectory:
        """All siblings are made before anything is run, so one that lacks some was never run."""
        present = trajectory.readouts
        wanted = self._settings.readouts_per_trajectory - len(present)
        wanted = wanted if left is None else min(wanted, left)
        if wanted <= 0:
            return trajectory
        number, shared = trajectory.number, trajectory.params
        proposed = self._proposer.siblings(number, shared, present[0], len(present) + wanted - 1)
        missing = [readout for readout in proposed if readout not in present][:wanted]
        specs = self._make(number, shared, missing) if missing else []
        return self._trajectory(number, shared, (*trajectory.trials, *specs))

    def trajectory(self, number: int) -> Trajectory:
        """Trajectory ``number`` with all its trials but one made of a lattice's cell. Raises KeyError."""
        trials = [t for t in self.stored_trials() if t.trajectory == number and t.cell is None]
        if not trials:
            raise KeyError(number)
        split = [self._proposer.split(trial.params) for trial in trials]
        specs = tuple(TrialSpec(t.number, readout) for t, (_, readout) in zip(trials, split, strict=True))
        return self._trajectory(number, split[0][0], specs)

    def delete(self) -> None:
        """Take back a study that was just created: the sweep never began."""
        optuna.delete_study(study_name=self._study.study_name, storage=self._storage)

    def _trajectory(self, number: int, shared: Params, specs: tuple[TrialSpec, ...]) -> Trajectory:
        lattice = self._proposer.lattice(shared, [spec.readout for spec in specs])
        return Trajectory(number, shared, specs, self._proposer.seed(number), lattice)

    def _taken_up(self, number: int, trials: Sequence[FrozenTrial]) -> Trajectory:
        """Rebuild a trajectory from its trials; parameters missing because asking was cut short are drawn now."""
        specs: list[TrialSpec] = []
        shared: dict[str, ParamValue] = {}
        for stored in trials:
            self._reported |= {(stored.number, step) for step in stored.intermediate_values}
            self._ended |= set() if stored.state is OptunaState.RUNNING else {stored.number}
            params = stored.params
            if stored.state is OptunaState.RUNNING:
                trial = Trial(self._study, stored._trial_id)
                params = self._space.sample(partial(suggest, trial))
            shared, readout = self._proposer.split(params)
            specs.append(TrialSpec(stored.number, readout))
        return self._trajectory(number, shared, tuple(specs))

    def _make(self, trajectory: int, shared: Params, readouts: Sequence[Params]) -> list[TrialSpec]:
        """RUNNING trials of a trajectory, one a readout."""
        attributes = {"trajectory": trajectory}
        new = [self._frozen({**shared, **each}, attributes, state=OptunaState.RUNNING) for each in readouts]
        return [TrialSpec(number, each) for number, each in zip(self._create(new), readouts, strict=True)]

    def _learn(self, trajectory: Trajectory, state: TrialState, measurement: Measurement | None) -> None:
        scores = measurement.scores if measurement else ()
        scored = [(spec.readout, score.eval_loss) for spec, score in zip(trajectory.trials, scores, strict=False)]
        step = measurement.step if measurement else 0
        self._proposer.ended(trajectory.number, state, step, trajectory.params, scored)

    def _promote(
        self, trajectory: Trajectory, cell: int, measurement: Measurement, attributes: Mapping[str, ParamValue]
    ) -> None:
        if (trajectory.number, cell) in self._promoted:
            return  # An earlier driver died between this and the siblings' end.
        loss = measurement.lattice_scores[cell].eval_loss
        params = {**trajectory.params, **trajectory.lattice[cell]}
        more = {"value": loss, "intermediate_values": {measurement.step: loss}}
        marks = {"trajectory": trajectory.number, "cell": cell, **attributes}
        self._create([self._frozen(params, marks, state=OptunaState.COMPLETE, **more)])

    def _frozen(self, params: Params, attributes: Params, **more: Any) -> FrozenTrial:
        distributions = {name: self._distributions[name] for name in params}
        return create_trial(params=dict(params), distributions=distributions, user_attrs=dict(attributes), **more)

    def _create(self, trials: Sequence[FrozenTrial]) -> list[int]:
        """Study.add_trial does the same, but keeps the new numbers to itself."""
        ids = create_trials(self._storage, self._study._study_id, trials)
        numbers = [self._storage.get_trial_number_from_id(trial_id) for trial_id in ids]
        self._ids.update(zip(numbers, ids, strict=True))
        return numbers

    def _id(self, number: int) -> int:
        if number not in self._ids:
            self._ids[number] = self._storage.get_trial_id_from_study_id_trial_number(
                self._study._study_id, number
            )
        return self._ids[number]


__all__ = ["METRIC", "SamplerSettings", "Study", "quiet"]
