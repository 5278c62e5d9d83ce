"""When to stop a trajectory early: pure rules over the values that trajectories reached at each rung.

Optuna's pruners decide per trial; here the unit of work is a trajectory, which many trials share, so the
decision is taken once, on the trajectory's best readout so far. Rules: asynchronous successive halving in its
stopping form (Li et al., arXiv 1810.05934) and Hyperband's brackets over it (Li et al., arXiv 1603.06560).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
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
    """Which pruner, and how hard it prunes: about one in ``reduction_factor`` passes a rung."""

    pruner: str = "asha"
    reduction_factor: int = 3


@dataclass(frozen=True)
class Rungs:
    """What every trajectory reached: for each (bracket, step) the sorted values, one a trajectory."""

    values: Mapping[tuple[int, int], tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))

    def with_value(self, bracket: int, step: int, value: float) -> Rungs:
        """These rungs and one more value."""
        row = list(self.values.get((bracket, step), ()))
        insort(row, value)
        return Rungs(MappingProxyType({**self.values, (bracket, step): tuple(row)}))


def bracket_of(rule: Rule, trajectory: int, num_rungs: int) -> int:
    """Which bracket a trajectory competes in: bracket b is never pruned at the first b rungs."""
    return trajectory % num_rungs if rule.pruner == "hyperband" else 0


def reason_to_prune(rule: Rule, rungs: Rungs, bracket: int, rung: int, step: int, value: float) -> str | None:
    """Why the trajectory that reached ``value`` at ``step``, rung ``rung``, should stop; None to go on.

    ``rungs`` already holds the value. The first to arrive goes on, and so do ties.
    """
    if rule.pruner == "none" or rung < bracket:
        return None
    row = rungs.values[bracket, step]
    better = bisect_left(row, value)
    kept = max(1, ceil(len(row) / rule.reduction_factor))
    if better < kept:
        return None
    return f"step {step}: best eval_loss {value:.4g} is rank {better + 1} of {len(row)}, outside the best {kept}"
