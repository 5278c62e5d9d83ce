"""The study: what Optuna itself reads back is what was asked, reported and told."""

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search_spaces import Categorical, Float, Space
from sweeps.errors import StorageError
from sweeps.records import CurvePoint, Measurement, Outcome, Score, TrialState
from sweeps.storage import open_storage
from sweeps.study import SamplerSettings, Study, quiet

KNOWN = {"rate": "trajectory", "placement": "trajectory", "m": "readout", "d": "readout"}
SPACE = Space.of(
    [
        Float("rate", 1e-4, 1e-1, log=True),
        Categorical("placement", ("none", "conv")),
        Categorical("m", (0.9, 0.99, 0.999), when={"placement": ("conv",)}),
        Categorical("d", (0.0, 0.9, 0.99, 0.999)),
    ],
    KNOWN,
)


@pytest.fixture(autouse=True)
def quietly():
    quiet()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "study.journal"


def storage(path):
    return JournalStorage(JournalFileBackend(str(path)))


def make(path, baselines=(), **settings):
    return Study.create(storage(path), "s", SPACE, SamplerSettings(**settings), baselines)


def reopened(path):
    """As any other program sees it."""
    return optuna.load_study(study_name="s", storage=storage(path))


def measured(trajectory, step, loss=0.5):
    scores = tuple(Score(loss + i / 100, 0.9) for i in range(len(trajectory.trials)))
    return Measurement(step, (CurvePoint(step, 1.0),), scores)


def finish(study, trajectory, state=TrialState.COMPLETE, loss=0.5):
    last = measured(trajectory, 90, loss)
    study.report(trajectory, last)
    study.tell(trajectory, Outcome(state, "because"), last, {"verdict": "converged", "attempts": 1})


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_siblings_share_the_trajectory_and_never_duplicate_a_readout(path, sampler):
    study = make(path, name=sampler, readouts_per_trajectory=5)
    for number in range(4):
        trajectory = study.ask(number)
        assert 2 <= len(trajectory.trials) <= 5
        readouts = [tuple(sorted(readout.items())) for readout in trajectory.readouts]
        assert len(set(readouts)) == len(readouts)
        with_bn = trajectory.params["placement"] == "conv"
        assert all(("m" in readout) == with_bn for readout in trajectory.readouts)
        # With BN there are 12 readouts to choose from, without only the four decays.
        assert len(trajectory.trials) == (5 if with_bn else 4)
        finish(study, trajectory)
    for trial in reopened(path).trials:
        assert trial.state.name == "COMPLETE"
        assert set(trial.params) == (
            {"rate", "placement", "d"} | ({"m"} if trial.params["placement"] == "conv" else set())
        )


def test_optuna_reads_back_what_was_reported_and_told(path):
    study = make(path, readouts_per_trajectory=3)
    trajectory = study.ask(0)
    study.report(trajectory, measured(trajectory, 10, 0.9))
    study.report(trajectory, measured(trajectory, 30, 0.7))
    finish(study, trajectory, loss=0.25)
    seen = reopened(path)
    for index, spec in enumerate(trajectory.trials):
        trial = seen.trials[spec.number]
        assert trial.params == {**trajectory.params, **spec.readout}
        shift = index / 100
        assert trial.intermediate_values == pytest.approx({10: 0.9 + shift, 30: 0.7 + shift, 90: 0.25 + shift})
        assert trial.value == pytest.approx(0.25 + shift)
        assert trial.user_attrs == {"trajectory": 0, "verdict": "converged", "attempts": 1, "reason": "because"}
        assert trial.datetime_start <= trial.datetime_complete
    assert seen.best_trial.number == 0
    assert seen.metric_names == ["eval_loss"]


@pytest.mark.parametrize(("state", "name"), [(TrialState.PRUNED, "PRUNED"), (TrialState.FAILED, "FAIL")])
def test_other_ends(path, state, name):
    study = make(path)
    finish(study, study.ask(0), state)
    assert {trial.state.name for trial in reopened(path).trials} == {name}
    assert {trial.value for trial in study.stored_trials()} == {None}


def test_the_same_seed_asks_for_the_same_trajectories(tmp_path):
    def asked(name, seed):
        study = make(tmp_path / name, seed=seed)
        found = []
        for number in range(12):
            trajectory = study.ask(number)
            finish(study, trajectory, loss=trajectory.params["rate"])
            found.append((dict(trajectory.params), [dict(r) for r in trajectory.readouts], trajectory.seed))
        return found

    assert asked("a", 1) == asked("b", 1)
    assert asked("c", 2) != asked("a2", 1)


def test_baselines_come_first(path):
    study = make(path, baselines=[{"rate": 0.05, "placement": "none", "d": 0.9}])
    first = study.ask(0)
    assert first.params == {"rate": 0.05, "placement": "none"}
    assert first.trials[0].readout == {"d": 0.9}


def test_a_second_report_of_a_step_is_passed_over(path):
    study = make(path)
    trajectory = study.ask(0)
    study.report(trajectory, measured(trajectory, 10, 0.9))
    study.report(trajectory, measured(trajectory, 10, 0.1))
    assert reopened(path).trials[0].intermediate_values == {10: 0.9}


