"""When to stop a trajectory early: pure rules over the values that trajectories reached at each rung.

Optuna's pruners decide per trial; here the unit of work is a trajectory, which many trials share, so the
decision is taken once, on the trajectory's best readout so far. Rules: asynchronous successive halving in its
stopping form (Li et al., arXiv 1810.05934) and Hyperband's brackets over it (Li et al., arXiv 1603.06560).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from types import MappingProxyType


def rung_steps(total_steps: int, reduction_factor: int, num_rungs: int) -> tuple[int, ...]:
    """The steps at which trajectories are measured: geometric, rising, the last one ``total_steps``.

    >>> rung_steps(300, 3, 3)
    (33, 100, 300)
    """
    steps = {max(1, round(total_steps / reduction_factor**k)) for k in range(num_rungs)}
    return tuple(sorted(steps))


@dataclass(frozen=True)
class Rule:
    """Which pruner, and how hard it prunes: about one in ``reduction_factor`` passes a rung.

    A trajectory is compared with the latest ``window`` that reached its rung, by their numbers. A sampler that
    learns proposes better ones all the time: among all that ever came, most later ones would be of the best.
    """

    pruner: str = "asha"
    reduction_factor: int = 3
    window: int = 15


@dataclass(frozen=True)
class Rungs:
    """What the latest trajectories reached: for each (bracket, step) their (number, value) pairs."""

    values: Mapping[tuple[int, int], tuple[tuple[int, float], ...]] = field(
        default_factory=lambda: MappingProxyType({})
    )

    def with_value(self, rule: Rule, arrived: Arrival) -> Rungs:
        """These rungs and one more value. In whatever order values arrive, the same are left."""
        place = arrived.bracket, arrived.step
        row = sorted([*self.values.get(place, ()), (arrived.number, arrived.value)])[-rule.window :]
        return Rungs(MappingProxyType({**self.values, place: tuple(row)}))


@dataclass(frozen=True)
class Arrival:
    """A trajectory's best value so far, as it reached a rung: number ``rung``, at ``step``."""

    number: int
    bracket: int
    rung: int
    step: int
    value: float


def arrival(rule: Rule, number: int, rung: int, steps: Sequence[int], value: float) -> Arrival:
    """Trajectory ``number`` at a rung of ``steps``. Hyperband's bracket b is never pruned at the first b rungs."""
    bracket = number % len(steps) if rule.pruner == "hyperband" else 0
    return Arrival(number, bracket, rung, steps[rung], value)


def reason_to_prune(rule: Rule, rungs: Rungs, arrived: Arrival) -> str | None:
    """Why the trajectory should stop; None to go on.

    The first to arrive goes on, and so do ties. A trajectory that is late is compared with those that overtook it.
    """
    if rule.pruner == "none" or arrived.rung < arrived.bracket:
        return None
    row = rungs.values.get((arrived.bracket, arrived.step), ())
    others = [value for number, value in row if number != arrived.number]
    better = sum(value < arrived.value for value in others)
    kept = max(1, ceil((1 + len(others)) / rule.reduction_factor))
    if better < kept:
        return None
    place = f"rank {better + 1} of the latest {1 + len(others)}, outside the best {kept}"
    return f"step {arrived.step}: best eval_loss {arrived.value:.4g} is {place}"
