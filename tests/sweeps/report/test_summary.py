"""Counts and sentences, against counting by hand."""

import pytest

from sweeps.records import TrialState, Verdict
from sweeps.report.summary import (
    categories,
    parameter_names,
    runs,
    show,
    stall_sentence,
    tallies,
    verdict_counts,
)
from tests.support.records import mixed_sweep, sweep, trial


def placed(*spec):
    """One trajectory a pair: (placement, verdict)."""
    return runs(
        sweep(
            *(
                trial(i, params={"bn_placement": place, "learning_rate": 0.1 * (i + 1)}, verdict=verdict)
                for i, (place, verdict) in enumerate(spec)
            )
        )
    )


S, C, D, U = Verdict.STALLED, Verdict.CONVERGED, Verdict.DIVERGED, Verdict.UNDETERMINED


def test_trajectories_not_trials_are_counted_and_running_ones_left_out():
    assert verdict_counts(runs(mixed_sweep())) == {
        Verdict.CONVERGED: 1, Verdict.STALLED: 2, Verdict.DIVERGED: 2, Verdict.UNDETERMINED: 1,
    }  # fmt: skip


def test_a_trajectory_shows_its_shared_parameters_and_its_best_sibling():
    first = runs(mixed_sweep())[0]
    assert first.params == {"learning_rate": 0.003, "bn_placement": "conv", "bn_order": "before"}
    assert first.best is not None
    assert (first.best.number, first.num_trials) == (0, 2)


SENTENCES = [
    ([("logits", S), ("logits", S), ("logits", C), ("conv", C), ("conv", S), ("conv", C)],
     "Stalls with bn_placement logits (2 of 3); all others: 1 of 3."),
    ([("logits", S), ("logits", S), ("fc", S), ("fc", S)],
     "Stalls with bn_placement fc (2 of 2), logits (2 of 2)."),
    ([("logits", C), ("conv", D)], "No trajectory was seen to stall, whatever the bn_placement."),
    ([("logits", S), ("conv", C), ("conv", C)],
     "1 of 3 trajectories stalled, but no bn_placement stalled in most of its own."),
    ([("logits", S), ("logits", S), ("logits", U), ("logits", U), ("logits", U), ("conv", C), ("conv", U)],
     "Stalls with bn_placement logits (2 of 2); all others: 0 of 1. 4 of 7 ended too early to tell."),
    ([("logits", U), ("conv", C)],
     "No trajectory was seen to stall, whatever the bn_placement. 1 of 2 ended too early to tell."),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "says"), SENTENCES)
def test_which_placement_stalls(spec, says):
    assert stall_sentence("bn_placement", tallies(placed(*spec), "bn_placement")) == says


def test_placement_comes_first_and_numbers_are_no_categories():
    record = sweep(
        trial(0, params={"a": "x", "bn_placement": "conv", "rate": 0.1, "same": "s"}),
        trial(1, params={"a": "y", "bn_placement": "fc", "rate": 0.2, "same": "s"}),
    )
    assert categories(runs(record)) == ("bn_placement", "a")


def test_a_running_trajectory_and_an_inactive_parameter_are_in_no_tally():
    views = runs(
        sweep(
            trial(0, params={"bn_order": "after"}, verdict=S),
            trial(1, params={"bn_order": "after"}, verdict=S, state=TrialState.RUNNING),
            trial(2, params={}),
        )
    )
    assert [(t.value, t.total, t.stalled) for t in tallies(views, "bn_order")] == [("after", 1, 1)]


def test_declared_parameters_come_first_even_if_never_active():
    record = sweep(trial(params={"extra": 1}), roles={"b": "trajectory", "a": "readout"})
    assert parameter_names(record) == ("b", "a", "extra")


@pytest.mark.parametrize(
    ("value", "text"), [(True, "yes"), (False, "no"), (0.00123456, "0.001235"), (64, "64"), ("conv", "conv")]
)
def test_values_for_people(value, text):
    assert show(value) == text
