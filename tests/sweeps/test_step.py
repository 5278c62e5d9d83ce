"""The driver's pure step: by table, and by simulation with shuffled arrival orders."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeps import moves, step
from sweeps.moves import (
    Abandon,
    Advance,
    Ask,
    Finish,
    Keep,
    Lost,
    OpenGeneration,
    Past,
    Pause,
    Plan,
    Record,
    Release,
    Report,
    Save,
    Start,
    State,
    TakeState,
    Tell,
    Waiting,
)
from sweeps.pruning import Rule
from sweeps.records import (
    CurvePoint,
    Failure,
    FailureKind,
    Measurement,
    Score,
    Trajectory,
    TrialSpec,
    TrialState,
)

PLAN = Plan(rungs=(10, 30, 90), max_trajectories=4)
LOST = Failure(FailureKind.WORKER_LOST, "gone")


def trajectory(number, trials=2):
    specs = tuple(TrialSpec(number * trials + i, {"bn_momentum": 0.9 + i / 100}) for i in range(trials))
    return Trajectory(number, {"learning_rate": 0.01}, specs, seed=number)


def measurement(at, loss, train_loss=1.0, trials=2):
    scores = tuple(Score(loss + i, 0.5) for i in range(trials))
    return Measurement(at, (CurvePoint(at, train_loss, scores[0]),), scores)


def begin(plan=PLAN, slot=0, state=None):
    """A state with one trajectory running in ``slot``."""
    state, (ask,) = step.on_event(plan, state or State(), moves.SlotFree(slot, 0.0))
    assert isinstance(ask, Ask)
    return step.on_event(plan, state, moves.Asked(trajectory(ask.number), 0.0))


def reach(plan, state, slot, told, now):
    run = state.running[slot]
    return step.on_event(plan, state, moves.Reached(slot, run.trajectory.number, run.attempt, told, now))


def send_state(plan, state, slot, content, now, kind=moves.StateArrived):
    run = state.running[slot]
    return step.on_event(plan, state, kind(slot, run.trajectory.number, run.attempt, content, now))


def break_down(plan, state, slot, failure, now):
    run = state.running[slot]
    return step.on_event(plan, state, moves.Broke(slot, run.trajectory.number, run.attempt, failure, now))


def kinds(actions):
    return [type(action) for action in actions]


def test_a_free_slot_asks_and_the_answer_starts_at_the_first_rung():
    state, actions = begin()
    assert actions == (Start(0, trajectory(0), 1, 10),)
    assert state.num_asked == 1


def test_a_measurement_is_recorded_before_it_is_acted_on():
    state, _ = begin()
    _, actions = reach(PLAN, state, 0, measurement(10, 0.5), 1.0)
    assert kinds(actions) == [Record, Advance, Report]
    assert actions[1].to_step == 30


def test_a_bad_trajectory_is_pruned_with_a_reason_and_its_slot_refilled():
    state, _ = begin()
    state, _ = reach(PLAN, state, 0, measurement(10, 0.1), 1.0)
    state, _ = begin(slot=1, state=state)
    state, actions = reach(PLAN, state, 1, measurement(10, 0.9), 1.0)
    assert kinds(actions) == [Record, Report, Release, Finish, Tell, Ask]
    assert actions[3].outcome.state is TrialState.PRUNED
    assert "rank 2 of the latest 2" in actions[3].outcome.reason


def test_pruning_goes_by_the_best_readout_so_far():
    state, _ = begin()
    state, _ = reach(PLAN, state, 0, measurement(10, 0.2), 1.0)
    state, _ = begin(slot=1, state=state)
    state, _ = reach(PLAN, state, 1, measurement(10, 0.1), 1.0)
    state, _ = reach(PLAN, state, 0, measurement(30, 0.3), 2.0)
    # Slot 1 got worse at step 30, but its best so far (0.1) still beats the other's (0.2).
    _, actions = reach(PLAN, state, 1, measurement(30, 0.5), 2.0)
    assert kinds(actions) == [Record, Advance, Report]


def test_a_loss_that_is_no_number_ends_the_trajectory_as_diverged():
    state, _ = begin()
    _, actions = reach(PLAN, state, 0, measurement(10, 0.5, train_loss=float("nan")), 1.0)
    finish = next(a for a in actions if isinstance(a, Finish))
    assert finish.outcome.state is TrialState.PRUNED
    assert finish.outcome.reason == "step 10: diverged, the loss is no longer a number (step 10)"


def test_where_a_loss_ceased_to_be_a_number_is_told_apart_from_where_that_was_seen():
    points = (CurvePoint(3, 1.0), CurvePoint(6, float("inf")), CurvePoint(10, float("nan")))
    state, _ = begin()
    _, actions = reach(PLAN, state, 0, Measurement(10, points, (Score(0.5, 0.5),)), 1.0)
    finish = next(a for a in actions if isinstance(a, Finish))
    assert finish.outcome.reason.endswith("(step 6)")


def test_the_best_few_are_kept_and_the_worst_of_them_dropped():
    plan = replace(PLAN, rungs=(10,), keep_checkpoints=2)
    state, _ = begin(plan)
    kept = []
    for following, loss in enumerate((0.5, 0.4, 0.3), start=1):
        state, actions = reach(plan, state, 0, measurement(10, loss), 1.0)
        assert kinds(actions) == [Record, TakeState, Report]
        state, actions = send_state(plan, state, 0, b"weights", 1.0)
        kept += [action for action in actions if isinstance(action, Keep)]
        assert any(isinstance(a, Finish) and a.outcome.state is TrialState.COMPLETE for a in actions)
        assert actions[-1] == Ask(following)
        state, _ = step.on_event(plan, state, moves.Asked(trajectory(following), 1.0))
    assert [(keep.trajectory, keep.drop) for keep in kept] == [(0, None), (1, None), (2, 0)]
    _, actions = reach(plan, state, 0, measurement(10, 0.9), 1.0)
    assert TakeState not in kinds(actions)


def test_a_lost_worker_is_tried_again_from_the_start_and_then_given_up():
    state, _ = begin()
    state, actions = break_down(PLAN, state, 0, LOST, 1.0)
    assert actions == (Lost(trajectory(0), 1, LOST), Start(0, trajectory(0), 2, 10))
    _, actions = break_down(PLAN, state, 0, LOST, 2.0)
    assert kinds(actions) == [Finish, Tell, Ask]
    assert actions[0].outcome.failure is LOST


@pytest.mark.parametrize("kind", [FailureKind.TRIAL_ERROR, FailureKind.INVALID_SETTINGS])
def test_an_error_in_the_trial_is_not_tried_again(kind):
    state, _ = begin()
    _, actions = break_down(PLAN, state, 0, Failure(kind, "boom"), 1.0)
    assert kinds(actions) == [Finish, Tell, Ask]
    assert actions[0].outcome.state is TrialState.FAILED


@pytest.mark.parametrize("kind", sorted(moves.OUT_OF_MEMORY))
def test_what_ran_out_of_memory_is_tried_once_more_with_no_other_beside_it(kind):
    short = Failure(kind, "too large")
    state, _ = begin()
    state, _ = begin(slot=1, state=state)
    state, actions = break_down(PLAN, state, 0, short, 1.0)
    assert kinds(actions) == [Lost]  # The other still runs; nothing is asked for meanwhile.
    state, actions = reach(PLAN, state, 1, measurement(10, 0.5, train_loss=float("nan")), 2.0)
    assert [a for a in actions if isinstance(a, Start)] == [Start(0, trajectory(0), 2, 10)]
    assert Ask not in kinds(actions)
    _, actions = break_down(PLAN, state, 0, short, 3.0)
    assert kinds(actions) == [Finish, Tell, Ask, Ask]
    assert actions[0].outcome.failure is short


def test_running_out_of_memory_and_losing_workers_are_counted_apart():
    state, _ = begin()
    state, _ = break_down(PLAN, state, 0, Failure(FailureKind.HOST_OUT_OF_MEMORY, "too large"), 1.0)
    state, actions = break_down(PLAN, state, 0, LOST, 2.0)
    assert kinds(actions) == [Lost, Start]
    _, actions = break_down(PLAN, state, 0, LOST, 3.0)
    assert kinds(actions)[0] is Finish


def test_a_second_attempt_does_not_compete_with_itself():
    state, _ = begin()
    state, _ = reach(PLAN, state, 0, measurement(10, 0.2), 1.0)
    state, _ = break_down(PLAN, state, 0, Failure(FailureKind.WORKER_LOST, "gone"), 1.5)
    state, _ = reach(PLAN, state, 0, measurement(10, 0.2), 2.0)
    assert state.rungs.values[0, 10] == ((0, 0.2),)


def test_when_time_is_up_nothing_is_asked_and_what_runs_ends_at_its_rung():
    plan = replace(PLAN, time_budget_seconds=60.0)
    state, _ = begin(plan)
    state, actions = reach(plan, state, 0, measurement(10, 0.1), 60.0)
    finish = next(a for a in actions if isinstance(a, Finish))
    assert finish.outcome.reason == "step 10: time budget of 60 s spent"
    assert step.is_over(plan, state)
    assert step.on_event(plan, state, moves.SlotFree(0, 61.0))[1] == ()


def test_when_time_is_up_what_was_measured_halts_on_its_way_and_ends_as_it_was():
    plan = replace(PLAN, time_budget_seconds=60.0)
    state, _ = begin(plan)
    state, _ = reach(plan, state, 0, measurement(10, 0.1), 5.0)
    state, actions = step.on_event(plan, state, moves.Tick(59.0))
    assert actions == ()
    state, actions = step.on_event(plan, state, moves.Tick(60.0))
    assert actions == (Pause(0),)
    state, actions = step.on_event(plan, state, moves.Tick(60.2))
    assert actions == ()  # It was asked to.
    state, actions = send_state(plan, state, 0, b"state", 61.0, moves.Paused)
    assert kinds(actions) == [Release, Finish, Tell]
    assert (actions[1].outcome.state, actions[1].measurement.step) == (TrialState.PRUNED, 10)
    assert actions[1].outcome.reason == "step 10: time budget of 60 s spent"
    assert step.is_over(plan, state)


def test_when_time_is_up_what_was_never_measured_goes_on_to_its_first_rung():
    plan = replace(PLAN, time_budget_seconds=60.0, checkpoint_seconds=1e9)
    state, _ = begin(plan)
    state, actions = step.on_event(plan, state, moves.Tick(61.0))
    assert actions == ()
    state, actions = reach(plan, state, 0, measurement(10, 0.1), 70.0)
    assert kinds(actions) == [Record, Report, Release, Finish, Tell]


def drive(plan, seconds_a_rung=1.0, slots=2, trials_of=lambda left: min(3, 3 if left is None else left)):
    """Run to the end, two slots in turn; each trajectory has three trials where the budget lets it."""
    state, clock, asked = State(), 0.0, []
    queue = [moves.SlotFree(slot, 0.0) for slot in range(slots)]
    while queue:
        event = queue.pop(0)
        state, actions = step.on_event(plan, state, event)
        for action in actions:
            if isinstance(action, Ask):
                asked.append(trials_of(action.max_trials))
                queue.append(moves.Asked(trajectory(action.number, asked[-1]), clock, action.max_trials))
            if isinstance(action, Start | Advance):
                clock += seconds_a_rung
                run = state.running[action.slot].trajectory
                told = measurement(action.to_step, 0.5, trials=len(run.trials))
                queue.append(moves.Reached(action.slot, run.number, 1, told, clock))
            if isinstance(action, TakeState):
                run = state.running[action.slot].trajectory
                queue.append(moves.StateArrived(action.slot, run.number, 1, b"", clock))
    return state, asked


@given(st.integers(1, 40))
def test_a_budget_of_trials_is_exact(budget):
    plan = replace(PLAN, max_trajectories=1000, max_trials=budget, trials_per_trajectory=8, rule=Rule("none"))
    state, asked = drive(plan)
    assert sum(asked) == budget == state.num_trials
    assert step.budget_spent(plan, state) == f"{budget} trials asked for"


@given(st.integers(1, 12))
def test_a_budget_of_trajectories_is_exact(budget):
    state, asked = drive(replace(PLAN, max_trajectories=budget, rule=Rule("none")))
    assert len(asked) == budget == state.num_asked


def test_device_seconds_are_slot_time_times_towers():
    plan = replace(PLAN, max_trajectories=1, devices_per_trajectory=2, rule=Rule("none"))
    state, _ = drive(plan, seconds_a_rung=10.0, slots=1)
    assert state.device_seconds == 2 * 30.0


def test_a_budget_of_device_seconds_stops_at_the_next_rung_and_says_so():
    plan = replace(PLAN, max_trajectories=1000, device_budget_seconds=35.0, devices_per_trajectory=2)
    state, _ = begin(plan)
    state, actions = reach(plan, state, 0, measurement(10, 0.5), 10.0)
    assert kinds(actions) == [Record, Advance, Report]
    assert step.device_seconds(plan, state) == 20.0
    state, actions = reach(plan, state, 0, measurement(30, 0.5), 20.0)
    assert kinds(actions) == [Record, Report, Release, Finish, Tell]
    assert actions[-1].outcome.reason == "step 30: budget of 35 device-seconds spent"
    assert state.device_seconds == 40.0


def test_the_lattice_counts_for_which_checkpoints_are_kept():
    plan = replace(PLAN, keep_checkpoints=1, rule=Rule("none"), rungs=(90,))
    state, _ = begin(replace(plan, max_trajectories=2))
    last = replace(measurement(90, 0.5), lattice_scores=(Score(0.1, 0.9), Score(0.7, 0.9)))
    assert last.winning_cell == 0
    state, _ = reach(plan, state, 0, last, 1.0)
    state, _ = send_state(plan, state, 0, b"", 1.0)
    assert state.kept == ((0.1, 0),)


LONG = replace(PLAN, checkpoint_seconds=60.0)


def test_a_state_is_saved_at_a_rung_once_it_is_time():
    state, _ = begin(LONG)
    state, actions = reach(LONG, state, 0, measurement(10, 0.5), 60.0)
    assert kinds(actions) == [Record, TakeState, Report]
    state, actions = send_state(LONG, state, 0, b"at 10", 61.0)
    assert actions == (Save(0, 10, b"at 10"), Advance(0, 30))
    _, actions = reach(LONG, state, 0, measurement(30, 0.5), 62.0)
    assert kinds(actions) == [Record, Advance, Report]


def test_a_run_that_takes_long_to_its_rung_is_paused_saved_and_goes_on():
    state, _ = begin(LONG)
    state, actions = step.on_event(LONG, state, moves.Tick(60.0))
    assert actions == (Pause(0),)
    assert step.on_event(LONG, state, moves.Tick(61.0))[1] == ()
    state, actions = send_state(LONG, state, 0, b"on the way", 62.0, moves.Paused)
    assert actions == (Save(0, 0, b"on the way"), Advance(0, 10))
    _, actions = reach(LONG, state, 0, measurement(10, 0.5), 63.0)
    assert kinds(actions) == [Record, Advance, Report]


def test_a_run_that_cannot_pause_is_saved_at_its_rung():
    state, _ = begin(LONG)
    state, _ = step.on_event(LONG, state, moves.Tick(60.0))
    _, actions = reach(LONG, state, 0, measurement(10, 0.5), 70.0)
    assert kinds(actions) == [Record, TakeState, Report]


def test_another_attempt_goes_on_from_the_state_that_was_saved_last():
    state, _ = begin(LONG)
    state, _ = reach(LONG, state, 0, measurement(10, 0.5), 60.0)
    state, _ = send_state(LONG, state, 0, b"at 10", 61.0)
    state, actions = break_down(LONG, state, 0, LOST, 70.0)
    assert actions[-1] == Start(0, trajectory(0), 2, 30, saved=10)
    assert state.running[0].past.best == 0.5


@pytest.mark.parametrize(
    ("plan", "field"),
    [
        (replace(PLAN, rung_timeout_seconds=5.0), "resources.rung_timeout"),
        (replace(PLAN, trial_timeout_seconds=7.0), "resources.trial_timeout"),
    ],
)
def test_a_worker_that_does_not_answer_is_abandoned_and_its_trajectory_tried_again(plan, field):
    state, _ = begin(plan)
    state, _ = reach(plan, state, 0, measurement(10, 0.5), 3.0)
    assert step.on_event(plan, state, moves.Tick(6.9))[1] == ()
    state, actions = step.on_event(plan, state, moves.Tick(8.0))
    assert kinds(actions) == [Abandon, Lost, Start]
    assert actions[1].failure.kind is FailureKind.TIMED_OUT
    assert field in actions[1].failure.message
    _, actions = step.on_event(plan, state, moves.Tick(16.0))
    assert kinds(actions) == [Abandon, Finish, Tell, Ask]


def test_what_comes_late_or_twice_changes_nothing():
    state, _ = begin()
    first = moves.Reached(0, 0, 1, measurement(10, 0.5), 1.0)
    state, _ = step.on_event(PLAN, state, first)
    assert step.on_event(PLAN, state, first) == (state, ())
    state, _ = break_down(PLAN, state, 0, LOST, 1.0)
    assert step.on_event(PLAN, state, moves.Reached(0, 0, 1, measurement(10, 0.5), 1.0)) == (state, ())
    assert step.on_event(PLAN, state, moves.Broke(0, 0, 1, LOST, 1.0)) == (state, ())
    assert step.on_event(PLAN, state, moves.SlotFree(0, 1.0)) == (state, ())


def test_a_lost_node_gives_its_trajectory_back_without_fault_and_takes_its_slot_along():
    plan = replace(PLAN, retries=0)
    state, _ = begin(plan)
    state, actions = step.on_event(plan, state, moves.SlotLost(0, LOST, 1.0))
    assert kinds(actions) == [Lost]
    assert (state.running, state.idle) == ({}, frozenset())
    assert not step.is_over(plan, state)
    _, actions = step.on_event(plan, state, moves.SlotFree(7, 2.0))
    assert actions == (Start(7, trajectory(0), 2, 10),)


def test_a_stop_pauses_what_runs_and_leaves_with_its_state():
    state, _ = begin()
    state, _ = begin(slot=1, state=state)
    state, actions = step.on_event(PLAN, state, moves.StopAsked(1.0))
    assert actions == (Pause(0), Pause(1))
    state, actions = send_state(PLAN, state, 0, b"on the way", 2.0, moves.Paused)
    assert actions == (Save(0, 0, b"on the way"), Release(0))
    state, actions = reach(PLAN, state, 1, measurement(10, 0.5), 2.0)
    assert kinds(actions) == [Record, TakeState, Report]
    assert not step.is_over(PLAN, state)
    state, actions = send_state(PLAN, state, 1, b"at 10", 3.0)
    assert actions == (Save(1, 10, b"at 10"), Release(1))
    assert step.is_over(PLAN, state)
    assert [each.past.saved for each in state.waiting] == [10, 0]


def test_a_sweep_whose_first_trials_all_fail_alike_gives_up():
    plan = replace(PLAN, max_trajectories=100, stop_after_failures=3)
    state, _ = begin(plan)
    for number in range(2):
        state, actions = break_down(plan, state, 0, Failure(FailureKind.TRIAL_ERROR, f"boom {number}"), 1.0)
        state, _ = step.on_event(plan, state, moves.Asked(trajectory(number + 1), 1.0))
    state, actions = break_down(plan, state, 0, Failure(FailureKind.TRIAL_ERROR, "boom"), 1.0)
    assert kinds(actions) == [Finish, Tell]
    assert step.is_over(plan, state)
    assert step.gave_up(plan, state) == "the first 3 trajectories all failed in the same way: error in the trial"


@pytest.mark.parametrize("other", [None, FailureKind.INVALID_SETTINGS])
def test_one_that_ends_otherwise_is_reason_enough_to_go_on(other):
    plan = replace(PLAN, max_trajectories=100, stop_after_failures=2)
    state, _ = begin(plan)
    for number, kind in enumerate([FailureKind.TRIAL_ERROR, other] + 3 * [FailureKind.TRIAL_ERROR]):
        if kind is None:
            state, _ = reach(plan, state, 0, measurement(10, 0.5, train_loss=float("nan")), 1.0)
        else:
            state, _ = break_down(plan, state, 0, Failure(kind, "boom"), 1.0)
        state, actions = step.on_event(plan, state, moves.Asked(trajectory(number + 1), 1.0))
        assert kinds(actions) == [Start]


def test_what_waits_when_time_is_up_ends_with_what_it_has():
    plan = replace(PLAN, time_budget_seconds=60.0)
    measured = Past(final=measurement(10, 0.5))
    state = State(num_asked=2, waiting=(Waiting(trajectory(0), 2, measured), Waiting(trajectory(1))))
    state, actions = step.on_event(plan, state, moves.Tick(60.0))
    ended = [action.outcome for action in actions if isinstance(action, Finish)]
    assert [outcome.state for outcome in ended] == [TrialState.PRUNED, TrialState.FAILED]
    assert ended[0].reason == "step 10: time budget of 60 s spent"
    assert ended[1].failure.kind is FailureKind.TIMED_OUT
    assert step.is_over(plan, state)


def test_a_deterministic_sweep_asks_by_generations_and_tells_in_order():
    plan = replace(PLAN, max_trajectories=4, generation=3, rungs=(10,), keep_checkpoints=1)
    state, actions = step.on_event(plan, State(), moves.SlotFree(0, 0.0))
    assert actions == (OpenGeneration(0), Ask(0), Ask(1), Ask(2))
    state, _ = step.on_event(plan, state, moves.SlotFree(1, 0.0))
    for number in range(3):
        state, _ = step.on_event(plan, state, moves.Asked(trajectory(number), 0.0))
    nan = float("nan")
    state, actions = reach(plan, state, 1, measurement(10, 0.5, train_loss=nan), 1.0)
    assert kinds(actions) == [Record, Report, Release, Finish, Start]  # 1 has ended, but 0 has not.
    state, actions = reach(plan, state, 0, measurement(10, 0.5, train_loss=nan), 2.0)
    assert [a.trajectory.number for a in actions if isinstance(a, Tell)] == [0, 1]
    _, actions = reach(plan, state, 1, measurement(10, 0.5, train_loss=nan), 3.0)
    assert actions[-3:] == (actions[-3], OpenGeneration(3), Ask(3))
    assert isinstance(actions[-3], Tell)


def test_a_deterministic_sweep_judges_by_earlier_generations():
    plan = replace(PLAN, max_trajectories=4, generation=2, rungs=(10, 30), keep_checkpoints=1)
    state, _ = step.on_event(plan, State(), moves.SlotFree(0, 0.0))
    for number, loss in enumerate((0.1, 0.9, 0.5, 0.05)):
        state, _ = step.on_event(plan, state, moves.Asked(trajectory(number), 0.0))
        if 0 not in state.running:
            state, _ = step.on_event(plan, state, moves.Asked(trajectory(number + 1), 0.0))
        state, actions = reach(plan, state, 0, measurement(10, loss), 1.0)
        stopped = [a.outcome.reason for a in actions if isinstance(a, Finish)]
        # 0.9 is judged by itself alone, whatever its sibling in the generation reached; 0.5 by 0.1 and 0.9.
        assert bool(stopped) == (number == 2)
        if number == 2:
            assert "rank 2 of the latest 3" in stopped[0]
        else:
            state, _ = reach(plan, state, 0, measurement(30, loss, train_loss=float("nan")), 2.0)
