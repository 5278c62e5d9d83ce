"""From a learning curve to a verdict: converged, stalled, diverged, improving, or undetermined.

The verdict is on the training cross-entropy over a last window of W steps. "Stalled" is an equivalence test: the
whole confidence interval of the gain over another W steps must lie below what matters (delta). That a slope is not
significant would prove nothing. Slopes are Theil and Sen's (Sen, 1968; SciPy's ``theilslopes``).

Points of a learning curve are serially correlated; an interval that takes them for independent is too narrow.
It is widened by sqrt(n / n_eff), with n_eff = n (1 - r) / (1 + r) for the lag-1 autocorrelation r of the residuals
(Bayley & Hammersley, 1946).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sweeps.records import Plateau, Verdict

MIN_POINTS = 5
MAX_CORRELATION = 0.9  # Above this a short series says nothing about its own correlation.

Array = NDArray[np.float64]


class Thresholds(Protocol):
    """The sweep file's [convergence] section."""

    @property
    def target_loss(self) -> float:
        """Cross-entropy (nats) that counts as converged."""

    @property
    def window_fraction(self) -> float:
        """W as a share of the steps run."""

    @property
    def delta(self) -> float:
        """The smallest gain (nats) over W steps that matters."""

    @property
    def margin(self) -> float:
        """How far (nats) above its start a loss must be to count as diverged."""

    @property
    def confidence(self) -> float:
        """Of the slope's interval."""


def verdict(steps: Sequence[int], train_loss: Sequence[float], thresholds: Thresholds) -> Verdict:
    """The verdict on a curve: ``train_loss`` (nats) at ``steps``, in order.

    Fewer than five points in the last window are undetermined, unless the loss is no number any more.
    """
    x, y = np.asarray(steps, dtype=float), np.asarray(train_loss, dtype=float)
    if not np.isfinite(y).all():
        return Verdict.DIVERGED
    if len(y) < MIN_POINTS:
        return Verdict.UNDETERMINED
    window_steps = thresholds.window_fraction * x[-1]
    inside = x > x[-1] - window_steps
    if np.median(y[inside]) > y[0] + thresholds.margin:
        return Verdict.DIVERGED
    if inside.sum() < MIN_POINTS:
        return Verdict.UNDETERMINED
    if (y[inside] <= thresholds.target_loss).all():
        return Verdict.CONVERGED
    slope, low, high = slope_interval(x[inside], y[inside], thresholds.confidence)
    if high < 0 and -slope * window_steps >= thresholds.delta:
        return Verdict.IMPROVING
    if -low * window_steps < thresholds.delta:
        return Verdict.STALLED
    return Verdict.UNDETERMINED


def plateau(
    steps: Sequence[int], train_loss: Sequence[float], references: Mapping[str, float], thresholds: Thresholds
) -> Plateau | None:
    """The median loss (nats) of a stalled curve's last window, and the nearest reference; None without any."""
    known = {name: loss for name, loss in references.items() if np.isfinite(loss)}
    if not known or verdict(steps, train_loss, thresholds) is not Verdict.STALLED:
        return None
    x, y = np.asarray(steps, dtype=float), np.asarray(train_loss, dtype=float)
    level = float(np.median(y[x > (1 - thresholds.window_fraction) * x[-1]]))
    name = min(known, key=lambda each: abs(known[each] - level))
    return Plateau(level, name, known[name])


def slope_interval(x: Array, y: Array, confidence: float) -> tuple[float, float, float]:
    """Theil-Sen slope (nats a step) and its interval, widened for serial correlation: (slope, low, high)."""
    from scipy.stats import theilslopes

    slope, intercept, low, high = theilslopes(y, x, alpha=confidence)
    widening = np.sqrt(1.0 / _effective_share(y - (intercept + slope * x)))
    return float(slope), float(slope - (slope - low) * widening), float(slope + (high - slope) * widening)


def _effective_share(residuals: Array) -> float:
    """n_eff / n, at most 1: negative correlation is not taken as a reason for more certainty."""
    centred = residuals - residuals.mean()
    power = float(centred @ centred)
    if power == 0.0:
        return 1.0
    r = min(max(float(centred[1:] @ centred[:-1]) / power, 0.0), MAX_CORRELATION)
    return (1 - r) / (1 + r)
