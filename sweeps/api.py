"""The work behind the commands, as functions: launch, resume, load_record, open_study.

What is heavy (Optuna, Ray, the trainable) is imported inside the functions that need it, so that ``--help``,
``status`` and ``report`` start at once.
"""

from __future__ import annotations

import logging
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import config, moves, step
from sweeps.convergence import plateau, verdict
from sweeps.doctor import package_versions
from sweeps.errors import InputError, SettingsError, StorageError, SweepFailedError
from sweeps.history import History, SweepFacts, assemble, read_history
from sweeps.pruning import Rule, rung_steps
from sweeps.records import SweepRecord, Trajectory, TrialState, Verdict
from sweeps.recovery import recover
from sweeps.run_folder import CurveLog, RunFolder, WriterLock, is_live, read_entries
from sweeps.trainable import Devices, load_trainable, scores_lattice

if TYPE_CHECKING:
    from sweeps.backends import Backend, WorkerSpec
    from sweeps.driver import Listener
    from sweeps.study import Study

BACKENDS = ("ray", "inline")
NOWHERE = "nowhere"
"""For a driver that has nothing to run, but ends to tell."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left behind. ``interrupted`` means that ``resume`` has something to go on with."""

    folder: Path
    record: SweepRecord
    interrupted: bool


@dataclass(frozen=True)
class _Slots:
    """Where trajectories run, since ``began`` (seconds of the clock). ``halt`` reaches a run in this process."""

    backend: Backend
    halt: Callable[[], None] | None
    began: float
    close: Callable[[], None]


def launch(
    sweep: str | Path | Mapping[str, Any] = "digits",
    *,
    out: str | Path | None = None,
    trajectories: int | None = None,
    time_budget: str | float | None = None,
    workers: int | None = None,
    seed: int | None = None,
    overrides: Sequence[str] = (),
    address: str | None = None,
    backend: str = "ray",
    listener: Listener | None = None,
) -> SweepResult:
    """Run a sweep and write its run folder; the same as ``towersweep launch``.

    ``sweep`` is a TOML file, a built-in name, or the same settings as a mapping. ``out`` is a new folder (default
    ``runs/<name>``). ``overrides`` are ``section.key=value`` strings. ``address`` is a Ray cluster's. ``backend``
    is "ray" or "inline" (one slot, in this process).

    >>> result = launch("quick", out="runs/demo")    # doctest: +SKIP
    >>> result.record.best().value                   # doctest: +SKIP

    Raises InputError if the settings cannot be run (nothing is written), SweepFailedError if no trial completed.
    """
    asked = {
        "search.trajectories": trajectories,
        "search.time_budget": time_budget,
        "resources.workers": workers,
        "search.seed": seed,
    }
    all_overrides = [*overrides, *(f"{key}={value}" for key, value in asked.items() if value is not None)]
    settings = _load(sweep, all_overrides)
    _check_backend(backend)
    summary = config.check_data(settings, "settings" if isinstance(sweep, Mapping) else str(sweep))
    folder = RunFolder.create(Path(out) if out else Path("runs") / settings.name, config.to_toml(settings))
    try:
        with folder.lock() as lock:
            folder.log.write_text(f"data: {summary}\n" if summary else "")
            # Before the study: what that imports is imported while Ray starts.
            with (
                _slots(settings, folder, backend, address) as slots,
                _create_study(settings, folder).held_by(lock.holder) as study,
            ):
                try:
                    return _drive(settings, folder, lock, study, moves.State(), History(), slots, listener)
                except InputError:
                    if not folder.has_begun:
                        study.delete()
                    raise
    except InputError:
        folder.remove()
        raise


def resume(
    folder: str | Path,
    *,
    trajectories: int | str | None = None,
    time_budget: str | float | None = None,
    address: str | None = None,
    backend: str = "ray",
    listener: Listener | None = None,
) -> SweepResult:
    """Go on with an interrupted sweep, or extend a finished one; the same as ``towersweep resume``.

    ``trajectories`` is a new total, or ``"+N"`` for N more; ``time_budget`` a new total for the whole sweep.
    Trials that have ended stay as they are; those left running are run again, under their own numbers.

    Raises InputError if the folder is not a run folder or is in use, SweepFailedError if no trial completed.
    """
    run_folder = RunFolder.open(Path(folder))
    _check_backend(backend)
    settings = _extended(run_folder, trajectories, time_budget)
    config.check_data(settings, str(run_folder.settings))
    with (
        run_folder.lock() as lock,
        _found_study(settings, run_folder).held_by(lock.holder) as study,
    ):
        history = read_history(read_entries(run_folder.curves))
        plan = _plan(settings)
        state = recover(plan, study, history, run_folder)
        if step.has_work(plan, state):
            run_folder.write_settings(config.to_toml(settings))
            where = backend if step.budget_spent(plan, state) is None else NOWHERE
            with _slots(settings, run_folder, where, address) as slots:
                return _drive(settings, run_folder, lock, study, state, history, slots, listener)
        record = _record(settings, study, history)
        return SweepResult(run_folder.path, record, interrupted=False)


