"""Devices: a scheduling thread a tower, determinism whatever ran before, shares of GPUs that hold."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from model.checks import SettingError
from model.devices import _gpu_memory, _visible_gpus, memory_limits, place, split_threads


def test_each_tower_has_a_scheduling_thread_and_its_share_of_the_others():
    """As conftest asks for: two towers, two threads."""
    assert tf.config.threading.get_inter_op_parallelism_threads() == 2
    assert tf.config.threading.get_intra_op_parallelism_threads() == 1


@pytest.mark.parametrize(("where", "device"), [("cpu", "/CPU:0"), ("first_tower", "/CPU:0")])
def test_towers_have_a_device_each(where, device):
    placement = place(2, 0.0, 2, where, pixels=64)
    assert placement.towers == ("/CPU:0", "/CPU:1")
    assert placement.variables == device


@pytest.mark.parametrize(
    ("threads", "towers", "pixels", "operations", "each"),
    [
        (1, 1, 64, 1, 1),
        (2, 1, 64, 2, 1),
        (2, 1, 576, 1, 2),
        (2, 2, 576, 2, 1),
        (4, 2, 576, 2, 2),
        (1, 2, 576, 1, 1),
    ],
)
def test_threads_go_to_whole_operations_where_those_are_short(threads, towers, pixels, operations, each):
    assert split_threads(threads, towers, pixels) == (operations, each)


LATE = """
import tensorflow as tf
tf.add(1, 1)
from model.checks import SettingError
from model.devices import place
try:
    place(2, 0.0, 2, "cpu", pixels=64)
except SettingError as error:
    print(error)
try:
    tf.random.uniform([1])
except RuntimeError:
    print("deterministic")
"""


def test_where_tensorflow_runs_already_towers_are_counted_and_determinism_holds():
    """An unseeded random operation is refused exactly where operations are to be deterministic."""
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == "model.towers is 2, but must be at most the 1 CPU devices that this process has"
    assert second == "deterministic"


@pytest.mark.parametrize(
    ("towers", "share", "memories", "limits"),
    [
        (2, 0.5, [1000], [[500, 500]]),
        (1, 0.5, [1000], [[500]]),
        (3, 0.5, [1000, 600], [[500, 500], [300]]),
        (3, 0.25, [1000, 600], [[250, 250, 250], [150]]),
        (2, 0.7, [1000, 600], [[700], [420]]),
    ],
)
def test_towers_fill_the_first_gpus_and_never_ask_for_more_than_there_is(towers, share, memories, limits):
    assert memory_limits(towers, share, memories) == limits
    assert all(sum(row) <= memory for row, memory in zip(limits, memories, strict=True))


def test_gpus_are_called_what_the_orchestrator_called_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, GPU-1a")
    assert _visible_gpus(2) == ["5", "GPU-1a"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert _visible_gpus(2) == ["0", "1"]


def fake_nvidia_smi(folder, monkeypatch, body):
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_the_memory_asked_for_is_that_gpus_own(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, 'case "$1" in --id=5) echo 24576;; *) echo 1;; esac')
    assert _gpu_memory("5") == 24576


@pytest.mark.parametrize("body", ["exit 9", "echo '[N/A]'"])
def test_a_share_of_unknown_memory_is_refused(tmp_path, monkeypatch, body):
    fake_nvidia_smi(tmp_path, monkeypatch, body)
    with pytest.raises(SettingError, match=r"resources\.gpus_per_tower .* cannot tell the memory of GPU 0"):
        _gpu_memory("0")
