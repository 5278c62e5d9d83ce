"""The command line as a user meets it: real processes, exit statuses, one-line errors, light start-up."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SWEEP = """
name = "quadratic"
trainable = "tests.support.trainables:Quadratic"
[run]
steps = 90
[space.parameters.rate]
type = "float"
low = 0.001
high = 0.5
log = true
[space.parameters.offset]
type = "categorical"
choices = [0.0, 0.125, 0.25]
[search]
trajectories = 6
readouts_per_trajectory = 2
"""


@pytest.fixture
def sweep_file(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text(SWEEP)
    return path


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def towersweep(*args, cwd=None, **options):
    command = [sys.executable, "-m", "sweeps", *map(str, args)]
    return subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False, timeout=120, **options
    )


@pytest.fixture
def finished(sweep_file, tmp_path):
    done = towersweep("launch", sweep_file, "--out", tmp_path / "run", "--backend", "inline")
    assert done.returncode == 0, done.stderr
    return tmp_path / "run"


def test_a_sweep_prints_results_on_stdout_and_progress_on_stderr(sweep_file, tmp_path):
    done = towersweep("launch", sweep_file, "--out", "out", "--backend", "inline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "6 trajectories, 12 trials" in done.stdout
    assert "best: eval_loss" in done.stdout
    assert "report: out/report.html" in done.stdout
    assert "first measurement" in done.stderr
    assert "sweep quadratic: 1 slot, rungs at steps 10, 30, 90" in done.stderr
    assert "\x1b[" not in done.stderr


def test_quiet_is_quiet(sweep_file, tmp_path):
    done = towersweep("launch", sweep_file, "--out", "out", "--backend", "inline", "--quiet", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_one_object_a_line(sweep_file, tmp_path):
    done = towersweep("launch", sweep_file, "--out", "o", "--backend", "inline", "--json", "--quiet", cwd=tmp_path)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "sweep_began"
    assert kinds[-2:] == ["sweep_ended", "result"]
    assert kinds.count("trajectory_began") == kinds.count("trajectory_ended") == 6
    ended = [event for event in events if event["event"] == "trajectory_ended"]
    assert {event["state"] for event in ended} == {"complete", "pruned"}
    best = min(value for event in ended if event["state"] == "complete" for value in event["values"].values())
    assert events[-1]["best"]["value"] == best


def test_status_and_report_of_a_finished_sweep(finished):
    status = towersweep("status", finished, "--json")
    size = json.loads(status.stdout)["folder_bytes"]
    assert size["curves"] == (finished / "curves" / "curves.jsonl").stat().st_size
    assert size["total"] == sum(path.stat().st_size for path in finished.rglob("*") if path.is_file())
    assert "\nrun folder: " in towersweep("status", finished).stdout
    facts = json.loads(status.stdout)
    assert facts["state"] == "finished"
    assert facts["counts"]["trajectories"] == 6
    before = json.loads((finished / "report.json").read_text())
    for name in ("report.json", "trials.csv", "report.html"):
        (finished / name).unlink()
    assert towersweep("report", finished).returncode == 0
    assert json.loads((finished / "report.json").read_text()) == before
    assert (finished / "report.html").stat().st_size > 1_000_000


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["launch", "nowhere.toml"], "nowhere.toml: cannot be read"),
        (["launch", "digit"], "(did you mean 'digits'?)"),
        (["launch", "broken.toml"], "broken.toml: is not TOML: Invalid value (at line 2, column 9)"),
        (
            ["launch", "my.toml", "--set", "run.stepz=3"],
            "run.stepz is 3, but must be a known key (did you mean 'steps'?)",
        ),
        (["launch", "my.toml", "--set", "run.steps='x'"], "run.steps is 'x', but must be a whole number"),
        (
            ["launch", "digits", "--set", "train.batch_size=101"],
            "train.batch_size is 101, but must be a multiple of",
        ),
        (["launch", "my.toml", "--trajectories", "0"], "search.trajectories is 0, but must be at least 1"),
        (["launch", "my.toml", "--time-budget", "0"], "search.time_budget is 0, but must be above 0"),
        (["launch", "my.toml", "--time-budget", "-5s"], "search.time_budget is '-5s', but must be a duration"),
        (["launch", "my.toml", "--trajectories", "many"], "'many' is not a valid integer"),
        (["launch", "my.toml", "--backend", "slurm"], "backend is 'slurm', but must be one of ray, inline"),
        (
            ["launch", "my.toml", "--set", "resources.gpus_per_tower=1.5"],
            "resources.gpus_per_tower is 1.5, but must be",
        ),
        (
            ["launch", "my.toml", "--out", "my.toml/run"],
            "but must be a folder that can be written (Not a directory)",
        ),
        (["launch", "my.toml", "--out", "."], "but must be a new folder"),
        (
            ["launch", "my.toml", "--set", "storage.url=postgresql+psycopg://me:s3cret@127.0.0.1:1/x"],
            "storage.url is 'postgresql+psycopg://me:***@127.0.0.1:1/x', but must be an Optuna storage",
        ),
        (["launch", "my.toml", "--address", "127.0.0.1:1"], "must be a Ray cluster's that answers ([Errno 111]"),
        (
            ["launch", "my.toml", "--address", "auto"],
            "--address is 'auto', but must be a Ray cluster's that answers",
        ),
        (["launch", "my.toml", "--colour"], "no such option"),
        (["lunch"], "no such command 'lunch'"),
        (["status", "."], "run folder is '.', but must be a folder that holds a sweep.toml"),
        (["resume", "nowhere"], "run folder is 'nowhere', but must be a folder that holds a sweep.toml"),
        (["report", "nowhere"], "run folder is 'nowhere'"),
        (["evaluate", "nowhere"], "run folder is 'nowhere'"),
        (["view", "nowhere"], "run folder is 'nowhere'"),
        (["diagnose", "nowhere"], "run folder is 'nowhere'"),
        (["view", ".", "--port", "99999"], "99999 is not in the range"),
        (["doctor", "digit"], "(did you mean 'digits'?)"),
    ],
)
def test_bad_input_is_status_2_one_line_and_nothing_left_behind(tmp_path, args, message):
    (tmp_path / "my.toml").write_text(SWEEP)
    (tmp_path / "broken.toml").write_text("[train]\nsteps = = 3")
    done = towersweep(*args, cwd=tmp_path)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert "s3cret" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.toml", "my.toml"]


@pytest.mark.ray
def test_a_shortage_is_named_before_anything_starts(tmp_path):
    (tmp_path / "my.toml").write_text(SWEEP)
    done = towersweep("launch", "my.toml", "--set", "resources.cpus_per_tower=4096", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: resources: each trajectory asks for 4096 CPUs on one node")
    assert "CPUs short" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


def test_a_port_in_use_is_refused(finished):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = towersweep("view", finished, "--port", port)
    assert done.returncode == 2
    assert f"port is {port}, but must be" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_interrupt_is_status_130_and_the_sweep_goes_on(sweep_file, tmp_path):
    command = [
        sys.executable,
        "-m",
        "sweeps",
        "launch",
        str(sweep_file),
        "--out",
        "run",
        "--backend",
        "inline",
        "--json",
    ]
    with subprocess.Popen(
        [*command, "--trajectories", "100000"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while '"trajectory_ended"' not in process.stdout.readline():
            pass
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "towersweep resume run" in stderr
    assert "Traceback" not in stderr
    assert json.loads(towersweep("status", "run", "--json", cwd=tmp_path).stdout)["state"] == "interrupted"
    done = towersweep("resume", "run", "--trajectories", "1", "--backend", "inline", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(towersweep("status", "run", "--json", cwd=tmp_path).stdout)
    assert facts["counts"]["running"] == 0


IMPORTS = """
import sys
sys.argv = ["towersweep", *sys.argv[1:]]
try:
    from sweeps.cli import main
    main()
