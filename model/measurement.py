"""What a run reports at a rung. Losses are mean cross-entropies in nats, accuracies are from 0 to 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """One readout on the eval part."""

    eval_loss: float
    eval_accuracy: float


@dataclass(frozen=True)
class CurvePoint:
    """``train_loss`` is the mean over the steps since the previous point; ``score`` the first readout's.

    ``metrics``: l2_loss, gradient_norm (means over the same steps, the norm before clipping); the entries of
    ``model.diagnostics`` at the step itself; images_per_second, memory_mib where training was halted.
    """

    step: int
    train_loss: float
    score: Score | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """The points since the previous measurement, and one score a readout at ``step``.

    ``references``: losses with a name, that a plateau may be compared with. ``test_scores``: at the last step
    only, the best readout's on the test part, which nothing is decided by; None for every other.
    """

    step: int
    curve: tuple[CurvePoint, ...]
    scores: tuple[Score, ...]
    seconds: float
    references: Mapping[str, float] = field(default_factory=dict)
    test_scores: tuple[Score | None, ...] = ()
