"""report.json: the design's format, numbers that JSON has, and reading it back."""

import json
import math
from pathlib import Path

import jsonschema
import pytest

from sweeps import report
from sweeps.errors import RunFolderError
from sweeps.records import CurvePoint, FailureKind, Plateau, Score, SweepRecord, TrialState, Verdict
from sweeps.report import as_json
from tests.support.records import cell, large_sweep, mixed_sweep, shared_sweep, sweep, trial

SCHEMA = json.loads((Path(__file__).parents[3] / "docs" / "report.schema.json").read_text())

# The design's "report.json (version 1)", key by key.
TOP = {
    "schema_version", "sweep", "config_digest", "seed", "versions", "objective", "counts", "wall_seconds",
    "trials_per_minute", "best", "trials",
}  # fmt: skip
TRIAL = {
    "number", "trajectory", "state", "params", "value", "verdict", "steps", "seconds", "attempts", "failure",
    "curve",
}  # fmt: skip


def strictly_parsed(record: SweepRecord) -> dict:
    """As a strict JSON parser reads it: NaN and Infinity, which JSON has not, are refused."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(as_json.render(record), parse_constant=refuse)


@pytest.mark.parametrize(
    "record",
    [mixed_sweep(), large_sweep(12), shared_sweep(), sweep(), sweep(wall_seconds=0.0), sweep(trial(params={}))],
)
def test_every_report_meets_the_published_schema(record):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(strictly_parsed(record), SCHEMA)


def test_it_has_the_designs_keys():
    found = strictly_parsed(mixed_sweep())
    assert set(found) >= TOP
    assert all(set(entry) >= TRIAL for entry in found["trials"])
    assert found["objective"] == {"metric": "eval_loss", "direction": "minimize"}


def test_the_schema_names_every_word_that_the_program_has():
    defs = SCHEMA["$defs"]
    properties = defs["trial"]["properties"]
    assert set(defs["verdict"]["enum"]) == {verdict.value for verdict in Verdict}
    assert set(properties["state"]["enum"]) == {state.value for state in TrialState}
    kinds = properties["failure"]["oneOf"][1]["properties"]["kind"]["enum"]
    assert set(kinds) == {kind.value for kind in FailureKind}


@pytest.mark.parametrize("key", sorted(TOP))
def test_the_schema_refuses_a_report_without(key):
    found = strictly_parsed(mixed_sweep())
    del found[key]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(found, SCHEMA)


def test_counts_and_rate_are_plain_arithmetic():
    found = strictly_parsed(mixed_sweep())
    assert found["counts"] == {"complete": 4, "pruned": 2, "failed": 1, "running": 1, "trajectories": 7}
    assert found["trials_per_minute"] == pytest.approx(7 / 2)  # 7 ended in 120 s


def test_no_rate_before_any_time_has_passed():
    assert strictly_parsed(sweep(trial(), wall_seconds=0.0))["trials_per_minute"] is None


def test_the_best_is_the_lowest_finite_completed_and_the_first_of_equals():
    record = sweep(
        trial(0, value=math.nan),
        trial(1, value=0.3),
        trial(2, value=0.2, params={"learning_rate": 0.5}, steps=250),
        trial(3, value=0.2),
        trial(4, value=0.1, state=TrialState.PRUNED),
        trial(5, value=0.05, state=TrialState.RUNNING),
    )
    assert strictly_parsed(record)["best"] == {
        "number": 2,
        "value": 0.2,
        "params": {"learning_rate": 0.5},
        "verdict": "converged",
        "step": 250,
        "test": None,
    }


def test_there_is_no_best_without_a_finite_completed_trial():
    assert strictly_parsed(sweep(trial(value=math.inf)))["best"] is None
    assert strictly_parsed(sweep())["best"] is None


def test_numbers_that_are_not_finite_become_null():
    curve = (CurvePoint(5, math.inf, Score(math.nan, 0.5)), CurvePoint(9, -math.inf, Score(1.5, math.nan)))
    record = sweep(trial(value=math.nan, curve=curve, params={"clip": math.inf}, ended=None))
    entry = strictly_parsed(record)["trials"][0]
    assert entry["value"] is None
    assert entry["ended"] is None
    assert entry["params"] == {"clip": None}
    assert entry["curve"] == {
        "step": [5, 9],
        "train_loss": [None, None],
        "eval_loss": [None, 1.5],
        "eval_accuracy": [0.5, None],
    }


def test_a_readout_that_was_not_evaluated_at_a_step_is_null_there():
    curve = (CurvePoint(10, 2.0), CurvePoint(20, 1.0, Score(0.9, 0.8)), CurvePoint(30, 0.5))
    found = strictly_parsed(sweep(trial(curve=curve)))["trials"][0]["curve"]
    assert found["train_loss"] == [2.0, 1.0, 0.5]
    assert found["eval_loss"] == [None, 0.9, None]
    assert found["eval_accuracy"] == [None, 0.8, None]


def test_a_failure_keeps_its_kind_and_message_but_no_traceback():
    failed = strictly_parsed(mixed_sweep())["trials"][3]
    assert failed["failure"] == {"kind": "worker lost", "message": "the worker <b>died</b>"}


def test_the_bests_test_score_is_told():
    record = sweep(trial(0, test=Score(0.2, 0.95)))
    jsonschema.validate(json.loads(as_json.render(record)), SCHEMA)
    assert as_json.build(record)["best"]["test"] == {"loss": 0.2, "accuracy": 0.95}
    assert as_json.build(sweep(trial(0)))["best"]["test"] is None


def test_a_plateau_is_told_with_its_reference():
    found = Plateau(2.31, "ln C", math.log(10))
    record = sweep(trial(0, verdict=Verdict.STALLED, plateau=found), trial(1))
    built = as_json.build(record)
    jsonschema.validate(json.loads(as_json.render(record)), SCHEMA)
    assert built["trials"][0]["plateau"] == {"loss": 2.31, "reference": "ln C", "reference_loss": math.log(10)}
    assert built["trials"][1]["plateau"] is None


def test_sharing_is_plain_arithmetic():
    """Trials 0 to 2 share 6 s, trials 3 and 4 share 3 s, trial 5 has 1 s: (2*6 + 1*3 + 0*1) / 10 of 40."""
    spec = [(0, 6.0), (0, 6.0), (0, 6.0), (1, 3.0), (1, 3.0), (2, 1.0)]
    trials = [trial(i, trajectory=t, seconds=s, from_lattice=i == 4) for i, (t, s) in enumerate(spec)]
    lattices = {0: (cell(0.1, 0, m=0.9), cell(0.2, m=0.8)), 1: (cell(0.3, 4, m=0.9),)}
    found = strictly_parsed(sweep(*trials, lattices=lattices, device_seconds=40.0))
    assert found["sharing"] == {
        "trainings": 3,
        "trials": 6,
        "trials_per_training": 2.0,
        "trials_from_lattice": 1,
        "lattice_cells": 3,
        "device_seconds": 40.0,
        "device_seconds_saved": pytest.approx(60.0),
    }
    assert [entry["from_lattice"] for entry in found["trials"]] == [False] * 4 + [True, False]


def test_nothing_is_saved_where_nothing_was_trained_or_shared():
    nothing = strictly_parsed(sweep())["sharing"]
    assert (nothing["trials_per_training"], nothing["device_seconds_saved"]) == (None, 0.0)
    unmeasured = sweep(trial(0, seconds=0.0), trial(1, trajectory=0, seconds=0.0), device_seconds=3.0)
    assert strictly_parsed(unmeasured)["sharing"]["device_seconds_saved"] == 0.0
    alone = sweep(trial(0), trial(1), device_seconds=3.0)
    assert strictly_parsed(alone)["sharing"]["device_seconds_saved"] == 0.0


def test_a_lattice_is_told_cell_by_cell_and_numbers_that_are_not_finite_are_null():
    lattice = (cell(0.25, 7, accuracy=0.9, m=0.99, d="off"), cell(math.nan, accuracy=math.inf, m=math.inf, d=0.9))
    record = sweep(trial(7, trajectory=3, steps=120), trial(8), lattices={8: (cell(0.1, 8),), 3: lattice})
    jsonschema.validate(strictly_parsed(record), SCHEMA)
    first, second = strictly_parsed(record)["lattices"]
    assert (first["trajectory"], first["step"], second["trajectory"], second["step"]) == (3, 120, 8, 300)
    assert first["cells"] == [
        {"params": {"m": 0.99, "d": "off"}, "eval_loss": 0.25, "eval_accuracy": 0.9, "trial": 7},
        {"params": {"m": None, "d": 0.9}, "eval_loss": None, "eval_accuracy": None, "trial": None},
    ]
    assert second["cells"][0]["params"] == {}
    assert strictly_parsed(sweep(trial()))["lattices"] == []


def test_a_report_from_before_sharing_is_still_read(tmp_path):
    """The keys were added within version 1."""
    old = strictly_parsed(shared_sweep(2))
    del old["sharing"], old["lattices"]
    for entry in old["trials"]:
        del entry["from_lattice"]
    jsonschema.validate(old, SCHEMA)
    (tmp_path / "report.json").write_text(json.dumps(old))
    assert report.load_report(tmp_path) == old


def test_every_key_that_the_schema_does_not_require_may_be_missing(tmp_path):
    """It was not so: NotRequired in annotations that are text is not in a TypedDict's __required_keys__."""
    full = strictly_parsed(shared_sweep(2))
    bare = {key: full[key] for key in SCHEMA["required"]}
    bare["trials"] = [{key: entry[key] for key in TRIAL} for entry in full["trials"]]
    jsonschema.validate(bare, SCHEMA)
    (tmp_path / "report.json").write_text(json.dumps(bare))
    assert report.load_report(tmp_path) == bare