def load_record(folder: str | Path) -> tuple[SweepRecord, bool]:
    """The sweep's record as it is stored at this moment, and whether a driver is at work on it.

    Raises InputError if the folder is not a run folder, or its storage cannot be opened.
    """
    run_folder = RunFolder.open(Path(folder))
    settings = _load(str(run_folder.settings), ())
    study = _load_study(settings, run_folder)
    history = read_history(read_entries(run_folder.curves))
    return _record(settings, study, history), is_live(run_folder)


def write_report(folder: str | Path) -> SweepRecord:
    """(Re)write report.json, trials.csv and report.html from what is stored; the same as ``towersweep report``."""
    from sweeps import report

    record, _ = load_record(folder)
    report.write(record, Path(folder))
    return record


def stored_trajectory(settings: config.Sweep, folder: RunFolder, number: int) -> Trajectory:
    """Trajectory ``number`` with all its trials, as the study holds it."""
    return _load_study(settings, folder).trajectory(number)


def _drive(
    settings: config.Sweep,
    folder: RunFolder,
    lock: WriterLock,
    study: Study,
    state: moves.State,
    history: History,
    slots: _Slots,
    listener: Listener | None,
) -> SweepResult:
    from sweeps.driver import Driver
    from sweeps.progress import Together

    stop = threading.Event()
    with _stop_on_signals(stop, slots.halt), CurveLog(folder.curves, lock.check) as curves:
        study.wait_by(partial(_wait_unless, stop))
        driver = Driver(
            plan=_plan(settings),
            backend=slots.backend,
            study=study,
            folder=folder,
            curves=curves,
            judge=partial(_judge, settings),
            listener=listener or Together(()),
            clock=time.monotonic,
            stop=stop,
            spent=history.elapsed_seconds + time.monotonic() - slots.began,
            past=_curves_of(state, history),
        )
        try:
            finished = driver.run(state, settings.name)
        except KeyboardInterrupt as error:  # A second Ctrl-C. What was acted on is durable.
            raise KeyboardInterrupt(f"go on with: towersweep resume {folder.path}") from error
    slots.close()
    from sweeps import report

    record = _record(settings, study, read_history(read_entries(folder.curves)))
    report.write(record, folder.path)
    if finished and record.best() is None:
        raise SweepFailedError(_why_none_completed(record, folder, driver.given_up))
    return SweepResult(folder.path, record, interrupted=not finished)


def _load(sweep: str | Path | Mapping[str, Any], overrides: Sequence[str]) -> config.Sweep:
    if isinstance(sweep, Mapping):
        return config.from_mapping(sweep, "settings", overrides)
    return config.load(str(sweep), overrides)


def _check_backend(name: str) -> None:
    if name not in BACKENDS:
        raise SettingsError("backend", name, f"one of {', '.join(BACKENDS)}", "--backend")


def _extended(folder: RunFolder, trajectories: int | str | None, time_budget: str | float | None) -> config.Sweep:
    overrides = [] if time_budget is None else [f"search.time_budget={time_budget}"]
    if isinstance(trajectories, str) and trajectories.startswith("+"):
        before = _load(str(folder.settings), ()).search.trajectories
        if not trajectories[1:].isdigit():
            raise SettingsError("trajectories", trajectories, "a number, or + and a number", "--trajectories")
        trajectories = before + int(trajectories[1:])
    if trajectories is not None:
        overrides.append(f"search.trajectories={trajectories}")
    return _load(str(folder.settings), overrides)


def _create_study(settings: config.Sweep, folder: RunFolder) -> Study:
    from sweeps.storage import open_storage
    from sweeps.study import Study, quiet

    quiet()
    storage = open_storage(settings.storage.url, folder.journal, settings.storage.patience)
    return Study.create(
        storage, settings.name, settings.space, _sampler(settings), baselines=settings.search.baselines
    )


def _load_study(settings: config.Sweep, folder: RunFolder, patience: float = 0.0) -> Study:
    from sweeps.storage import open_storage
    from sweeps.study import Study, quiet

    quiet()
    storage = open_storage(settings.storage.url, folder.journal, patience)
    return Study.load(storage, settings.name, settings.space, _sampler(settings), settings.search.baselines)


def _found_study(settings: config.Sweep, folder: RunFolder) -> Study:
    """The study to go on with; made now if ``launch`` died before it could."""
    try:
        return _load_study(settings, folder, settings.storage.patience)
    except StorageError:
        if folder.has_begun:
            raise
        return _create_study(settings, folder)


def _sampler(settings: config.Sweep) -> Any:
    from sweeps.study import SamplerSettings

    search = settings.search
    lattice = search.lattice and scores_lattice(load_trainable(settings.trainable))
    return SamplerSettings(search.sampler, search.seed, search.readouts_per_trajectory, lattice)


