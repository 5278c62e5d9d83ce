"""Whole sweeps on a real Ray whose workers are killed, misbehave, or lose their nodes."""

import json
import random
import threading
from collections import Counter
from contextlib import suppress

import psutil
import pytest
from ray.cluster_utils import Cluster

from sweeps import launch, load_report
from sweeps.progress import Together
from sweeps.run_folder import read_entries
from tests.faults.test_cluster import QUICK
from tests.support.sweeping import command, count_lines, essence, trials_of, until, without_times

pytestmark = pytest.mark.ray

SWEEP = {
    "name": "faults",
    "trainable": "tests.support.trainables:Lattice",
    "run": {"steps": 90, "behaviour": "slow"},
    "space": {
        "parameters": {
            "rate": {"type": "float", "low": 0.001, "high": 0.5, "log": True},
            "tilt": {"type": "categorical", "choices": [0.0, 0.5, 1.0]},
            "shift": {"type": "categorical", "choices": [0.0, 0.25, 0.5, 1.0]},
        }
    },
    "search": {"trajectories": 24, "readouts_per_trajectory": 3, "deterministic": True, "generation": 6},
    "resources": {"checkpoint_every": 0, "retries": 1000, "cpus_per_tower": 0.5, "workers": 2},
}


def is_worker(process):
    try:
        named = " ".join(process.cmdline())
    except psutil.Error:  # It has just ended.
        return False
    return "ray::" in named and "Worker" in named


class Killer(Together):
    """kill -9 of a worker at random measurements."""

    def __init__(self, chance, rng):
        super().__init__(())
        self.chance, self.rng, self.kills = chance, rng, 0

    def measured(self, *args, **kwargs):
        if self.rng.random() < self.chance:
            workers = [process for process in psutil.Process().children(recursive=True) if is_worker(process)]
            if workers:
                self.kills += 1
                with suppress(psutil.NoSuchProcess):  # Replaced meanwhile.
                    self.rng.choice(workers).kill()


@pytest.mark.parametrize("chance", [0.08, pytest.param(0.4, marks=pytest.mark.soak)])
def test_workers_that_are_killed_change_nothing_but_the_count_of_attempts(tmp_path, chance):
    seed = random.randrange(1 << 30)
    print(f"seed of the kills: {seed}")
    launch({**SWEEP, "resources": {}}, out=tmp_path / "whole", backend="inline")
    killer = Killer(chance, random.Random(seed))
    launch(SWEEP, out=tmp_path / "killed", listener=killer)
    whole, killed = (trials_of(tmp_path / name, "faults") for name in ("whole", "killed"))
    assert essence(killed) == essence(whole)
    reports = [load_report(tmp_path / name) for name in ("whole", "killed")]
    for report in reports:
        report.pop("config_digest")
    assert without_times(reports[1]) == without_times(reports[0])
    attempts = {trial["trajectory"]: trial["attempts"] for trial in reports[1]["trials"]}
    entries = list(read_entries(tmp_path / "killed" / "curves" / "curves.jsonl"))
    assert attempts == Counter(entry["trajectory"] for entry in entries if entry["kind"] == "start")
    lost = [entry["failure"]["kind"] for entry in entries if entry["kind"] == "lost"]
    assert sum(attempts.values()) == len(attempts) + len(lost)
    assert set(lost) <= {"worker lost"}
    assert len(lost) <= killer.kills  # One that was idle when it was killed costs no attempt.


MISBEHAVING = {
    "well": None,
    "raise": "error in the trial",
    "exit": "worker lost",
    "hang": "timed out",
    "hoard": "host out of memory",
    "nonsense": "error in the trial",
    "wrong_step": "error in the trial",
    "twice": "error in the trial",
    "die": "worker lost",
    "print": None,
    "nan": None,
    "invalid": "invalid settings",
}


