"""Whole sweeps through the Python API, with a small real trainable on the inline backend."""

import json
import signal
import tomllib

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard._storage_url import get_storage

from sweeps import launch, load_report, resume
from sweeps.api import load_record
from sweeps.errors import InputError, RunFolderError, SweepFailedError
from sweeps.progress import Together
from sweeps.records import TrialState

SWEEP = {
    "name": "quadratic",
    "trainable": "tests.support.trainables:Quadratic",
    "run": {"steps": 90},
    "space": {
        "parameters": {
            "rate": {"type": "float", "low": 0.001, "high": 0.5, "log": True},
            "offset": {"type": "categorical", "choices": [0.0, 0.125, 0.25]},
        }
    },
    "search": {"trajectories": 12, "readouts_per_trajectory": 2},
}


def run(path, listener=None, sweep=SWEEP, **options):
    return launch(sweep, out=path, backend="inline", listener=listener, **options)


def optunas(path):
    storage = JournalStorage(JournalFileBackend(str(path / "study.journal")))
    return optuna.load_study(study_name="quadratic", storage=storage)


class StopAfter(Together):
    """A listener that sends this process SIGINT after so many measurements: what Ctrl-C does."""

    def __init__(self, measurements):
        super().__init__(())
        self.left = measurements

    def measured(self, *args, **kwargs):
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


def test_a_sweep_leaves_everything_that_it_promises(tmp_path):
    result = run(tmp_path / "run")
    assert not result.interrupted
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"sweep.toml", "study.journal", "curves", "checkpoints", "artifacts", "driver.log"}
    assert names >= {"report.json", "trials.csv", "report.html"}
    report = load_report(tmp_path / "run")
    study = optunas(tmp_path / "run")
    assert report["counts"]["trajectories"] == 12
    assert len(report["trials"]) == len(study.trials) == 24
    assert report["best"]["value"] == study.best_value
    assert report["best"]["params"] == study.best_params
    for row, trial in zip(report["trials"], study.trials, strict=True):
        assert row["params"] == trial.params
        assert row["state"] == {"COMPLETE": "complete", "PRUNED": "pruned"}[trial.state.name]
        if row["state"] == "complete":
            # The closed form of the trainable: an independent account of what was measured.
            expected = (1 - trial.params["rate"]) ** 180 / 2 + trial.params["offset"]
            assert row["value"] == pytest.approx(expected)
            assert row["steps"] == 90
    assert tomllib.loads((tmp_path / "run" / "sweep.toml").read_text())["search"]["trajectories"] == 12


def test_pruning_follows_the_rungs(tmp_path):
    run(tmp_path / "run")
    for trial in optunas(tmp_path / "run").trials:
        steps = sorted(trial.intermediate_values)
        assert steps in ([10], [10, 30], [10, 30, 90])
        assert (steps[-1] == 90) == (trial.state.name == "COMPLETE")
        assert trial.user_attrs["reason"].startswith("reached" if steps[-1] == 90 else f"step {steps[-1]}: best")


class Onlooker(Together):
    """Opens the study while the sweep writes it, the way stock optuna-dashboard does, at every measurement."""

    def __init__(self, path):
        super().__init__(())
        self.path = path
        self.seen = []

    def measured(self, *args, **kwargs):
        study = optuna.load_study(study_name="quadratic", storage=get_storage(str(self.path / "study.journal")))
        self.seen.append([trial.state.name for trial in study.trials])


def test_others_can_open_the_study_while_the_sweep_writes(tmp_path):
    onlooker = Onlooker(tmp_path / "run")
    run(tmp_path / "run", onlooker)
    assert onlooker.seen[0] == ["RUNNING", "RUNNING"]
    assert [len(states) for states in onlooker.seen] == sorted(len(states) for states in onlooker.seen)
    assert {"RUNNING", "COMPLETE", "PRUNED"} == set(onlooker.seen[-1])


def test_the_best_few_checkpoints_are_kept(tmp_path):
    result = run(tmp_path / "run", overrides=["resources.keep_checkpoints=2"])
    kept = {int(path.stem) for path in (tmp_path / "run" / "checkpoints").iterdir()}
    best_of = {}
    for trial in result.record.trials:
        if trial.state is TrialState.COMPLETE:
            best_of[trial.trajectory] = min(trial.value, best_of.get(trial.trajectory, 1e9))
    assert kept == set(sorted(best_of, key=best_of.get)[:2])