except SystemExit as done:
    heavy = {"tensorflow", "ray", "keras", "model.network"} & set(sys.modules)
    print(f"heavy={sorted(heavy)} status={done.code}", file=sys.stderr)
"""


@pytest.mark.parametrize(
    "args",
    [
        ["--help"],
        ["launch", "--help"],
        ["status", "{}"],
        ["report", "{}"],
        ["sweeps"],
        ["spaces"],
        ["schema"],
        ["doctor"],
        ["doctor", "digits", "--no-run"],
    ],
)
def test_what_does_not_train_imports_neither_tensorflow_nor_ray(finished, args):
    command = [sys.executable, "-c", IMPORTS, *(str(arg).format(finished) for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    assert "heavy=[] status=0" in done.stderr


@pytest.mark.parametrize(
    ("command", "expected"),
    [("sweeps", "digits"), ("spaces", "batch_norm"), ("datasets", "synthetic"), ("doctor", "cpus")],
)
def test_listings(command, expected):
    assert expected in towersweep(command).stdout
    assert expected in json.loads(towersweep(command, "--json").stdout)


def test_doctor_says_what_a_sweep_takes_and_that_its_readouts_keep_out_of_training():
    """The built-in network for real: two towers, batch normalization, averages."""
    done = towersweep("doctor", "digits", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["each_trajectory_takes"] == "1 CPU"
    assert facts["trajectories_at_a_time"] == len(os.sched_getaffinity(0))
    assert facts["readouts"] == {
        "checked": ["bn_momentum", "ema_decay"],
        "unchecked": [],
        "steps": 20,
        "identical": True,
        "culprits": [],
        "problem": None,
    }


def test_doctor_says_what_does_not_fit(tmp_path):
    (tmp_path / "my.toml").write_text(f"{SWEEP}[resources]\ncpus_per_tower = 4096\n")
    done = towersweep("doctor", "my.toml", "--json", cwd=tmp_path)
    assert done.returncode == 1
    facts = json.loads(done.stdout)
    assert "asks for 4096 CPUs" in facts["shortages"][0]
    assert facts["readouts"]["identical"]


READER = """
trainable = "tests.support.trainables:Reader"
[run]
behaviour = "BEHAVIOUR"
[space.parameters]
rate = {type = "float", low = 0.125, high = 0.375}
offset = {type = "categorical", choices = [0.0, 0.5]}
scale = {type = "float", low = 0.0, high = 1.0}
"""


@pytest.mark.parametrize(
    ("behaviour", "status", "text"),
    [
        ("well", 0, ["readouts offset, scale: no effect on training in 20 steps"]),
        ("talk", 0, ["readouts offset, scale: no effect on training in 20 steps"]),
        (
            "leak scale",
            1,
            [
                "readouts offset: no effect on training in 20 steps",
                "readouts scale: changes training, so it is no readout (train_loss at step 1: 0.28125 and 0.125)",
            ],
        ),
        ("random", 1, ["problem: the trainable is not deterministic", "readouts offset, scale: not checked"]),
        ("raise", 1, ["readouts problem: RuntimeError: boom (with rate=0.25 offset=0 scale=0)"]),
    ],
)
def test_doctor_tells_readouts_that_change_training(tmp_path, behaviour, status, text):
    (tmp_path / "my.toml").write_text(READER.replace("BEHAVIOUR", behaviour))
    shown, told = (towersweep("doctor", "my.toml", *flag, cwd=tmp_path) for flag in ([], ["--json"]))
    assert (shown.returncode, told.returncode) == (status, status)
    for line in text:
        assert line in " ".join(shown.stdout.split())
    readouts = json.loads(told.stdout)["readouts"]
    assert readouts["identical"] == (status == 0)
    leaking = [{"parameter": "scale", "step": 1, "first": 0.28125, "second": 0.125}]
    assert readouts["culprits"] == (leaking if behaviour == "leak scale" else [])
    assert "Traceback" not in shown.stderr + told.stderr


def test_doctor_trains_nothing_when_told_so(tmp_path):
    (tmp_path / "my.toml").write_text(READER.replace("BEHAVIOUR", "exit"))
    done = towersweep("doctor", "my.toml", "--no-run", "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert "readouts" not in json.loads(done.stdout)


def test_doctor_imports_no_tensorflow_where_there_is_no_readout(tmp_path):
    (tmp_path / "my.toml").write_text('[space]\npreset = "learning_rate"\n')
    command = [sys.executable, "-c", IMPORTS, "doctor", "my.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env=environment())
    assert "heavy=[] status=0" in done.stderr
    assert "none to check in this space; nothing was run" in done.stdout


def test_diagnose_says_that_it_is_not_there_yet(finished):
    done = towersweep("diagnose", finished)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: diagnose is not there yet")


def test_a_closed_pipe_is_no_traceback(finished):
    shell = f"{sys.executable} -m sweeps schema | head -c 10"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True, env=environment())
    assert done.stderr == ""


def test_bad_data_is_one_line_and_nothing_is_written(tmp_path):
    path = tmp_path / "images.npz"
    np.savez(path, x=np.full((50, 8, 8), np.nan), y=np.arange(50) % 2)
    sweep = tmp_path / "mine.toml"
    sweep.write_text(f"[data]\ndataset = 'npz'\npath = '{path}'\n[train]\nbatch_size = 16\n")
    done = towersweep("launch", sweep, "--out", tmp_path / "run")
    assert done.returncode == 2
    rule = "x is 'not finite', but must be free of NaN and infinity"
    assert done.stderr == f"error: {sweep}: {path}: {rule}\n"
    assert not (tmp_path / "run").exists()


OWN_IMAGES = """
[data]
dataset = "npz"
path = "images.npz"
[model]
conv_widths = [4]
fc_widths = [8]
[train]
batch_size = 16
steps = 30
[search]
trajectories = 2
pruner = "none"
"""


def test_images_of_ones_own_are_swept(tmp_path):
    """The whole way, from an archive to report and evaluation; the data are summed up in the log."""
    rng = np.random.default_rng()
    labels = np.arange(200) % 4
    images = (60 * labels[:, None, None] + rng.integers(0, 40, (200, 8, 8))).astype(np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=labels)
    (tmp_path / "mine.toml").write_text(OWN_IMAGES)
    done = towersweep("launch", "mine.toml", "--out", "run", "--backend", "inline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["counts"]["complete"] == len(report["trials"]) > 2
    log = (tmp_path / "run" / "driver.log").read_text()
    assert "data: train 120, eval 40, test 40 images of 8x8x1 uint8, 4 classes of 30 to 30" in log
    rows = json.loads(towersweep("evaluate", tmp_path / "run", "--json").stdout)["rows"]
    assert {row["part"] for row in rows} == {"eval", "test"}
