"""What a watcher is told: counts, bests, time left; and a live view that draws on a real terminal."""

import io
import json

import pytest
from rich.console import Console

from sweeps.moves import Plan
from sweeps.progress import JsonLines, LiveProgress, PlainProgress, Tally, Together, duration
from sweeps.records import CurvePoint, Measurement, Outcome, Score, Trajectory, TrialSpec, TrialState, Verdict

PLAN = Plan(rungs=(10, 30), max_trajectories=10, time_budget_seconds=100.0)
DONE = Outcome(TrialState.COMPLETE, "reached its last step")
PRUNED = Outcome(TrialState.PRUNED, "step 10: worse")
FAILED = Outcome(TrialState.FAILED, "error in the trial: boom")


def trajectory(number):
    specs = (TrialSpec(2 * number, {"m": 0.9}), TrialSpec(2 * number + 1, {"m": 0.99}))
    return Trajectory(number, {"rate": 0.012345}, specs, 0)


def measurement(*losses, step=30):
    return Measurement(step, (CurvePoint(step, 1.0),), tuple(Score(loss, 0.5) for loss in losses))


def play(listener):
    listener.sweep_began("demo", 2, PLAN, 0.0)
    for number, losses in enumerate(((0.5, 0.4), (0.6, 0.7), (0.3, float("nan")))):
        listener.trajectory_began(number % 2, trajectory(number), 1, 1.0 + number)
        listener.measured(trajectory(number), measurement(*losses), 2.0 + number)
        listener.trajectory_ended(trajectory(number), DONE, Verdict.CONVERGED, measurement(*losses), 3.0 + number)
    listener.trajectory_began(1, trajectory(3), 2, 6.0)
    listener.trajectory_ended(trajectory(3), FAILED, Verdict.UNDETERMINED, None, 7.0)
    listener.tick(20.0)
    listener.sweep_ended(interrupted=False, now=21.0)


def test_the_tally_counts_trials_and_finds_the_best():
    tally = Tally(began=10.0, total=10, time_budget=100.0)
    assert tally.add(trajectory(0), DONE, Verdict.CONVERGED, measurement(0.5, 0.4))
    assert not tally.add(trajectory(1), DONE, Verdict.STALLED, measurement(0.6, 0.7))
    assert not tally.add(trajectory(2), PRUNED, Verdict.STALLED, measurement(0.1, 0.1))
    assert tally.best == (0.4, 1, Verdict.CONVERGED)
    assert tally.best_params == {"rate": 0.012345, "m": 0.99}
    assert tally.num_trials == 6
    assert tally.per_minute(now=40.0) == pytest.approx(12.0)
    # Three of ten took 30 s, so seven more take 70; but the budget leaves only 60.
    assert tally.seconds_left(now=40.0) == pytest.approx(60.0)


def test_plain_lines_say_little_and_in_order():
    stream = io.StringIO()
    play(PlainProgress(stream))
    lines = stream.getvalue().splitlines()
    assert [line.split("] ")[1].split(":")[0] for line in lines] == [
        "sweep demo",
        "first measurement",
        "new best",
        "new best",
        "trajectory 3 failed",
        "4/10 trajectories, 8 trials ended, best eval_loss 0.3 (trial 4), 24 trials/min, about 30 s left",
        "done",
    ]


def test_json_lines_hold_no_nan():
    stream = io.StringIO()
    play(JsonLines(stream))
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert events[0]["rungs"] == [10, 30]
    assert [event["values"] for event in events if event["event"] == "trajectory_ended"][2] == {
        "4": 0.3,
        "5": None,
    }


def test_the_live_view_shows_slots_bests_rate_and_time_left():
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=140, height=20, legacy_windows=False)
    with LiveProgress(console) as live:
        live.sweep_began("demo", 2, PLAN, 0.0)
        live.trajectory_began(1, trajectory(0), 1, 1.0)
        live.measured(trajectory(0), measurement(0.5, 0.4, step=10), 2.0)
        live._bars.refresh()
        assert "slot 1: trajectory 0" in stream.getvalue()
        assert "10/30" in stream.getvalue()
        live.trajectory_ended(trajectory(0), DONE, Verdict.CONVERGED, measurement(0.5, 0.4), 3.0)
        live._bars.refresh()
        live.sweep_ended(interrupted=False, now=3.0)
    assert "best 0.4  2 trials, 40/min  27 s left" in stream.getvalue()


def test_the_live_view_shows_a_slot_that_joined_later():
    stream = io.StringIO()
    with LiveProgress(Console(file=stream, force_terminal=True, width=140, height=20)) as live:
        live.sweep_began("demo", 1, PLAN, 0.0)
        live.trajectory_began(7, trajectory(0), 2, 1.0)
        live._bars.refresh()
        live.sweep_ended(interrupted=False, now=3.0)
    assert "slot 7: trajectory 0 (attempt 2)" in stream.getvalue()


def test_together_tells_everyone():
    streams = [io.StringIO(), io.StringIO()]
    play(Together([PlainProgress(stream) for stream in streams]))
    assert streams[0].getvalue() == streams[1].getvalue() != ""


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (75, "1 min 15 s"), (7260, "2 h 1 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