def test_a_restart_finds_what_was_running_under_the_same_numbers(path):
    before = make(path, readouts_per_trajectory=3)
    finish(before, before.ask(0))
    running = before.ask(1)
    before.report(running, measured(running, 10, 0.9))
    after = Study.load(storage(path), "s", SPACE, SamplerSettings(readouts_per_trajectory=3))
    assert after.running_trajectories() == [running]
    after.report(running, measured(running, 10, 0.1))  # The second attempt passes the same rung.
    finish(after, running)
    trial = reopened(path).trials[running.trials[0].number]
    assert trial.intermediate_values[10] == 0.9
    assert trial.state.name == "COMPLETE"
    assert after.trajectory(1) == running


def test_a_trial_whose_asking_was_cut_short_is_failed_on_restart(path):
    study = make(path)
    reopened(path).ask()  # What a driver leaves that dies between asking and naming.
    assert study.running_trajectories() == []
    assert reopened(path).trials[0].state.name == "FAIL"


def test_a_name_that_is_taken_is_refused(path):
    make(path)
    with pytest.raises(StorageError, match="name is 's', but must be new in this storage"):
        make(path)


def test_a_study_that_is_not_there_is_refused(path):
    with pytest.raises(StorageError, match="holds no study 's'"):
        Study.load(storage(path), "s", SPACE, SamplerSettings())


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://me:s3cret@127.0.0.1:1/nothing",
        "sqlite:////nowhere/at/all/study.db",
        "mysql+nosuchdriver://me:s3cret@127.0.0.1/x",
        "not a url",
    ],
)
def test_a_storage_that_cannot_be_opened_is_refused_without_its_password(url, path):
    with pytest.raises(StorageError) as caught:
        open_storage(url, path)
    assert "must be" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value.__cause__)


def test_the_password_can_come_from_the_environment(path, monkeypatch):
    monkeypatch.setenv("TOWERSWEEP_STORAGE_PASSWORD", "s3cret")
    with pytest.raises(StorageError) as caught:
        open_storage("postgresql+psycopg://me@127.0.0.1:1/nothing", path)
    assert "me:***@127.0.0.1" in str(caught.value)


LATTICE = {"name": "random", "readouts_per_trajectory": 3, "lattice": True}


def with_bn(study, first=0):
    """The next trajectory that has both readouts."""
    for number in range(first, first + 30):
        trajectory = study.ask(number)
        if "m" in trajectory.trials[0].readout:
            return trajectory
        finish(study, trajectory)
    raise AssertionError("30 trajectories without BN")


def at_the_end(trajectory, cell_loss, cell=2):
    """Siblings at .5 and above, all cells at 2 but one."""
    scores = tuple(Score(0.5 + i / 100, 0.9) for i in range(len(trajectory.trials)))
    cells = tuple(Score(cell_loss if i == cell else 2.0, 0.8) for i in range(len(trajectory.lattice)))
    return Measurement(90, (CurvePoint(90, 1.0),), scores, lattice_scores=cells)


def test_a_cell_that_beats_every_sibling_becomes_a_trial_of_its_own(path):
    study = make(path, **LATTICE)
    trajectory = with_bn(study)
    assert len(trajectory.trials) + len(trajectory.lattice) == 12
    told = {"verdict": "converged", "attempts": 1}
    study.tell(trajectory, Outcome(TrialState.COMPLETE, "because"), at_the_end(trajectory, 0.25), told)
    best = reopened(path).best_trial
    assert best.value == 0.25
    assert best.number not in [spec.number for spec in trajectory.trials]
    assert best.params == {**trajectory.params, **trajectory.lattice[2]}
    assert best.intermediate_values == {90: 0.25}
    assert best.user_attrs == {"trajectory": trajectory.number, "cell": 2, "reason": "because", **told}
    stored = {trial.number: trial for trial in study.stored_trials()}
    assert stored[best.number].cell == 2
    assert study.trajectory(trajectory.number) == trajectory


@pytest.mark.parametrize("loss", [0.5, 0.51, float("nan"), float("inf")])
def test_a_cell_that_beats_none_or_not_all_does_not(path, loss):
    study = make(path, **LATTICE)
    trajectory = with_bn(study)
    before = len(reopened(path).trials)
    last = at_the_end(trajectory, loss)
    study.tell(trajectory, Outcome(TrialState.COMPLETE, "because"), last, {})
    assert len(reopened(path).trials) == before


def test_at_most_so_many_trials(path):
    study = make(path, readouts_per_trajectory=8)
    assert [len(study.ask(number, most).trials) for number, most in enumerate((1, 2, 3))] == [1, 2, 3]


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc"])
def test_a_restart_goes_on_asking_as_if_nothing_had_happened(tmp_path, sampler):
    settings = {"name": sampler, "readouts_per_trajectory": 4}

    def drive(study, numbers):
        for number in numbers:
            trajectory = study.ask(number)
            finish(study, trajectory, TrialState.PRUNED if number % 3 else TrialState.COMPLETE, 0.3 + number % 5)

    whole = make(tmp_path / "whole", **settings)
    drive(whole, range(24))
    half = make(tmp_path / "half", **settings)
    drive(half, range(12))
    other = Study.load(storage(tmp_path / "half"), "s", SPACE, SamplerSettings(**settings))
    other.recall()
    drive(other, range(12, 24))
    if sampler == "qmc":  # Its place in the sequence is counted by trials in memory, which a restart has fewer of.
        return
    assert [t.params for t in reopened(tmp_path / "half").trials] == [
        t.params for t in reopened(tmp_path / "whole").trials
    ]
