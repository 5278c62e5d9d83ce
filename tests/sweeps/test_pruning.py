"""Pruning rules against Optuna's own successive halving, and by table."""

import math
import random

import pytest

from sweeps.pruning import Rule, Rungs, bracket_of, reason_to_prune, rung_steps


@pytest.mark.parametrize(
    ("total", "factor", "num", "expected"),
    [(300, 3, 3, (33, 100, 300)), (600, 2, 4, (75, 150, 300, 600)), (2, 3, 3, (1, 2)), (10, 3, 1, (10,))],
)
def test_rungs_are_geometric_and_end_at_the_last_step(total, factor, num, expected):
    assert rung_steps(total, factor, num) == expected


def decide(values, rule):
    """Feed values to one rung in turn; which of them go on?"""
    rungs, kept = Rungs(), []
    for value in values:
        rungs = rungs.with_value(0, 10, value)
        if reason_to_prune(rule, rungs, 0, 0, 10, value) is None:
            kept.append(value)
    return kept


def test_one_in_the_reduction_factor_goes_on():
    generator = random.Random(7)
    values = [generator.random() for _ in range(900)]
    kept = decide(values, Rule("asha", 3))
    # Independent count: a value passes if, when it arrived, it was within the best third of those before it.
    expected = [
        v for i, v in enumerate(values) if sorted(values[: i + 1]).index(v) < max(1, math.ceil((i + 1) / 3))
    ]
    assert kept == expected
    assert 0.3 < len(kept) / len(values) < 0.4


def test_the_first_goes_on_and_so_do_ties():
    assert decide([5.0, 5.0, 5.0, 5.0], Rule("asha", 3)) == [5.0] * 4


def test_an_infinite_value_never_beats_a_number():
    assert decide([1.0, math.inf], Rule("asha", 2)) == [1.0]


def test_none_never_prunes():
    assert decide([1.0, 2.0, 3.0], Rule("none", 3)) == [1.0, 2.0, 3.0]


def test_a_reason_names_step_value_and_rank():
    rungs = Rungs().with_value(0, 33, 0.1).with_value(0, 33, 0.61)
    reason = reason_to_prune(Rule("asha", 3), rungs, 0, 0, 33, 0.61)
    assert reason == "step 33: best eval_loss 0.61 is rank 2 of 2, outside the best 1"


def test_hyperband_brackets_take_turns_and_skip_their_first_rungs():
    rule = Rule("hyperband", 3)
    assert [bracket_of(rule, n, 3) for n in range(6)] == [0, 1, 2, 0, 1, 2]
    rungs = Rungs().with_value(1, 33, 0.1).with_value(1, 33, 9.0)
    assert reason_to_prune(rule, rungs, 1, 0, 33, 9.0) is None
    rungs = Rungs().with_value(1, 100, 0.1).with_value(1, 100, 9.0)
    assert reason_to_prune(rule, rungs, 1, 1, 100, 9.0) is not None


def test_adding_a_value_leaves_the_old_rungs_as_they_were():
    before = Rungs().with_value(0, 1, 3.0)
    after = before.with_value(0, 1, 2.0)
    assert before.values[0, 1] == (3.0,)
    assert after.values[0, 1] == (2.0, 3.0)
