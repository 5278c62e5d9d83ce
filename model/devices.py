"""TensorFlow's devices for one worker process: set once, before anything runs.

A CPU serves as several towers through logical devices. GPUs are those that CUDA_VISIBLE_DEVICES leaves visible.
"""

from __future__ import annotations

import logging
import subprocess
from dataclasses import dataclass

import tensorflow as tf

from model.config import SettingError

logger = logging.getLogger(__name__)

INTER_OP_THREADS = 1


@dataclass(frozen=True)
class Placement:
    """Device names: one a tower, and where variables live."""

    towers: tuple[str, ...]
    variables: str


def place(num_towers: int, gpus_per_tower: float, threads: int, variable_placement: str) -> Placement:
    """Set up the devices of this process and name them.

    Raises SettingError if there are fewer devices than towers; TensorFlow fixes its devices when it first runs, so
    a later call can use no more of them than the first one made.
    """
    kind = "GPU" if gpus_per_tower > 0 else "CPU"
    try:
        _configure(kind, num_towers, gpus_per_tower, threads)
    except RuntimeError:
        # TensorFlow runs already: its devices are fixed, and counting them below decides.
        logger.debug("devices were fixed before")
    available = len(tf.config.list_logical_devices(kind))
    if available < num_towers:
        rule = f"at most the {available} {kind} devices that this process has"
        raise SettingError("model.towers", num_towers, rule)
    towers = tuple(f"/{kind}:{index}" for index in range(num_towers))
    return Placement(towers, towers[0] if variable_placement == "first_tower" else "/CPU:0")


def _configure(kind: str, num_towers: int, gpus_per_tower: float, threads: int) -> None:
    """Raises RuntimeError where TensorFlow has begun to run."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(INTER_OP_THREADS)
    if kind == "GPU":
        _configure_gpus(num_towers, gpus_per_tower)
    else:
        _configure_cpu(num_towers)
    # The same parameters and seed give the same measurements on the same kind of device.
    tf.config.experimental.enable_op_determinism()


def _configure_cpu(num_towers: int) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_visible_devices([], "GPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * num_towers)


def _configure_gpus(num_towers: int, gpus_per_tower: float) -> None:
    """Whole GPUs grow as needed; towers that share one get a memory limit each, as Ray's shares bind nobody."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus_per_tower >= 1:
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        return
    towers_per_gpu = max(1, int(1 / gpus_per_tower))
    for index, gpu in enumerate(gpus):
        here = min(towers_per_gpu, num_towers - index * towers_per_gpu)
        limit = int(gpus_per_tower * _gpu_memory_mebibytes(index))
        tf.config.set_logical_device_configuration(
            gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)] * max(here, 1)
        )


def _gpu_memory_mebibytes(index: int) -> int:
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(lines[min(index, len(lines) - 1)])
