"""The Optuna study behind a sweep: ask, report, tell. The only place where the driver meets Optuna.

A trajectory is one ``ask``; its siblings are added beside it, as RUNNING trials with the same trajectory
parameters and other readouts. All are ordinary Optuna trials.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, create_trial
from optuna.trial import TrialState as OptunaState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from search_spaces import Categorical, Float, Parameter, Space
from sweeps.errors import StorageError
from sweeps.records import (
    Measurement,
    Outcome,
    Params,
    ParamValue,
    StoredTrial,
    Trajectory,
    TrialSpec,
    TrialState,
)

PASSWORD_VARIABLE = "TOWERSWEEP_STORAGE_PASSWORD"
METRIC = "eval_loss"

# Siblings share a training run, so ten start-up trials would be one or two trajectories: count trajectories.
STARTUP_TRAJECTORIES = 8

# Distinct readouts are drawn at random; a small lattice runs out of new ones, and then fewer are used.
MAX_DRAWS_PER_READOUT = 40

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


@dataclass(frozen=True)
class SamplerSettings:
    """How trajectories are proposed. ``seed`` and the number already asked for fix the proposals."""

    name: str = "tpe"
    seed: int = 0
    readouts_per_trajectory: int = 8


def quiet() -> None:
    """Keep Optuna's own log lines off the terminal: the driver says what happens."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Grouped TPE and metric names have been "experimental" for years; the pinned version is what we test.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(url: str, journal: Path) -> BaseStorage:
    """The storage at ``url``, or the embedded journal file if ``url`` is empty.

    The password may come from the environment variable TOWERSWEEP_STORAGE_PASSWORD. Raises StorageError, whose
    message never holds a password.
    """
    if not url:
        return JournalStorage(JournalFileBackend(str(journal)))
    rule = "an Optuna storage that can be opened"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StorageError(
            "storage.url cannot be read, but must be like postgresql+psycopg://host/name"
        ) from error
    password = os.environ.get(PASSWORD_VARIABLE)
    if password and parsed.password is None and parsed.username:
        parsed = parsed.set(password=password)
    shown = parsed.render_as_string(hide_password=True)
    try:
        return RDBStorage(parsed.render_as_string(hide_password=False))
    except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
        cause = str(getattr(error, "orig", None) or error).splitlines()[0]
        if parsed.password:
            cause = cause.replace(str(parsed.password), "***")
        raise StorageError(f"storage.url is {shown!r}, but must be {rule} ({cause})") from None


