"""The examples run as they stand, and the README's Python too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sweeps import load_report

ROOT = Path(__file__).parents[1]


def run(*args, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_api_example(tmp_path):
    said = run(str(ROOT / "examples" / "python_api.py"), cwd=tmp_path).splitlines()
    assert said[:2] == ["trajectories: 2", "trajectories: 3"]
    assert re.match(r"best: trial \d+, eval_loss \d+\.\d{3}, ", said[2])


@pytest.mark.ray
def test_a_trainable_of_ones_own_on_ray(tmp_path):
    """From the project's root, so that the example is found where the user's shell is, by workers too."""
    run("-m", "sweeps", "launch", "examples/own_trainable.toml", "--out", str(tmp_path / "own"), cwd=ROOT)
    report = load_report(tmp_path / "own")
    assert report["counts"]["trajectories"] == 12
    assert report["counts"]["failed"] == 0
    assert report["best"]["value"] < 0.01


def test_the_readmes_python(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert "'trajectories': 4" in run("-c", code, cwd=tmp_path)


def test_the_readmes_sweep_file_loads(tmp_path):
    from sweeps import config

    (text,) = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (tmp_path / "mine.toml").write_text(text)
    assert config.load(str(tmp_path / "mine.toml")).num_towers == 2
