"""What this machine offers, and what a sweep would ask of it. Imports neither TensorFlow nor Ray."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from sweeps.backends.slots import Demand, Node, fitting, num_slots
from sweeps.errors import ResourceError
from sweeps.trainable import Devices

if TYPE_CHECKING:
    from sweeps.config import Sweep

PACKAGES = ("towersweep", "tensorflow", "keras", "ray", "optuna", "optuna-dashboard", "numpy")


def machine_facts() -> dict[str, Any]:
    """Python, CPUs that this process may use, memory, GPUs, and versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "python": platform.python_version(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory / 2**30, 1),
        "gpus": gpu_names(),
        "versions": package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Installed versions of what a trial's results can depend on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_names() -> list[str]:
    """NVIDIA GPUs by name and memory, as the driver tells; empty where there is no driver."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    answer = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    return answer.stdout.strip().splitlines() if answer.returncode == 0 else []


def demand_facts(demand: Demand, workers: int | str, cpus: float, gpus: float) -> dict[str, Any]:
    """How many trajectories would run at a time here, or what is short."""
    facts: dict[str, Any] = {"each_trajectory_takes": str(demand), "shortages": []}
    try:
        facts["trajectories_at_a_time"] = num_slots([Node(cpus, gpus)], demand, workers)
    except ResourceError as error:
        facts["shortages"] = [str(error)]
    return facts


def devices_here(settings: Sweep, cpus: int, gpus: int) -> Devices:
    """A trajectory's devices, as nearly as this machine has them: on CPU where its GPUs do not suffice."""
    towers, resources = settings.num_towers, settings.resources
    demand = Demand(0, towers * resources.gpus_per_tower)
    on_gpus = demand.gpus > 0 and fitting(Node(cpus, gpus), demand) > 0
    threads = max(1, min(cpus, int(towers * resources.cpus_per_tower)))
    return Devices(towers, resources.gpus_per_tower if on_gpus else 0.0, threads)
