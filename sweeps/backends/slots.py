"""How many trajectories fit on which nodes: pure arithmetic over what nodes have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, inf

from sweeps.errors import ResourceError

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """What one machine offers; ``memory`` (bytes) is what workers may have together, 0 where that is unknown."""

    cpus: float
    gpus: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True)
class Demand:
    """What one running trajectory takes, all on one node: a whole number of GPUs, or a share of one."""

    cpus: float
    gpus: float = 0.0

    def __str__(self) -> str:
        gpus = "" if not self.gpus else f" and {self.gpus:g} GPU{'s' if self.gpus > 1 else ''}"
        return f"{self.cpus:g} CPU{'s' if self.cpus != 1 else ''}{gpus}"


def fitting(node: Node, demand: Demand) -> int:
    """How many trajectories ``node`` can run at a time. A share of a GPU never spans two."""
    by_cpu = floor(node.cpus / demand.cpus + _ROUNDING) if demand.cpus else inf
    if not demand.gpus:
        by_gpu: float = inf
    elif demand.gpus < 1:
        by_gpu = floor(node.gpus) * floor(1 / demand.gpus + _ROUNDING)
    else:
        by_gpu = floor(node.gpus / demand.gpus + _ROUNDING)
    return int(min(by_cpu, by_gpu))


def num_slots(nodes: Sequence[Node], demand: Demand, workers: int | str) -> int:
    """How many slots to make. Raises ResourceError, naming the shortage, if they can never be had."""
    total = sum(fitting(node, demand) for node in nodes)
    if total == 0:
        most_cpus, most_gpus = max(n.cpus for n in nodes), max(n.gpus for n in nodes)
        raise ResourceError(
            f"resources: each trajectory asks for {demand} on one node, but must fit the largest, "
            f"which has {most_cpus:g} CPUs and {most_gpus:g} GPUs{_shortage(demand, most_cpus, most_gpus)}"
        )
    if workers == "auto":
        return total
    if int(workers) > total:
        raise ResourceError(
            f"resources.workers is {workers}, but must be at most {total}: each takes {demand}, "
            f"and there are {sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs"
        )
    return int(workers)


def further_slots(
    nodes: Mapping[str, Node], taken: Sequence[str], demand: Demand, workers: int | str
) -> list[str]:
    """The node of each slot that can be made beside those on the nodes ``taken``: the least loaded first."""
    load = {name: taken.count(name) for name in nodes}
    room = {name: fitting(node, demand) for name, node in nodes.items()}
    wanted = inf if workers == "auto" else int(workers)
    found: list[str] = []
    while len(taken) + len(found) < wanted:
        free = [name for name in nodes if load[name] < room[name]]
        if not free:
            break
        found.append(min(free, key=load.__getitem__))
        load[found[-1]] += 1
    return found


def _shortage(demand: Demand, cpus: float, gpus: float) -> str:
    short = []
    if demand.cpus > cpus:
        short.append(f"{demand.cpus - cpus:g} CPUs")
    if demand.gpus > gpus:
        short.append(f"{demand.gpus - gpus:g} GPUs")
    return f" ({' and '.join(short)} short)" if short else ""
