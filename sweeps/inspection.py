"""What one does with a sweep besides running it: look at its study, evaluate a checkpoint, examine the machine."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import api, config
from sweeps.backends.envelope import run_state
from sweeps.errors import InputError, SettingsError, TrainableError
from sweeps.records import TrialRecord
from sweeps.run_folder import RunFolder, read_checkpoint
from sweeps.trainable import Devices, load_trainable

if TYPE_CHECKING:
    from optuna.storages import BaseStorage


def study_storage(folder: str | Path) -> BaseStorage:
    """The Optuna storage of a run folder. Raises InputError."""
    from sweeps.storage import open_storage
    from sweeps.study import quiet

    quiet()
    run_folder = RunFolder.open(Path(folder))
    settings = config.load(str(run_folder.settings))
    return open_storage(settings.storage.url, run_folder.journal)


def evaluate(folder: str | Path, trial: int | None = None) -> dict[str, Any]:
    """Restore a trial's checkpoint (default: the best's) and evaluate it in every way that the trainable knows.

    Returns ``trial``, ``params`` and ``rows``: weights, statistics, part, loss (nats), accuracy. Raises InputError
    if there is no such trial, no checkpoint was kept for it, or the trainable cannot evaluate.
    """
    run_folder = RunFolder.open(Path(folder))
    settings = config.load(str(run_folder.settings))
    chosen = _chosen(folder, trial)
    checkpoint = run_folder.checkpoint(chosen.trajectory)
    if not checkpoint.is_file():
        kept = sorted(int(path.stem) for path in checkpoint.parent.glob("*.ckpt"))
        numbers = ", ".join(map(str, kept)) or "none"
        rule = f"a trial of a trajectory whose checkpoint was kept ({numbers})"
        raise SettingsError("--trial", chosen.number, rule, str(run_folder.path))
    worker = load_trainable(settings.trainable)(settings.settings)
    if not hasattr(worker, "evaluate"):
        raise SettingsError("trainable", settings.trainable, "one that can evaluate", str(run_folder.path))
    trajectory = api.stored_trajectory(settings, run_folder, chosen.trajectory)
    readouts = (*trajectory.readouts, *trajectory.lattice)
    own = {name: value for name, value in chosen.params.items() if name not in trajectory.params}
    which = readouts.index(own)
    devices = Devices(settings.num_towers, settings.resources.gpus_per_tower)
    sealed = read_checkpoint(checkpoint)
    try:
        state = run_state(sealed)
        rows = worker.evaluate(trajectory.params, readouts, which, trajectory.seed, devices, state)
    except (ValueError, TrainableError) as error:
        raise InputError(f"{checkpoint}: {error}") from error
    return {"trial": chosen.number, "params": dict(chosen.params), "rows": rows}


def _chosen(folder: str | Path, number: int | None) -> TrialRecord:
    record, _ = api.load_record(folder)
    if number is None:
        best = record.best()
        if best is None:
            raise InputError(f"{folder}: holds no completed trial, but must for evaluate without --trial")
        return best
    for trial in record.trials:
        if trial.number == number:
            return trial
    raise SettingsError("--trial", number, f"from 0 to {len(record.trials) - 1}", str(folder))


def datasets() -> dict[str, str]:
    """The built-in data sets, with a line of explanation each."""
    found: dict[str, str] = importlib.import_module("model.data.catalogue").DATASETS
    return found


def examine(sweep: str | None = None, *, run: bool = True) -> dict[str, Any]:
    """What this machine offers; with ``sweep``, also what that sweep would ask of it.

    With ``run`` its trainable trains a few steps in this process, to check that readouts leave training alone; see
    ``readout_check``. What was found is under ``readouts``. Raises InputError.
    """
    from sweeps import doctor
    from sweeps.backends.slots import Demand

    facts = doctor.machine_facts()
    if sweep is None:
        return facts
    settings = config.load(sweep)
    resources, towers = settings.resources, settings.num_towers
    demand = Demand(towers * resources.cpus_per_tower, towers * resources.gpus_per_tower)
    cpus, gpus = facts["cpus"], len(facts["gpus"])
    facts |= {"sweep": settings.name, **doctor.demand_facts(demand, resources.workers, cpus, gpus)}
    if run:
        from sweeps.readout_check import check_readouts

        facts["readouts"] = check_readouts(settings, doctor.devices_here(settings, cpus, gpus)).facts()
    return facts
