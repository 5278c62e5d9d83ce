"""From measurements to entries and back, and from entries and study to the sweep's record."""

import json
import math

import pytest

from sweeps.history import (
    SweepFacts,
    assemble,
    end_entry,
    measurement_entry,
    read_history,
    session_entry,
    start_entry,
)
from sweeps.records import (
    CurvePoint,
    Failure,
    FailureKind,
    Measurement,
    Outcome,
    Plateau,
    Score,
    StoredTrial,
    Trajectory,
    TrialSpec,
    TrialState,
    Verdict,
)

TRAJECTORY = Trajectory(3, {"learning_rate": 0.01}, (TrialSpec(8, {"m": 0.9}), TrialSpec(9, {"m": 0.99})), seed=1)
FACTS = SweepFacts("x", "abc", 0, {}, {"learning_rate": "trajectory", "m": "readout"}, total_steps=30)


def stored(number, state=TrialState.COMPLETE, value=None):
    return StoredTrial(number, 3, state, {"learning_rate": 0.01}, value)


def measurements():
    points = (CurvePoint(5, 2.0, Score(1.9, 0.3), {"l2_loss": 0.25}), CurvePoint(10, 1.5, Score(1.4, 0.5)))
    yield Measurement(10, points, (Score(1.4, 0.5), Score(1.6, 0.4)), seconds=2.0)
    yield Measurement(30, (CurvePoint(30, 0.5, Score(0.6, 0.8)),), (Score(0.6, 0.8), Score(0.4, 0.9)), seconds=4.0)


def through_json(entries):
    """As the file does it; ``allow_nan=False`` because the file is read by others too."""
    return [json.loads(json.dumps(entry, allow_nan=False)) for entry in entries]


def entries():
    yield start_entry(TRAJECTORY, 1, 0.5)
    for now, measurement in zip((3.0, 8.0), measurements(), strict=True):
        yield measurement_entry(TRAJECTORY, 1, measurement, now)
    yield end_entry(TRAJECTORY, 1, Outcome(TrialState.COMPLETE, "reached its last step"), 9.0)
    yield session_entry(9.5, finished=True)


def record_of(
    entries,
    trials,
    judge=lambda steps, losses: Verdict.CONVERGED,
    locate=lambda steps, losses, references: None,
):
    return assemble(FACTS, trials, read_history(through_json(entries)), judge, locate)


def test_each_trial_has_its_own_scores_on_the_shared_curve():
    record = record_of(entries(), [stored(8, value=0.6), stored(9, value=0.4)])
    first, second = record.trials
    assert [(p.step, p.train_loss) for p in first.curve] == [(5, 2.0), (10, 1.5), (30, 0.5)]
    assert [p.score and p.score.eval_loss for p in first.curve] == [1.9, 1.4, 0.6]
    assert [p.score and p.score.eval_loss for p in second.curve] == [None, 1.6, 0.4]
    assert first.curve[0].metrics == {"l2_loss": 0.25}
    assert (first.seconds, first.attempts, first.steps) == (6.0, 1, 30)
    assert (first.started, first.ended) == (0.5, 9.0)
    assert record.best() == second
    assert (record.wall_seconds, record.finished) == (9.5, True)


def test_the_verdict_is_asked_once_a_trajectory_with_its_whole_curve():
    calls = []

    def judge(steps, losses):
        calls.append((list(steps), list(losses)))
        return Verdict.STALLED

    record = record_of(entries(), [stored(8), stored(9)], judge)
    assert calls == [([5, 10, 30], [2.0, 1.5, 0.5])]
    assert {trial.verdict for trial in record.trials} == {Verdict.STALLED}


def test_reference_losses_come_with_the_curve():
    """They are of the trajectory; what is not finite is left out, as JSON has no word for it."""
    measured = Measurement(
        10, (CurvePoint(10, 2.3),), (Score(2.3, 0.1),) * 2, references={"ln C": 2.30258, "none": math.inf}
    )

    def locate(steps, losses, references):
        assert (steps, losses) == ([10], [2.3])
        return Plateau(2.3, *next(iter(references.items())))

    record = record_of([measurement_entry(TRAJECTORY, 1, measured, 1.0)], [stored(8), stored(9)], locate=locate)
    assert [trial.plateau for trial in record.trials] == [Plateau(2.3, "ln C", 2.30258)] * 2


def test_numbers_that_are_none_survive_as_nan():
    bad = Measurement(10, (CurvePoint(10, math.nan),), (Score(math.inf, 0.1), Score(math.nan, 0.1)))
    record = record_of([measurement_entry(TRAJECTORY, 1, bad, 1.0)], [stored(8, TrialState.PRUNED)])
    assert math.isnan(record.trials[0].curve[0].train_loss)
    assert math.isnan(record.trials[0].value)


def test_a_second_attempt_counts_but_does_not_double_the_curve():
    twice = [*entries(), start_entry(TRAJECTORY, 2, 10.0)]
    twice += [measurement_entry(TRAJECTORY, 2, measurement, 12.0) for measurement in measurements()]
    record = record_of(twice, [stored(8, value=0.6)])
    assert [p.step for p in record.trials[0].curve] == [5, 10, 30]
    assert record.trials[0].attempts == 2
    assert not record.finished


def test_a_failure_keeps_its_kind_and_message():
    outcome = Outcome(TrialState.FAILED, "boom", Failure(FailureKind.TRIAL_ERROR, "boom", "traceback"))
    record = record_of([end_entry(TRAJECTORY, 1, outcome, 1.0)], [stored(8, TrialState.FAILED)])
    assert record.trials[0].failure == Failure(FailureKind.TRIAL_ERROR, "boom")


def test_a_trial_that_was_asked_for_but_never_started_is_there():
    record = record_of([], [stored(8, TrialState.RUNNING)])
    assert record.trials[0].curve == ()
    assert record.trials[0].value is None


def test_scores_on_the_test_part_go_to_their_trials_and_nowhere_else():
    scores, tests = (Score(0.5, 0.8), Score(0.4, 0.9)), (Score(0.7, 0.6), Score(math.nan, 0.1))
    measured = Measurement(30, (CurvePoint(30, 0.5, scores[0]),), scores, test_scores=tests)
    record = record_of([measurement_entry(TRAJECTORY, 1, measured, 1.0)], [stored(8), stored(9)])
    assert record.trials[0].test == tests[0]
    assert math.isnan(record.trials[1].test.eval_loss)
    assert [trial.value for trial in record.trials] == [0.5, 0.4]


def test_one_test_score_a_readout_or_none():
    with pytest.raises(ValueError, match="test_scores holds 1, but must hold none, or one a readout, 2"):
        Measurement(1, (CurvePoint(1, 0.5),), (Score(0.5, 0.8),) * 2, test_scores=(Score(0.5, 0.8),))
