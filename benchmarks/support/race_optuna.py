"""Plain Optuna: ``optimize`` in two processes over one journal file, TPE, successive halving, the Keras trial."""

from __future__ import annotations

from multiprocessing import get_context
from typing import Any

from benchmarks.support.keras_trial import REDUCTION_FACTOR, RUNGS, load_images, measurements, suggest
from benchmarks.support.race import Race

PROCESSES = 2


def optimize(race: Race, process: int) -> None:
    """One process' part. Samplers of one seed would propose the same, so each process has its own."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(race.events.with_suffix(".journal")))),
        study_name="peers",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=race.seed * PROCESSES + process),
        pruner=optuna.pruners.SuccessiveHalvingPruner(RUNGS[0], REDUCTION_FACTOR),
    )
    images = load_images(race.split_seed)

    def objective(trial: Any) -> float:
        loss = float("inf")
        for step, loss in measurements(suggest(trial), images, race.kernel_size):
            trial.report(loss, step)
            race.measured(loss)
            if step < RUNGS[-1] and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study.optimize(objective, timeout=race.left, callbacks=[lambda *_: race.ended()])


def main() -> None:
    """This process is one of the two."""
    race = Race.from_command_line()
    others = [get_context("spawn").Process(target=optimize, args=(race, n)) for n in range(1, PROCESSES)]
    for other in others:
        other.start()
    optimize(race, 0)
    for other in others:
        other.join()
        if other.exitcode:
            raise SystemExit(f"a process of Optuna's ended with {other.exitcode}")


if __name__ == "__main__":
    main()