def test_the_same_seed_gives_the_same_sweep(tmp_path):
    def essence(name, seed):
        trials = run(tmp_path / name, seed=seed).record.trials
        return [(dict(t.params), t.value, t.state, [p.train_loss for p in t.curve]) for t in trials]

    assert essence("a", 3) == essence("b", 3)
    assert essence("c", 4) != essence("a2", 3)


@pytest.mark.parametrize("after", [1, 4, 9, 13])
def test_an_interrupted_sweep_goes_on_and_loses_no_ended_trial(tmp_path, after):
    interrupted = run(tmp_path / "run", StopAfter(after))
    assert interrupted.interrupted
    ended = {t.number: t for t in interrupted.record.trials if t.state is not TrialState.RUNNING}
    whole = resume(tmp_path / "run", backend="inline")
    assert not whole.interrupted
    assert {t.number for t in whole.record.trials} == set(range(24))
    assert all(t.state is not TrialState.RUNNING for t in whole.record.trials)
    for number, trial in ended.items():
        assert whole.record.trials[number] == trial
    straight = run(tmp_path / "straight").record
    assert [(dict(t.params), t.value, t.state) for t in whole.record.trials] == [
        (dict(t.params), t.value, t.state) for t in straight.trials
    ]


def test_a_finished_sweep_can_be_extended(tmp_path):
    before = run(tmp_path / "run").record
    after = resume(tmp_path / "run", trajectories="+5", backend="inline").record
    assert len({t.trajectory for t in after.trials}) == 17
    assert after.trials[: len(before.trials)] == before.trials
    assert tomllib.loads((tmp_path / "run" / "sweep.toml").read_text())["search"]["trajectories"] == 17


def test_resuming_a_finished_sweep_changes_nothing(tmp_path):
    run(tmp_path / "run")
    before = (tmp_path / "run" / "study.journal").read_bytes()
    resume(tmp_path / "run", backend="inline")
    assert (tmp_path / "run" / "study.journal").read_bytes() == before


def test_a_time_budget_ends_the_sweep(tmp_path):
    result = run(tmp_path / "run", trajectories=100000, time_budget="1s")
    assert not result.interrupted
    assert result.record.wall_seconds >= 1.0
    assert all(trial.state is not TrialState.RUNNING for trial in result.record.trials)


def test_if_every_trial_fails_the_sweep_has_failed_and_says_why(tmp_path):
    with pytest.raises(SweepFailedError, match="error in the trial: RuntimeError: boom"):
        run(tmp_path / "run", overrides=["run.behaviour=raise", "search.trajectories=2"])
    report = load_report(tmp_path / "run")
    assert report["counts"]["failed"] == 4
    assert report["trials"][0]["failure"] == {"kind": "error in the trial", "message": "RuntimeError: boom"}
    assert "second line" in (tmp_path / "run" / "driver.log").read_text()


def test_a_loss_that_is_no_number_is_a_verdict(tmp_path):
    with pytest.raises(SweepFailedError, match="no trial completed"):
        run(tmp_path / "run", overrides=["run.behaviour='nan'", "search.trajectories=2"])
    report = load_report(tmp_path / "run")
    assert {trial["verdict"] for trial in report["trials"]} == {"diverged"}
    assert {trial["state"] for trial in report["trials"]} == {"pruned"}


