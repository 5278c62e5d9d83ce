"""The learning rate of every step: constant, the tutorial's exponential decay, or a cosine, after a warm-up."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.config import TrainSettings


def learning_rates(train: TrainSettings, from_step: int, to_step: int) -> NDArray[np.float32]:
    """[to_step - from_step]: the rates of the steps from ``from_step``, which counts from 0.

    The warm-up rises in a straight line to the full rate at its last step. Decay counts from the start, as
    tf.train.exponential_decay with the global step does; the cosine (Loshchilov & Hutter, arXiv 1608.03983,
    without restarts) begins where the warm-up ends.
    """
    step = np.arange(from_step, to_step, dtype=np.float64)
    warm = train.lr_warmup_steps
    rising = np.minimum((step + 1) / warm, 1.0) if warm else np.ones_like(step)
    if train.lr_schedule == "exponential":
        exponent = step / train.lr_decay_steps
        factor = train.lr_decay_factor ** (np.floor(exponent) if train.lr_staircase else exponent)
    elif train.lr_schedule == "cosine":
        done = np.clip((step - warm) / max(train.steps - warm, 1), 0.0, 1.0)
        factor = (1 + np.cos(np.pi * done)) / 2
    else:
        factor = np.ones_like(step)
    return (train.learning_rate * rising * factor).astype(np.float32)
