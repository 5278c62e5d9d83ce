"""trials.csv: what the csv module reads is what the record says."""

import csv
import math

from sweeps import report
from sweeps.records import Failure, FailureKind, TrialState
from tests.support.records import ROLES, mixed_sweep, sweep, trial


def rows(record, folder):
    report.write(record, folder)
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_one_row_a_trial_and_one_column_a_parameter(tmp_path):
    record = mixed_sweep()
    found = rows(record, tmp_path)
    assert [row["number"] for row in found] == [str(t.number) for t in record.trials]
    assert [key for key in found[0] if key.startswith("params.")] == [f"params.{name}" for name in ROLES]
    for row, t in zip(found, record.trials, strict=True):
        assert (row["state"], row["verdict"]) == (t.state.value, t.verdict.value)
        for name in ROLES:
            cell = row[f"params.{name}"]
            assert cell == "" if name not in t.params else cell == str(t.params[name])


def test_numbers_survive_and_those_not_finite_are_empty(tmp_path):
    found = rows(sweep(trial(0, value=1 / 3), trial(1, value=math.nan), trial(2, value=None)), tmp_path)
    assert float(found[0]["eval_loss"]) == 1 / 3
    assert [row["eval_loss"] for row in found[1:]] == ["", ""]
    assert float(found[0]["eval_accuracy"]) == 0.97


def test_the_last_column_says_which_trials_were_made_of_a_lattices_cell(tmp_path):
    found = rows(sweep(trial(0), trial(1, trajectory=0, from_lattice=True)), tmp_path)
    assert list(found[0])[-1] == "from_lattice"
    assert [row["from_lattice"] for row in found] == ["False", "True"]


def test_a_parameter_may_be_called_like_a_column_and_text_may_hold_anything(tmp_path):
    awkward = 'a "quoted", comma\nand é line'
    odd = trial(
        0, params={"state": awkward, "on": True}, state=TrialState.FAILED,
        failure=Failure(FailureKind.TRIAL_ERROR, awkward),
    )  # fmt: skip
    (row,) = rows(sweep(odd, roles={}), tmp_path)
    assert row["state"] == "failed"
    assert row["params.state"] == awkward
    assert row["params.on"] == "True"
    assert (row["failure_kind"], row["failure_message"]) == ("error in the trial", awkward)


def test_a_sweep_without_trials_still_has_its_heads(tmp_path):
    assert rows(sweep(), tmp_path) == []
    assert "params.learning_rate" in (tmp_path / "trials.csv").read_text().splitlines()[0].split(",")
