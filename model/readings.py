"""What a readout reads at a step: which row of weights, and which statistics. Equal readings score the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.config import TrialSettings


@dataclass(frozen=True)
class Reading:
    """``weights``: a row of the shadows, or None for the raw weights. ``momentum`` and ``decay``: the rows that
    the statistics are of, 0 where they make no difference; ``decay`` is there for averaged statistics alone.
    """

    weights: int | None
    statistics: str
    """moving, averaged, batch, re-estimated, or none (without batch normalization)."""
    momentum: int = 0
    decay: int = 0


def reading(
    settings: TrialSettings,
    momenta: Sequence[float],
    decays: Sequence[float],
    step: int,
    pair: tuple[float, float],
) -> Reading:
    """How ``train.eval_weights`` and ``train.eval_statistics`` say that the readout (momentum, decay) is read."""
    kind = settings.train.eval_statistics if settings.model.sites else "none"
    averaged = pair[1] > 0 and settings.train.eval_weights != "raw"
    return reading_of(settings, momenta, decays, step, pair, kind, averaged=averaged)


def reading_of(
    settings: TrialSettings,
    momenta: Sequence[float],
    decays: Sequence[float],
    step: int,
    pair: tuple[float, float],
    kind: str,
    *,
    averaged: bool,
) -> Reading:
    """Readout (momentum, decay) with raw or ``averaged`` weights and statistics of this ``kind``."""
    momentum = momenta.index(pair[0]) if kind in ("moving", "averaged") and settings.model.updates_per_step else 0
    row = _row(decays, pair[1], step, warmup=settings.model.ema_warmup) if pair[1] > 0 else 0
    return Reading(row if averaged else None, kind, momentum, row if kind == "averaged" else 0)


def _row(decays: Sequence[float], decay: float, step: int, *, warmup: bool) -> int:
    """The decay's row, or the first that is the same up to now: a warm-up still holds both below their caps."""
    held = np.float32(1 + step) / np.float32(10 + step)
    if warmup and np.float32(decay) >= held:
        return next(row for row, other in enumerate(decays) if np.float32(other) >= held)
    return list(decays).index(decay)
