"""Verdicts: by table on curves whose truth is known, and by simulation with correlated noise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import lfilter
from scipy.stats import theilslopes

from sweeps.config import ConvergenceSettings
from sweeps.convergence import plateau, slope_interval, verdict
from sweeps.records import Plateau, Verdict

THRESHOLDS = ConvergenceSettings()  # target .05, window a quarter, delta .02, margin .5, confidence .95
STEPS = np.arange(3, 301, 3)


def noise(scale, correlation=0.0, seed=0):
    """AR(1) noise of standard deviation ``scale``."""
    white = np.random.default_rng(seed).normal(size=len(STEPS))
    return scale * math.sqrt(1 - correlation**2) * lfilter([1.0], [1.0, -correlation], white)


def falling(floor, timescale=60.0, start=2.3):
    return floor + (start - floor) * np.exp(-STEPS / timescale)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (falling(0.01, 30), Verdict.CONVERGED),
        (falling(1.7, 30), Verdict.STALLED),
        (falling(1.7, 30) + noise(0.005), Verdict.STALLED),
        (np.full(len(STEPS), 2.3), Verdict.STALLED),
        (falling(0.0, 150), Verdict.IMPROVING),
        (falling(0.0, 150) + noise(0.02), Verdict.IMPROVING),
        (2.3 + STEPS / 200, Verdict.DIVERGED),
        (np.where(STEPS < 200, 1.0, np.nan), Verdict.DIVERGED),
        (np.where(STEPS < 200, 1.0, np.inf), Verdict.DIVERGED),
        (falling(1.7, 30) + noise(0.5), Verdict.UNDETERMINED),
        # The target was met, but not held: not converged.
        (np.where(STEPS == 285, 0.9, 0.01), Verdict.STALLED),
    ],
    ids=str,
)
def test_verdicts(curve, expected):
    assert verdict(STEPS, curve, THRESHOLDS) is expected


def test_noise_alone_is_no_proof_of_a_stall():
    """The slope of a noisy flat curve is not significant; that must not be enough to call it stalled."""
    curve = np.full(len(STEPS), 1.7) + noise(0.3, seed=4)
    inside = STEPS > 225
    _, _, low, high = theilslopes(curve[inside], STEPS[inside])
    assert low < 0 < high
    assert verdict(STEPS, curve, THRESHOLDS) is Verdict.UNDETERMINED


@pytest.mark.parametrize(
    ("num_points", "expected"), [(0, "undetermined"), (4, "undetermined"), (5, "undetermined")]
)
def test_few_points_are_undetermined(num_points, expected):
    assert verdict(STEPS[:num_points], [1.0] * num_points, THRESHOLDS).value == expected


def test_one_value_that_is_none_is_enough_to_have_diverged():
    assert verdict([3], [math.nan], THRESHOLDS) is Verdict.DIVERGED


def test_the_target_and_delta_are_the_files():
    curve = falling(0.2, 30)
    assert verdict(STEPS, curve, THRESHOLDS) is Verdict.STALLED
    assert verdict(STEPS, curve, ConvergenceSettings(target_loss=0.25)) is Verdict.CONVERGED
    slow = 1.0 - STEPS * 1e-4  # Gains .0075 over a window of 75 steps.
    assert verdict(STEPS, slow, THRESHOLDS) is Verdict.STALLED
    assert verdict(STEPS, slow, ConvergenceSettings(delta=0.005)) is Verdict.IMPROVING


def test_without_correlation_the_interval_is_scipys():
    x = np.arange(20.0)
    y = -0.1 * x + 0.01 * (-1.0) ** x  # Alternating residuals: correlation -1, taken as none.
    slope, _, low, high = theilslopes(y, x, alpha=0.95)
    assert slope_interval(x, y, 0.95) == pytest.approx((slope, low, high))


def test_correlated_noise_widens_the_interval_until_it_covers():
    """Nominal 95 %: SciPy's interval misses the true slope far too often under AR(1) noise of .7, ours less."""
    x = np.arange(25.0)
    ours = theirs = 0
    rng = np.random.default_rng(1)
    rounds = 200
    for _ in range(rounds):
        y = -0.01 * x + lfilter([1.0], [1.0, -0.7], rng.normal(size=25))
        _, low, high = slope_interval(x, y, 0.95)
        ours += low <= -0.01 <= high
        _, _, low, high = theilslopes(y, x, alpha=0.95)
        theirs += low <= -0.01 <= high
    assert theirs / rounds < 0.75
    assert ours / rounds > theirs / rounds + 0.1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 10) | st.just(float("nan")), max_size=60),
    st.integers(1, 20),
)
def test_every_curve_has_a_verdict(losses, every):
    steps = [every * (i + 1) for i in range(len(losses))]
    found = verdict(steps, losses, THRESHOLDS)
    assert found in Verdict
    assert (found is Verdict.DIVERGED) >= (not np.isfinite(losses).all())


REFERENCES = {"ln C": math.log(10), "label entropy": 2.1, "broken": math.nan}


@pytest.mark.parametrize(
    ("floor", "name"), [(2.29, "ln C"), (2.15, "label entropy"), (1.7, "label entropy"), (3.0, "ln C")]
)
def test_a_plateau_is_named_after_the_nearest_reference(floor, name):
    curve = np.full(len(STEPS), floor) + noise(0.001)
    found = plateau(STEPS, curve, REFERENCES, THRESHOLDS)
    window = curve[0.75 * STEPS[-1] < STEPS]
    assert found == Plateau(pytest.approx(np.median(window)), name, REFERENCES[name])


@pytest.mark.parametrize("curve", [falling(0.01, 30), falling(0.0, 150), np.full(len(STEPS), np.nan)], ids=str)
def test_what_has_not_stalled_has_no_plateau(curve):
    assert plateau(STEPS, curve, REFERENCES, THRESHOLDS) is None


def test_without_references_there_is_nothing_to_name():
    assert plateau(STEPS, np.full(len(STEPS), 2.3), {}, THRESHOLDS) is None
