"""What this machine offers, and what a sweep would ask of it. Imports neither TensorFlow nor Ray."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sweeps.backends.slots import Demand, Node, num_slots
from sweeps.errors import ResourceError

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
