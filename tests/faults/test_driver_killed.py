"""kill -9 of the driver at random moments of a deterministic sweep: in the end it is as if that never was."""

import json
import random

import pytest
import tomli_w

from sweeps import launch
from tests.support.sweeping import command, essence, kill_after, trials_of, without_times

SWEEP = {
    "name": "deterministic",
    "trainable": "tests.support.trainables:Lattice",
    "run": {"steps": 90, "behaviour": "slow"},
    "space": {
        "parameters": {
            "rate": {"type": "float", "low": 0.001, "high": 0.5, "log": True},
            "tilt": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
            "shift": {"type": "categorical", "choices": [0.0, 0.25, 0.5, 1.0]},
        }
    },
    "search": {"trajectories": 30, "readouts_per_trajectory": 3, "deterministic": True, "generation": 5},
    "resources": {"checkpoint_every": 0},
}


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.soak)])
def test_a_driver_that_is_killed_and_resumed_leaves_the_report_of_one_that_was_not(tmp_path, kills):
    seed = random.randrange(1 << 30)
    print(f"seed of the moments: {seed}")
    rng = random.Random(seed)
    launch({**SWEEP, "run": {"steps": 90}}, out=tmp_path / "whole", backend="inline")
    (tmp_path / "sweep.toml").write_text(tomli_w.dumps(SWEEP))
    folder = tmp_path / "killed"
    arguments = ["launch", tmp_path / "sweep.toml", "--out", folder]
    done = 0
    while done < kills:
        process = command(*arguments, "--backend", "inline", "--quiet")
        killed = kill_after(process, folder, rng.randrange(1, 110 // kills), rng)
        assert killed, f"the sweep ended after {done} kills (status {process.returncode})"
        done += 1
        arguments = ["resume", folder]
    process = command(*arguments, "--backend", "inline", "--quiet")
    _, errors = process.communicate()
    assert process.returncode == 0, errors

    whole, killed = trials_of(tmp_path / "whole", "deterministic"), trials_of(folder, "deterministic")
    assert [trial.number for trial in killed] == list(range(len(killed)))
    assert essence(killed) == essence(whole)
    reports = [json.loads((path / "report.json").read_text()) for path in (tmp_path / "whole", folder)]
    # The only setting in which they differ is how slow the trainable is.
    for report in reports:
        report.pop("config_digest")
    assert json.dumps(without_times(reports[1])) == json.dumps(without_times(reports[0]))
    assert max(trial["attempts"] for trial in reports[1]["trials"]) > 1
    assert not list((folder / "checkpoints").glob("*.state"))
