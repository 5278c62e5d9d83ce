"""Losses with a name, that a plateau may be compared with. All are mean cross-entropies in nats."""

from __future__ import annotations

from functools import cache
from math import log

import numpy as np
from numpy.typing import NDArray

from model.config import TrialSettings

Array = NDArray[np.float64]


def references(settings: TrialSettings, num_classes: int, label_entropy: float) -> dict[str, float]:
    """By name: the loss of a network that knows everything, that knows nothing, that knows only the labels' shares
    (where these differ), or that has batch normalization on its logits without a gamma."""
    found = {"zero": 0.0, "ln C": log(num_classes)}
    if found["ln C"] - label_entropy > 1e-3:
        found["label entropy"] = label_entropy
    model = settings.model
    if "logits" in model.sites and not model.bn_gamma:
        towers = 1 if model.bn_statistics == "synchronized" else model.towers
        found["logits-BN floor"] = logits_bn_floor(num_classes, settings.train.batch_size // towers)
    return found


@cache
def logits_bn_floor(num_classes: int, num_images: int) -> float:
    """The least cross-entropy where every logit has mean 0 and variance 1 over a tower's ``num_images`` images.

    An oracle's: it knows the labels, which are as balanced as they can be; beta is 0 and epsilon nothing. Classes
    that no image has can share their logits, as the loss is concave in how they are spread; so they are one column
    here, counted as often as it stands for. Minimized with L-BFGS from near the best of two values a column.
    """
    if num_images < 2:
        return log(num_classes)
    from scipy.optimize import minimize

    labels = np.arange(num_images) % num_classes
    present = min(num_classes, num_images)
    counts = np.ones(present + 1)
    counts[present] = num_classes - present
    start = np.zeros((num_images, present + 1))
    start[np.arange(num_images), labels] = 1.0
    start[0, present] = -1.0  # Absent classes: low for one image, as they must be low for some.
    # Two values a column are a saddle; off it, every seed tried ends in the same minimum.
    start += 0.3 * np.random.default_rng(0).standard_normal(start.shape)

    def loss_and_gradient(flat: Array) -> tuple[float, Array]:
        raw = flat.reshape(start.shape)
        centred = raw - raw.mean(axis=0)
        deviation = np.sqrt((centred**2).mean(axis=0))
        logits = centred / deviation
        loss, upstream = _cross_entropy(logits, labels, counts)
        inner = upstream - upstream.mean(axis=0) - logits * (upstream * logits).mean(axis=0)
        return loss, np.ravel(inner / deviation)

    options = {"maxiter": 3000, "ftol": 1e-12, "gtol": 1e-9}
    found = minimize(loss_and_gradient, np.ravel(start), jac=True, method="L-BFGS-B", options=options)
    return float(found.fun)


def _cross_entropy(logits: Array, labels: NDArray[np.intp], counts: Array) -> tuple[float, Array]:
    """The mean loss and its gradient; column c stands for ``counts[c]`` classes with the same logits."""
    rows = np.arange(len(labels))
    powers = counts * np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    loss = -np.log(shares[rows, labels]).mean()
    shares[rows, labels] -= 1.0
    return float(loss), shares / len(labels)
