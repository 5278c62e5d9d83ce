"""Storages: what waits, what is durable, what any other Optuna program reads, and who may write."""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from sweeps.errors import DamagedFileError, StorageError
from sweeps.lease import Lease
from sweeps.storage import create_trials, describe, flush, is_shared, later, open_storage, try_flush
from sweeps.viewer import make_app
from sweeps.writer_lock import Holder


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


def test_a_torn_end_is_cut_off_by_the_next_append_and_kept(study, path):
    create_trials(study._storage, study._study_id, [running(0.0)])
    for number, torn in enumerate((b'{"op_code":4,"wor', b"\0\0\0"), start=1):
        with path.open("ab") as stream:
            stream.write(torn)
        assert len(seen(path)) == number  # A reader passes it over.
        again = open_storage("", path)
        create_trials(again, study._study_id, [running(float(number))])
        assert [trial.params["x"] for trial in seen(path)] == [float(i) for i in range(number + 1)]
        assert path.with_name(f"study.journal.torn-{number}").read_bytes() == torn


def test_a_damaged_line_is_named_whether_it_is_read_at_the_start_or_later(study, path):
    reader = open_storage("", path)
    lines = path.read_bytes().count(b"\n")
    with path.open("ab") as stream:
        stream.write(b'{"op_code": 99}\n')
    for read in (lambda: open_storage("", path), lambda: reader.get_all_studies()):
        with pytest.raises(
            DamagedFileError, match=rf"study\.journal: line {lines + 1} is damaged: it is no operation"
        ):
            read()


def test_the_link_that_locks_the_journal_leads_to_it_from_anywhere(study, path, monkeypatch):
    """Optuna waits for ever on a link that leads nowhere, as one made with a relative path does."""
    monkeypatch.chdir(path.parent)
    storage = open_storage("", Path(path.name))
    targets = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (targets.append(str(Path(f"{path}.lock").readlink())), real(handle))
    )
    storage.set_study_user_attr(study._study_id, "k", 1)
    assert set(targets) == {str(path.resolve())}
    assert not path.with_name("study.journal.lock").is_symlink()


def test_a_journal_by_url_is_shared(tmp_path):
    path = tmp_path / "all studies.journal"
    url = f"journal+file://{quote(str(path))}"
    storage = open_storage(url, tmp_path / "unused")
    optuna.create_study(storage=storage, study_name="s")
    assert optuna.load_study(study_name="s", storage=plain(path)).trials == []
    assert is_shared(storage)
    assert not is_shared(open_storage("", tmp_path / "own.journal"))
    assert describe(storage) == str(path)


def test_a_shared_journal_has_one_writer(tmp_path):
    url = f"journal+file://{tmp_path}/studies.journal"
    storage = open_storage(url, tmp_path / "unused")
    study_id = optuna.create_study(storage=storage, study_name="s")._study_id
    with Lease(storage, study_id, Holder.here(1)):
        second = Lease(open_storage(url, tmp_path / "unused"), study_id, Holder.here(1))
        with pytest.raises(
            StorageError, match=rf"studies\.journal must not be in use \(by process {os.getpid()} on"
        ):
            second.__enter__()
    with Lease(storage, study_id, Holder.here(1)) as lease:
        lease.look()
    told = storage.get_study_user_attrs(study_id)["towersweep:writer"]
    assert (told["epoch"], told["held"]) == (2, False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://me:s3cret@127.0.0.1:1/0", "pip install redis"),
        ("journal+file:///nowhere/at/all.journal", "cannot be opened, but must be a journal file"),
        ("mysql+pymysql://me:s3cret@127.0.0.1:1/x", "storage.url is 'mysql+pymysql://me:***@127.0.0.1:1/x'"),
        ("postgresql+psycopg://me@127.0.0.1:1/x", "a password may be in TOWERSWEEP_STORAGE_PASSWORD"),
    ],
)
def test_a_storage_that_cannot_be_opened_says_why(tmp_path, url, says):
    with pytest.raises(StorageError) as caught:
        open_storage(url, tmp_path / "unused")
    assert says in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_locked_database_is_waited_for(tmp_path):
    path = tmp_path / "study.db"
    storage = open_storage(f"sqlite:///{path}?timeout=0.05", tmp_path / "unused", patience=60.0)
    study_id = optuna.create_study(storage=storage, study_name="s")._study_id
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        waits = []

        def wait(seconds):
            waits.append(seconds)
            if len(waits) == 2:
                other.execute("ROLLBACK")

        storage.wait = wait
        create_trials(storage, study_id, [running(1.0)])
        assert len(waits) == 2
    assert [trial.params["x"] for trial in storage.get_all_trials(study_id)] == [1.0]


def test_while_a_database_is_away_reports_wait_and_nothing_blocks(tmp_path):
    path = tmp_path / "study.db"
    storage = open_storage(f"sqlite:///{path}?timeout=0.05", tmp_path / "unused", patience=60.0)
    study_id = optuna.create_study(storage=storage, study_name="s")._study_id
    (trial,) = create_trials(storage, study_id, [running(1.0)])
    storage.wait = lambda seconds: pytest.fail("blocked")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with later(storage):
            storage.set_trial_intermediate_value(trial, 10, 0.5)
            storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
        try_flush(storage)
        try_flush(storage)
        other.execute("ROLLBACK")
    storage.wait = lambda seconds: None
    flush(storage)
    frozen = optuna.load_study(study_name="s", storage=f"sqlite:///{path}").trials[0]
    assert (frozen.state, frozen.value, frozen.intermediate_values) == (TrialState.COMPLETE, 0.5, {10: 0.5})


def test_an_end_that_differs_from_the_one_told_is_an_error(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "unused", patience=60.0)
    study_id = optuna.create_study(storage=storage, study_name="s")._study_id
    (trial,) = create_trials(storage, study_id, [running(1.0)])
    storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.5])
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        storage.set_trial_state_values(trial, TrialState.COMPLETE, [0.25])


def test_the_viewer_shows_a_database_that_is_waited_for(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path / 'study.db'}", tmp_path / "unused")
    study_id = optuna.create_study(storage=storage, study_name="s")._study_id
    create_trials(storage, study_id, [running(1.0), running(2.0)])
    app = make_app(storage, port=80)

    def get(place):
        environ = {"PATH_INFO": place, "HTTP_HOST": "127.0.0.1"}
        setup_testing_defaults(environ)
        body = app(environ, lambda status, headers, *rest: None)
        return json.loads(b"".join(body))

    assert [each["study_name"] for each in get("/api/studies")["study_summaries"]] == ["s"]
    assert [trial["number"] for trial in get(f"/api/studies/{study_id}")["trials"]] == [0, 1]
