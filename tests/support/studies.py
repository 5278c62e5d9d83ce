"""A real Optuna study in a journal file, like the one that a sweep leaves."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

STUDY_NAME = "digits"


def write_study(path: Path, trials: int, seed: int = 5) -> optuna.Study:
    """``trials`` trials with intermediate values; every fourth was pruned, and one parameter is conditional."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=STUDY_NAME,
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )
    study.set_metric_names(["eval_loss"])
    for number in range(trials):
        trial = study.ask()
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        placement = trial.suggest_categorical("bn_placement", ["none", "conv", "logits"])
        if placement != "none":
            trial.suggest_categorical("bn_momentum", [0.9, 0.99])
        floor = 1.5 if placement == "logits" else 0.01
        for step in (33, 100, 300):
            loss = floor + 2.3 / (1 + rate * step * 10)
            trial.report(loss, step)
        if number % 4 == 3:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, loss)
    optuna.logging.set_verbosity(before)
    return study