def _plan(settings: config.Sweep) -> moves.Plan:
    search = settings.search
    return moves.Plan(
        rungs=rung_steps(settings.steps, search.reduction_factor, search.num_rungs),
        max_trajectories=search.trajectories,
        time_budget_seconds=search.time_budget,
        max_trials=search.trials,
        trials_per_trajectory=search.readouts_per_trajectory,
        device_budget_seconds=search.device_budget,
        devices_per_trajectory=settings.num_towers,
        rule=Rule(search.pruner, search.reduction_factor, search.rung_window),
        retries=settings.resources.retries,
        keep_checkpoints=settings.resources.keep_checkpoints,
        generation=search.generation if search.deterministic else None,
        trial_timeout_seconds=settings.resources.trial_timeout,
        rung_timeout_seconds=settings.resources.rung_timeout,
        checkpoint_seconds=settings.resources.checkpoint_every,
        stop_after_failures=search.stop_after_failures,
    )


def _worker_spec(settings: config.Sweep) -> WorkerSpec:
    from sweeps.backends import WorkerSpec

    towers, resources = settings.num_towers, settings.resources
    cpus = towers * resources.cpus_per_tower
    return WorkerSpec(
        trainable=settings.trainable,
        settings=settings.settings,
        devices=Devices(towers, resources.gpus_per_tower, threads=max(1, int(cpus))),
        cpus=cpus,
        gpus=towers * resources.gpus_per_tower,
        memory=resources.worker_memory,
    )


@contextmanager
def _slots(settings: config.Sweep, folder: RunFolder, backend_name: str, address: str | None) -> Iterator[_Slots]:
    """The backend, whose log goes to the folder, until it is closed or left."""
    with ExitStack() as stack:
        stack.enter_context(_log_to(folder.log, settings.storage.url))
        began = time.monotonic()
        backend = stack.enter_context(_make_backend(backend_name, _worker_spec(settings), settings, address))
        # What runs in this process can be told to halt while it runs; Ray's actors are told by the driver.
        halt = partial(backend.pause, 0) if backend_name == "inline" else None
        yield _Slots(backend, halt, began, stack.close)


def _make_backend(name: str, spec: WorkerSpec, settings: config.Sweep, address: str | None) -> Backend:
    if name == NOWHERE:
        from sweeps.backends.nowhere import Nowhere

        return Nowhere()
    if name == "inline":
        from sweeps.backends.inline import InlineBackend

        return InlineBackend(spec, workers=settings.resources.workers)
    from sweeps.backends.ray import RayBackend

    # Ray starts in processes of its own. Meanwhile this one can import what the study needs.
    ahead = threading.Thread(target=import_module, args=("sweeps.study",))
    ahead.start()
    try:
        return RayBackend(spec, workers=settings.resources.workers, address=address)
    finally:
        ahead.join()  # A process that ends while it imports would say so on stderr.


def _record(settings: config.Sweep, study: Study, history: History) -> SweepRecord:
    facts = SweepFacts(
        name=settings.name,
        config_digest=config.digest(settings),
        seed=settings.search.seed,
        versions=_versions(),
        roles=settings.space.roles,
        total_steps=settings.steps,
        devices=settings.num_towers,
    )
    locate = partial(plateau, thresholds=settings.convergence)
    return assemble(facts, study.stored_trials(), history, partial(_judge, settings), locate)


def _judge(settings: config.Sweep, steps: Sequence[int], train_loss: Sequence[float]) -> Verdict:
    return verdict(steps, train_loss, settings.convergence)


def _curves_of(state: moves.State, history: History) -> dict[int, dict[int, float]]:
    """The training losses of what earlier drivers left unfinished, by step."""
    unfinished = {*(each.trajectory.number for each in state.waiting), *state.untold}
    known = {number: history.trajectories[number] for number in unfinished if number in history.trajectories}
    return {number: dict(zip(*past.train_loss, strict=True)) for number, past in known.items()}


def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **package_versions()}


def _why_none_completed(record: SweepRecord, folder: RunFolder, given_up: str | None) -> str:
    why = f"no trial completed; {given_up}" if given_up else "no trial completed"
    failed = [trial for trial in record.trials if trial.state is TrialState.FAILED]
    if failed and failed[0].failure is not None:
        failure = failed[0].failure
        return f"{why}; the first to fail: {failure.kind}: {failure.message} (see {folder.log})"
    return f"{why}: {len(record.trials)} trials ended early (see {folder.log})"


def _wait_unless(stop: threading.Event, seconds: float) -> None:
    if stop.wait(seconds):
        raise KeyboardInterrupt


@contextmanager
def _log_to(path: Path, storage_url: str) -> Iterator[None]:
    """The package's log goes to the run folder, and nowhere else."""
    from sweeps.driver_log import DriverLog
    from sweeps.passwords import Passwords

    handler = DriverLog(path, Passwords.of(storage_url))
    package = logging.getLogger("sweeps")
    level, propagate = package.level, package.propagate
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
        package.propagate = propagate
        handler.close()


@contextmanager
def _stop_on_signals(stop: threading.Event, halt: Callable[[], None] | None) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the driver to leave; a second one leaves at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int, frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        if halt is not None:
            halt()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


__all__ = ["SweepResult", "launch", "load_record", "resume", "write_report"]