def test_a_run_folder_is_never_overwritten(tmp_path):
    run(tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(RunFolderError, match="resume"):
        run(tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 2}, "resources.workers is 2, but must be 1 with the inline backend"),
        ({"overrides": ["storage.url=sqlite:////nowhere/at/all.db"]}, "storage.url is"),
        ({"overrides": ["search.trajectories=0"]}, "search.trajectories is 0"),
    ],
)
def test_what_cannot_run_leaves_nothing_behind(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        run(tmp_path / "deep" / "run", **options)
    assert list(tmp_path.iterdir()) == []


def test_the_storage_can_be_elsewhere(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    result = run(tmp_path / "run", overrides=[f"storage.url='{url}'", "search.trajectories=3"])
    assert len(optuna.load_study(study_name="quadratic", storage=url).trials) == len(result.record.trials) == 6
    assert not (tmp_path / "run" / "study.journal").exists()
    record, live = load_record(tmp_path / "run")
    assert record.trials == result.record.trials
    assert not live
    with pytest.raises(InputError, match="name is 'quadratic', but must be new in this storage"):
        run(tmp_path / "again", overrides=[f"storage.url='{url}'"])
    assert not (tmp_path / "again").exists()


def test_report_json_is_strict_json(tmp_path):
    run(tmp_path / "run", overrides=["search.trajectories=2"])

    def refuse(constant):
        raise AssertionError(constant)

    json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=refuse)


LATTICE = {
    **SWEEP,
    "trainable": "tests.support.trainables:Lattice",
    "space": {
        "parameters": {
            "rate": {"type": "float", "low": 0.01, "high": 0.5, "log": True},
            "tilt": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
            "shift": {"type": "categorical", "choices": [0.0, 0.25, 0.5, 1.0]},
        }
    },
    "search": {"trajectories": 6, "readouts_per_trajectory": 2, "sampler": "random", "pruner": "none"},
}


def test_the_best_of_the_lattice_is_the_best_of_the_study(tmp_path):
    """tilt = shift = 1 is best on every trajectory, and two readouts of twelve seldom hit it."""
    record = run(tmp_path / "run", sweep=LATTICE).record
    best = optunas(tmp_path / "run").best_trial
    assert (best.params["tilt"], best.params["shift"]) == (1.0, 1.0)
    assert best.number == record.best().number
    found = [trial for trial in record.trials if trial.from_lattice]
    assert len(record.trials) == 12 + len(found) == len(optunas(tmp_path / "run").trials)
    assert found
    assert all(trial.value == trial.curve[-1].score.eval_loss for trial in found)
    assert {number: len(cells) for number, cells in record.lattices.items()} == dict.fromkeys(range(6), 12)
    for cells in record.lattices.values():
        winner = min(cells, key=lambda cell: cell.score.eval_loss)
        assert winner.readout == {"tilt": 1.0, "shift": 1.0}
        assert winner.trial is not None
    report = load_report(tmp_path / "run")
    assert report["sharing"]["trials_from_lattice"] == len(found)
    assert report["sharing"]["lattice_cells"] == 72
    assert report["best"]["number"] == best.number


def test_the_lattice_can_be_left_out(tmp_path):
    record = run(tmp_path / "run", sweep=LATTICE, overrides=["search.lattice=false"]).record
    assert len(record.trials) == 12
    assert {len(cells) for cells in record.lattices.values()} == {2}


def test_a_budget_of_trials_is_kept_and_counted_on_resume(tmp_path):
    options = ["search.trials=7", "search.trajectories=100"]
    run(tmp_path / "run", StopAfter(7), sweep=LATTICE, overrides=options)
    assert resume(tmp_path / "run", backend="inline").record.finished
    asked = [trial for trial in optunas(tmp_path / "run").trials if "cell" not in trial.user_attrs]
    assert len(asked) == 7
    assert not any(trial.state.name == "RUNNING" for trial in asked)


def test_an_interrupted_sweep_gives_the_trials_of_one_that_was_not(tmp_path):
    run(tmp_path / "whole", sweep=LATTICE)
    run(tmp_path / "cut", StopAfter(8), sweep=LATTICE)
    resume(tmp_path / "cut", backend="inline")
    whole, cut = (
        {
            (t.user_attrs["trajectory"], str(sorted(t.params.items())), t.value)
            for t in optunas(tmp_path / name).trials
        }
        for name in ("whole", "cut")
    )
    assert cut == whole


def test_a_budget_of_device_seconds_ends_a_sweep(tmp_path):
    """Every rung takes this trainable 30 ms at least, so a hundred trajectories would take three seconds."""
    options = ["search.device_budget=1", "search.trajectories=100", "search.pruner='none'", "run.behaviour='slow'"]
    record = run(tmp_path / "run", sweep=LATTICE, overrides=options).record
    assert len({trial.trajectory for trial in record.trials}) <= 1 / 0.09 + 1
    assert record.device_seconds >= 1