def test_each_kind_of_misbehaviour_is_told_by_its_kind_and_the_sweep_goes_on(tmp_path):
    kinds = list(MISBEHAVING)
    sweep = {
        "name": "misbehaving",
        "trainable": "tests.support.trainables:Quadratic",
        "run": {"steps": 90},
        "space": {"parameters": {"kind": {"type": "categorical", "choices": kinds}}},
        "search": {
            "sampler": "random",
            "pruner": "none",
            "trajectories": len(kinds) + 2,
            "readouts_per_trajectory": 1,
            "baselines": [{"kind": kind} for kind in [*kinds, "well", "well"]],
            "stop_after_failures": 100,
        },
        "resources": {
            "cpus_per_tower": 0.5,
            "workers": 2,
            "retries": 0,
            "rung_timeout": "30s",
            "worker_memory": "700MB",
        },
    }
    launch(sweep, out=tmp_path / "run")
    trials = load_report(tmp_path / "run")["trials"]
    assert len(trials) == len(kinds) + 2
    for trial in trials:
        kind = trial["params"]["kind"]
        told = trial["failure"] and trial["failure"]["kind"]
        assert told == MISBEHAVING[kind], trial
        ended = "failed" if told else "pruned" if kind == "nan" else "complete"
        assert trial["state"] == ended, trial
    assert next(trial for trial in trials if trial["params"]["kind"] == "nan")["verdict"] == "diverged"
    assert (tmp_path / "run" / "driver.log").stat().st_size < 2**20


class Waiter(Together):
    """Lets a test wait for measurements."""

    def __init__(self):
        super().__init__(())
        self.count = 0

    def measured(self, *args, **kwargs):
        self.count += 1


def test_a_sweep_outlives_nodes_that_leave_and_uses_those_that_join(tmp_path):
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": QUICK})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        cluster.wait_for_nodes()
        resources = {"checkpoint_every": 0}
        search = {"trajectories": 30, "readouts_per_trajectory": 2, "sampler": "random", "pruner": "none"}
        sweep = {**SWEEP, "resources": resources, "search": search}
        waiter, errors = Waiter(), []

        def drive():
            try:
                launch(sweep, out=tmp_path / "run", address=cluster.address, listener=waiter)
            except BaseException as error:
                errors.append(error)
                raise

        thread = threading.Thread(target=drive)
        thread.start()
        until(lambda: waiter.count >= 6 or errors, "measurements")
        cluster.remove_node(nodes[0], allow_graceful=False)
        seen = waiter.count
        until(lambda: waiter.count >= seen + 6 or errors, "measurements after a node left")
        cluster.add_node(num_cpus=1)
        thread.join(240)
        assert not thread.is_alive()
        assert not errors
    finally:
        cluster.shutdown()
    report = load_report(tmp_path / "run")
    assert report["finished"]
    asked = [trial for trial in report["trials"] if not trial["from_lattice"]]
    assert len(asked) == 60
    assert {trial["state"] for trial in report["trials"]} == {"complete"}
    assert {trial["number"] for trial in report["trials"]} == set(range(len(report["trials"])))


def test_a_driver_on_ray_that_is_told_to_stop_leaves_with_its_states_and_goes_on(tmp_path):
    import signal

    import tomli_w

    (tmp_path / "sweep.toml").write_text(tomli_w.dumps(SWEEP))
    folder = tmp_path / "run"
    process = command("launch", tmp_path / "sweep.toml", "--out", folder, "--quiet")
    assert until(lambda: count_lines(folder / "curves" / "curves.jsonl") >= 8, "progress", process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert f"towersweep resume {folder}" in errors
    process = command("resume", folder, "--quiet")
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    launch({**SWEEP, "resources": {}}, out=tmp_path / "whole", backend="inline")
    assert essence(trials_of(folder, "faults")) == essence(trials_of(tmp_path / "whole", "faults"))
    assert json.loads((folder / "report.json").read_text())["finished"]