class Study:
    """One sweep's study. Its name is the sweep's, and never changes."""

    def __init__(self, study: optuna.Study, space: Space, settings: SamplerSettings) -> None:
        self._study = study
        self._space = space
        self._settings = settings
        self._ids: dict[int, int] = {}
        self._reported: set[tuple[int, int]] = set()

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
        for params in baselines:
            study.enqueue_trial(dict(params))
        return cls(study, space, settings)

    @classmethod
    def load(cls, storage: BaseStorage, name: str, space: Space, settings: SamplerSettings) -> Study:
        """The study that an earlier driver made. Raises StorageError if there is none."""
        try:
            study = optuna.load_study(storage=storage, study_name=name)
        except KeyError as error:
            raise StorageError(f"storage holds no study {name!r}, but must hold this sweep's") from error
        return cls(study, space, settings)

    def ask(self, trajectory: int) -> Trajectory:
        """Propose trajectory number ``trajectory``: one trial from the sampler, and its siblings."""
        self._study.sampler = _make_sampler(self._settings, trajectory)
        trial = self._study.ask()
        trial.set_user_attr("trajectory", trajectory)
        params = self._space.sample(partial(_suggest, trial))
        self._ids[trial.number] = trial._trial_id
        shared, readout = self._split(params)
        specs = [TrialSpec(trial.number, readout)]
        for sibling in self._sibling_readouts(shared, readout, trajectory):
            specs.append(TrialSpec(self._add_sibling({**shared, **sibling}, trajectory), sibling))
        return Trajectory(trajectory, shared, tuple(specs), self._seed(trajectory))

    def report(self, trajectory: Trajectory, measurement: Measurement) -> None:
        """Report each readout's eval loss at this step to its own trial."""
        for spec, score in zip(trajectory.trials, measurement.scores, strict=True):
            if (spec.number, measurement.step) in self._reported:
                continue  # A second attempt passes the rung again.
            self._reported.add((spec.number, measurement.step))
            trial_id = self._id(spec.number)
            self._study._storage.set_trial_intermediate_value(trial_id, measurement.step, score.eval_loss)

    def tell(
        self,
        trajectory: Trajectory,
        outcome: Outcome,
        measurement: Measurement | None,
        attributes: Mapping[str, ParamValue],
    ) -> None:
        """End all trials of a trajectory. ``attributes`` and the reason are kept as user attributes."""
        for index, spec in enumerate(trajectory.trials):
            trial_id = self._id(spec.number)
            for key, attribute in {**attributes, "reason": outcome.reason}.items():
                self._study._storage.set_trial_user_attr(trial_id, key, attribute)
            complete = outcome.state is TrialState.COMPLETE and measurement is not None
            value = measurement.scores[index].eval_loss if complete and measurement else None
            self._study.tell(spec.number, value, state=_OPTUNA_STATES[outcome.state])

    def stored_trials(self) -> list[StoredTrial]:
        """All trials that have begun, in the order of their numbers."""
        return [
            StoredTrial(
                number=trial.number,
                trajectory=trial.user_attrs["trajectory"],
                state=_STATES[trial.state],
                params=trial.params,
                value=trial.value if trial.state is OptunaState.COMPLETE else None,
            )
            for trial in self._study.get_trials(deepcopy=False)
            if "trajectory" in trial.user_attrs
        ]

    def running_trajectories(self) -> list[Trajectory]:
        """The trajectories that an earlier driver left RUNNING, in the order of their numbers."""
        groups: dict[int, list[FrozenTrial]] = {}
        for trial in self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,)):
            if "trajectory" in trial.user_attrs:
                groups.setdefault(trial.user_attrs["trajectory"], []).append(trial)
            else:  # The driver died between asking and naming: nothing was ever run for this trial.
                self._study.tell(trial.number, state=OptunaState.FAIL)
        return [self._trajectory(number, trials) for number, trials in sorted(groups.items())]

    def trajectory(self, number: int) -> Trajectory:
        """Trajectory ``number`` with all its trials, whatever their state. Raises KeyError if there is none."""
        trials = [trial for trial in self.stored_trials() if trial.trajectory == number]
        if not trials:
            raise KeyError(number)
        split = [self._split(trial.params) for trial in trials]
        specs = [TrialSpec(t.number, readout) for t, (_, readout) in zip(trials, split, strict=True)]
        return Trajectory(number, split[0][0], tuple(specs), self._seed(number))

    def delete(self) -> None:
        """Take back a study that was just created: the sweep never began."""
        optuna.delete_study(study_name=self._study.study_name, storage=self._study._storage)

    def _trajectory(self, number: int, trials: Sequence[FrozenTrial]) -> Trajectory:
        """Rebuild a trajectory from its trials; parameters missing because asking was cut short are drawn now."""
        specs: list[TrialSpec] = []
        shared: dict[str, ParamValue] = {}
        for stored in trials:
            trial = Trial(self._study, stored._trial_id)
            self._reported |= {(stored.number, step) for step in stored.intermediate_values}
            params = self._space.sample(partial(_suggest, trial))
            shared, readout = self._split(params)
            specs.append(TrialSpec(stored.number, readout))
        return Trajectory(number, shared, tuple(specs), self._seed(number))

    def _split(self, params: Params) -> tuple[dict[str, ParamValue], dict[str, ParamValue]]:
        roles = self._space.roles
        shared = {name: value for name, value in params.items() if roles[name] == "trajectory"}
        return shared, {name: value for name, value in params.items() if roles[name] == "readout"}

    def _sibling_readouts(self, shared: Params, first: Params, trajectory: int) -> list[dict[str, ParamValue]]:
        """Distinct readouts beside ``first``, drawn at random from the active readout parameters."""
        wanted = self._settings.readouts_per_trajectory - 1
        found: list[dict[str, ParamValue]] = []
        taken = [dict(first)]
        drawing = optuna.create_study(
            sampler=optuna.samplers.RandomSampler(seed=self._seed(trajectory)),
            storage=optuna.storages.InMemoryStorage(),
        )
        for _ in range(wanted * MAX_DRAWS_PER_READOUT if first else 0):
            if len(found) == wanted:
                break
            params = self._space.sample(partial(_suggest_unless_fixed, drawing.ask(), shared))
            readout = self._split(params)[1]
            if readout not in taken:
                taken.append(readout)
                found.append(readout)
        return found

    def _add_sibling(self, params: dict[str, ParamValue], trajectory: int) -> int:
        trial = create_trial(
            state=OptunaState.RUNNING,
            params=params,
            distributions=self._distributions(params),
            user_attrs={"trajectory": trajectory},
        )
        # Study.add_trial does the same but keeps the new number to itself.
        trial_id = self._study._storage.create_new_trial(self._study._study_id, template_trial=trial)
        number = self._study._storage.get_trial_number_from_id(trial_id)
        self._ids[number] = trial_id
        return number

    def _distributions(self, params: Params) -> dict[str, BaseDistribution]:
        return {p.name: p.distribution() for p in self._space.parameters if p.name in params}

    def _id(self, number: int) -> int:
        if number not in self._ids:
            storage = self._study._storage
            self._ids[number] = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
        return self._ids[number]

    def _seed(self, trajectory: int) -> int:
        sequence = np.random.SeedSequence((self._settings.seed, trajectory))
        return int(sequence.generate_state(1)[0])


def _suggest(trial: Trial, parameter: Parameter) -> ParamValue:
    if isinstance(parameter, Float):
        return trial.suggest_float(parameter.name, parameter.low, parameter.high, log=parameter.log)
    if isinstance(parameter, Categorical):
        chosen: ParamValue = trial.suggest_categorical(parameter.name, parameter.choices)  # type: ignore[assignment]
        return chosen  # One of the choices, none of which is None.
    return trial.suggest_int(parameter.name, parameter.low, parameter.high, log=parameter.log)


def _suggest_unless_fixed(trial: Trial, fixed: Params, parameter: Parameter) -> ParamValue:
    return fixed[parameter.name] if parameter.name in fixed else _suggest(trial, parameter)


def _make_sampler(settings: SamplerSettings, trajectory: int) -> optuna.samplers.BaseSampler:
    """A fresh sampler a trajectory: its proposals depend on the seed, the number and the history alone."""
    seed = int(np.random.SeedSequence((settings.seed, trajectory, 1)).generate_state(1)[0])
    if settings.name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if settings.name == "qmc":  # A sequence: all its points come from one seed, numbered in the storage.
        return optuna.samplers.QMCSampler(seed=settings.seed, warn_independent_sampling=False)
    if settings.name == "gp":
        startup = STARTUP_TRAJECTORIES * settings.readouts_per_trajectory
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
    return optuna.samplers.TPESampler(
        seed=seed,
        multivariate=True,
        group=True,
        constant_liar=True,
        n_startup_trials=STARTUP_TRAJECTORIES * settings.readouts_per_trajectory,
    )
