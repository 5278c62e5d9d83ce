"""Pruning rules against Optuna's own successive halving, and by table."""

import math
import random

import pytest

from sweeps.pruning import Rule, Rungs, arrival, reason_to_prune, rung_steps

STEPS = (33, 100, 300)
ALL = 10**6


@pytest.mark.parametrize(
    ("total", "factor", "num", "expected"),
    [(300, 3, 3, (33, 100, 300)), (600, 2, 4, (75, 150, 300, 600)), (2, 3, 3, (1, 2)), (10, 3, 1, (10,))],
)
def test_rungs_are_geometric_and_end_at_the_last_step(total, factor, num, expected):
    assert rung_steps(total, factor, num) == expected


def decide(values, rule, numbers=None):
    """Feed values to the first rung in turn; which of them go on?"""
    rungs, kept = Rungs(), []
    for number, value in zip(numbers or range(len(values)), values, strict=True):
        arrived = arrival(rule, number, 0, STEPS, value)
        rungs = rungs.with_value(rule, arrived)
        if reason_to_prune(rule, rungs, arrived) is None:
            kept.append(value)
    return kept


def within(values, factor, window):
    """Independent count: a value passes if, when it arrived, it was within the best of the latest."""
    latest = [values[max(0, i + 1 - window) : i + 1] for i in range(len(values))]
    return [row[-1] for row in latest if sorted(row).index(row[-1]) < max(1, math.ceil(len(row) / factor))]


@pytest.mark.parametrize("window", [2, 15, ALL])
def test_one_in_the_reduction_factor_of_the_latest_goes_on(window):
    generator = random.Random(7)
    values = [generator.random() for _ in range(900)]
    kept = decide(values, Rule("asha", 3, window))
    assert kept == within(values, 3, window)
    if window > 2:  # Of two, one is kept: there is no third of them.
        assert 0.3 < len(kept) / len(values) < 0.4


def test_where_later_ones_are_better_the_window_still_prunes():
    """A sampler that learns, halving the loss every 60 trajectories: of all that ever came, most would pass."""
    generator = random.Random(11)
    values = [generator.random() * 0.5 ** (i / 60) for i in range(600)]
    assert len(decide(values, Rule("asha", 3, ALL))) / 600 > 0.7
    assert len(decide(values, Rule("asha", 3, 15))) / 600 < 0.45


def test_in_whatever_order_values_arrive_the_same_are_left():
    rule, generator = Rule("asha", 3, 5), random.Random(3)
    arrivals = [arrival(rule, number, number % 2, STEPS, generator.random()) for number in range(40)]
    left = []
    for _ in range(5):
        generator.shuffle(arrivals)
        rungs = Rungs()
        for each in arrivals:
            rungs = rungs.with_value(rule, each)
        left.append(dict(rungs.values))
    assert all(each == left[0] for each in left)
    assert [number for number, _ in left[0][0, 33]] == [30, 32, 34, 36, 38]


def test_a_late_one_is_compared_with_those_that_overtook_it():
    rule = Rule("asha", 2, 3)
    early = [0.1, 0.2, 0.3, 0.9, 0.8, 0.7]
    assert decide([*early, 0.6], rule, [1, 2, 3, 4, 5, 6, 0])[-1] == 0.6
    assert decide([*early, 0.85], rule, [1, 2, 3, 4, 5, 6, 0])[-1] != 0.85


def test_the_first_goes_on_and_so_do_ties():
    assert decide([5.0, 5.0, 5.0, 5.0], Rule("asha", 3)) == [5.0] * 4


def test_an_infinite_value_never_beats_a_number():
    assert decide([1.0, math.inf], Rule("asha", 2)) == [1.0]


def test_none_never_prunes():
    assert decide([1.0, 2.0, 3.0], Rule("none", 3)) == [1.0, 2.0, 3.0]


def test_a_reason_names_step_value_and_rank():
    rule, rungs = Rule("asha", 3), Rungs()
    for number, value in enumerate((0.1, 0.61)):
        arrived = arrival(rule, number, 0, STEPS, value)
        rungs = rungs.with_value(rule, arrived)
    reason = reason_to_prune(rule, rungs, arrived)
    assert reason == "step 33: best eval_loss 0.61 is rank 2 of the latest 2, outside the best 1"


def test_hyperband_brackets_take_turns_and_skip_their_first_rungs():
    rule = Rule("hyperband", 3)
    assert [arrival(rule, n, 0, STEPS, 1.0).bracket for n in range(6)] == [0, 1, 2, 0, 1, 2]
    for rung, pruned in ((0, False), (1, True)):
        rungs = Rungs().with_value(rule, arrival(rule, 1, rung, STEPS, 0.1))
        worse = arrival(rule, 4, rung, STEPS, 9.0)
        assert (reason_to_prune(rule, rungs.with_value(rule, worse), worse) is not None) is pruned


def test_adding_a_value_leaves_the_old_rungs_as_they_were():
    rule = Rule()
    before = Rungs().with_value(rule, arrival(rule, 0, 0, (1,), 3.0))
    after = before.with_value(rule, arrival(rule, 1, 0, (1,), 2.0))
    assert before.values[0, 1] == ((0, 3.0),)
    assert after.values[0, 1] == ((0, 3.0), (1, 2.0))
