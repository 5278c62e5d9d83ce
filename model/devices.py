"""TensorFlow's devices for one worker process: set once, before anything runs.

A CPU serves as several towers through logical devices. GPUs are those that CUDA_VISIBLE_DEVICES leaves visible.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from model.checks import SettingError

logger = logging.getLogger(__name__)

SMALL_IMAGE = 16 * 16  # Pixels.


@dataclass(frozen=True)
class Placement:
    """Device names: one a tower, and where variables live."""

    towers: tuple[str, ...]
    variables: str


def place(
    num_towers: int, gpus_per_tower: float, threads: int, variable_placement: str, *, pixels: int
) -> Placement:
    """Set up the devices of this process and name them. ``pixels`` (H W) of an image say how large operations are.

    Raises SettingError if there are fewer devices than towers; TensorFlow fixes its devices when it first runs, so
    a later call can use no more of them than the first one made.
    """
    kind = "GPU" if gpus_per_tower > 0 else "CPU"
    try:
        _configure(kind, num_towers, gpus_per_tower, *split_threads(threads, num_towers, pixels))
    except RuntimeError:
        # TensorFlow runs already: its devices are fixed, and counting them below decides.
        logger.debug("devices were fixed before")
    # The same parameters and seed give the same measurements on the same kind of device. Unlike the devices, this
    # and the next can still be asked for when TensorFlow runs already.
    tf.config.experimental.enable_op_determinism()
    # What Grappler makes of a graph is worth a few hundredths of a step of 24x24 images on a CPU, and nothing of
    # one of 8x8 images; it takes a fifth of the time that a new structure needs before its first step.
    as_traced = kind == "CPU" and pixels <= SMALL_IMAGE
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": as_traced})
    available = len(tf.config.list_logical_devices(kind))
    if available < num_towers:
        rule = f"at most the {available} {kind} devices that this process has"
        raise SettingError("model.towers", num_towers, rule)
    towers = tuple(f"/{kind}:{index}" for index in range(num_towers))
    return Placement(towers, towers[0] if variable_placement == "first_tower" else "/CPU:0")


def split_threads(threads: int, num_towers: int, pixels: int) -> tuple[int, int]:
    """How many operations may run at a time, and the threads of each; ``threads`` are the whole worker's.

    Small images' operations are too short to be split: a step of the small network on 8x8 images takes 1.86 ms
    with 2 threads for whole operations and 2.39 with 2 threads for each; of 24x24 images as long both ways.
    """
    if pixels <= SMALL_IMAGE:
        return threads, 1
    # Towers run side by side where there are threads for it, and take turns where the slot is one thread.
    # Threads are split between them: kernels that fight for cores are slower than kernels of one thread each.
    return min(num_towers, threads), max(1, threads // num_towers)


def _configure(kind: str, num_towers: int, gpus_per_tower: float, at_a_time: int, threads_of_each: int) -> None:
    """Raises RuntimeError where TensorFlow has begun to run."""
    tf.config.threading.set_inter_op_parallelism_threads(at_a_time)
    tf.config.threading.set_intra_op_parallelism_threads(threads_of_each)
    if kind == "GPU":
        _configure_gpus(num_towers, gpus_per_tower)
    else:
        _configure_cpu(num_towers)


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
    limits = memory_limits(num_towers, gpus_per_tower, [_gpu_memory(gpu) for gpu in _visible_gpus(len(gpus))])
    for gpu, shares in zip(gpus, limits, strict=True):
        configurations = [tf.config.LogicalDeviceConfiguration(memory_limit=limit) for limit in shares]
        tf.config.set_logical_device_configuration(gpu, configurations)


def memory_mib(placement: Placement) -> float:
    """The most memory (MiB) that the towers' GPUs have held at a time; on CPU, that this process has."""
    if placement.towers[0].startswith("/CPU"):
        import resource

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most / 2**20 if sys.platform == "darwin" else most / 2**10
    used = [tf.config.experimental.get_memory_info(tower.lstrip("/"))["peak"] for tower in placement.towers]
    return float(sum(used)) / 2**20


def memory_limits(num_towers: int, gpus_per_tower: float, memories: Sequence[int]) -> list[list[int]]:
    """For each GPU, the memory limit (MiB) of each of its logical devices; the first GPUs are filled first.

    ``memories``: each GPU's memory (MiB). ``gpus_per_tower``: a fraction below 1. A GPU that no tower needs is one
    logical device.
    """
    towers_per_gpu = int(1 / gpus_per_tower)
    limits = []
    for index, memory in enumerate(memories):
        here = min(towers_per_gpu, num_towers - index * towers_per_gpu)
        limits.append([int(gpus_per_tower * memory)] * max(here, 1))
    return limits


def _visible_gpus(count: int) -> list[str]:
    """What nvidia-smi, which does not heed CUDA_VISIBLE_DEVICES, calls TensorFlow's GPUs 0, 1, ..."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def _gpu_memory(gpu: str) -> int:
    """The memory of a GPU, named by index or UUID, in MiB. Raises SettingError where nvidia-smi cannot tell."""
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        rule = f"a whole number, as nvidia-smi cannot tell the memory of GPU {gpu} to be shared ({error})"
        raise SettingError("resources.gpus_per_tower", "a fraction", rule) from error
