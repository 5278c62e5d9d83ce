"""The embedded storage: what waits, what is durable, and what any other Optuna program reads."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from sweeps.storage import create_trials, flush, later, open_storage


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.journal"


def plain(path):
    return JournalStorage(JournalFileBackend(str(path)))


def running(value):
    distributions = {"x": optuna.distributions.FloatDistribution(0, 99)}
    return create_trial(state=TrialState.RUNNING, params={"x": value}, distributions=distributions)


def seen(path):
    return optuna.load_study(study_name="s", storage=plain(path)).trials


@pytest.fixture
def study(path):
    return optuna.create_study(storage=open_storage("", path), study_name="s")


@pytest.mark.parametrize("counts", [(1, 1), (1, 8, 3), (8, 8), (3, 0, 2)], ids=str)
def test_trials_made_together_have_the_ids_that_the_file_gives_them(study, path, counts):
    storage, ids, value = study._storage, [], 0.0
    for count in counts:
        new = [running(value + i) for i in range(count)]
        ids += create_trials(storage, study._study_id, new)
        value += count
    assert [storage.get_trial(trial_id).params["x"] for trial_id in ids] == list(range(len(ids)))
    assert [trial.params["x"] for trial in seen(path)] == list(range(len(ids)))


def test_other_storages_make_them_one_by_one(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "unused")
    study = optuna.create_study(storage=storage, study_name="s")
    ids = create_trials(storage, study._study_id, [running(1.0), running(2.0)])
    with later(storage):
        storage.set_trial_intermediate_value(ids[1], 3, 0.5)
    flush(storage)
    assert [trial.intermediate_values for trial in study.trials] == [{}, {3: 0.5}]


def test_what_waits_is_durable_after_a_flush_and_not_before(study, path):
    storage = study._storage
    ids = create_trials(storage, study._study_id, [running(0.0), running(1.0)])
    with later(storage):
        storage.set_trial_intermediate_value(ids[0], 10, 0.5)
        storage.set_trial_user_attr(ids[0], "verdict", "stalled")
        storage.set_trial_state_values(ids[0], TrialState.COMPLETE, [0.5])
    assert seen(path)[0].state is TrialState.RUNNING
    flush(storage)
    trial = seen(path)[0]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 0.5, {10: 0.5})
    assert trial.user_attrs == {"verdict": "stalled"}
    assert trial.datetime_complete >= trial.datetime_start


def test_reading_and_making_trials_flush_first(study, path):
    storage = study._storage
    (first,) = create_trials(storage, study._study_id, [running(0.0)])
    with later(storage):
        storage.set_trial_intermediate_value(first, 10, 0.5)
    assert storage.get_trial(first).intermediate_values == {10: 0.5}
    with later(storage):
        storage.set_trial_intermediate_value(first, 30, 0.25)
    create_trials(storage, study._study_id, [running(1.0)])
    assert seen(path)[0].intermediate_values == {10: 0.5, 30: 0.25}


def test_another_program_may_write_meanwhile(study, path):
    """The viewer does, where it is allowed to."""
    storage = study._storage
    ids = create_trials(storage, study._study_id, [running(0.0), running(1.0)])
    with later(storage):
        storage.set_trial_intermediate_value(ids[1], 10, 0.5)
        plain(path).set_trial_user_attr(ids[0], "note", "mine")
        storage.set_trial_state_values(ids[1], TrialState.PRUNED, None)
    ids += create_trials(storage, study._study_id, [running(2.0), running(3.0)])
    trials = seen(path)
    assert [trial.params["x"] for trial in trials] == [0.0, 1.0, 2.0, 3.0]
    assert trials[0].user_attrs == {"note": "mine"}
    assert (trials[1].state, trials[1].intermediate_values) == (TrialState.PRUNED, {10: 0.5})
    assert [storage.get_trial(trial_id).params["x"] for trial_id in ids] == [0.0, 1.0, 2.0, 3.0]