def test_one_line_a_lattice_and_one_a_trial():
    record = shared_sweep(4)
    lines = as_json.render(record).splitlines()
    assert sum(line.startswith('{"trajectory":') for line in lines) == 4
    assert sum(line.startswith('{"number":') for line in lines) == len(record.trials)


def test_numbers_survive_to_the_last_bit(tmp_path):
    values = [1 / 3, 1e-300, 0.1 + 0.2]
    report.write(sweep(*(trial(i, value=v) for i, v in enumerate(values))), tmp_path)
    assert [entry["value"] for entry in report.load_report(tmp_path)["trials"]] == values


def test_what_is_written_is_read_back(tmp_path):
    record = mixed_sweep()
    report.write(record, tmp_path)
    assert report.load_report(tmp_path) == strictly_parsed(record)
    assert report.load_report(str(tmp_path)) == strictly_parsed(record)


DAMAGE = {
    "missing": (None, "report.json is missing"),
    "empty": (b"", "is damaged, but must be JSON"),
    "cut short": (as_json.render(mixed_sweep()).encode()[:-40], "is damaged, but must be JSON"),
    "not text": (b"\xff\xfe\x00", "is damaged, but must be JSON"),
    "another thing": (b"[1, 2]", "schema_version is None, but must be 1"),
    "a later version": (b'{"schema_version": 2}', "schema_version is 2, but must be 1"),
    "a key gone": (b'{"schema_version": 1, "sweep": "s"}', "best is missing"),
    "a trial's key gone": (
        as_json.render(mixed_sweep()).replace('"verdict":"stalled"', '"v":1').encode(),
        r"trials\[2\].verdict is missing",
    ),
}


@pytest.mark.parametrize(("content", "says"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_report_is_refused_by_name(tmp_path, content, says):
    if content is not None:
        (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(RunFolderError, match=says) as caught:
        report.load_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert f"towersweep report {tmp_path}" in str(caught.value)


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(RunFolderError, match="must be a folder that can be written"):
        report.write(mixed_sweep(), tmp_path / "nowhere")


def test_writing_again_replaces_and_leaves_nothing_beside(tmp_path):
    report.write(mixed_sweep(), tmp_path)
    report.write(sweep(), tmp_path)
    assert report.load_report(tmp_path)["trials"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "trials.csv"]
