"""The driver's pure step: by table, and by simulation with shuffled arrival orders."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps import step
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
from sweeps.step import Advance, Ask, Finish, Keep, Plan, Record, Release, Report, Start, State, TakeState

PLAN = Plan(rungs=(10, 30, 90), max_trajectories=4)


def trajectory(number, trials=2):
    specs = tuple(TrialSpec(number * trials + i, {"bn_momentum": 0.9 + i / 100}) for i in range(trials))
    return Trajectory(number, {"learning_rate": 0.01}, specs, seed=number)


def measurement(at, loss, train_loss=1.0, trials=2):
    scores = tuple(Score(loss + i, 0.5) for i in range(trials))
    return Measurement(at, (CurvePoint(at, train_loss, scores[0]),), scores)


def begin(plan=PLAN, slot=0, state=None):
    """A state with one trajectory running in ``slot``."""
    state, (ask,) = step.on_event(plan, state or State(), step.SlotFree(slot, 0.0))
    assert isinstance(ask, Ask)
    return step.on_event(plan, state, step.Asked(slot, trajectory(ask.number), 0.0))


def kinds(actions):
    return [type(action) for action in actions]


def test_a_free_slot_asks_and_the_answer_starts_at_the_first_rung():
    state, actions = begin()
    assert actions == (Start(0, trajectory(0), 1, 10),)
    assert state.num_asked == 1


def test_a_measurement_is_recorded_before_it_is_acted_on():
    state, _ = begin()
    _, actions = step.on_event(PLAN, state, step.Reached(0, measurement(10, 0.5), 1.0))
    assert kinds(actions) == [Record, Advance, Report]
    assert actions[1].to_step == 30


def test_a_bad_trajectory_is_pruned_with_a_reason_and_its_slot_refilled():
    state, _ = begin()
    state, _ = step.on_event(PLAN, state, step.Reached(0, measurement(10, 0.1), 1.0))
    state, _ = begin(slot=1, state=state)
    state, actions = step.on_event(PLAN, state, step.Reached(1, measurement(10, 0.9), 1.0))
    assert kinds(actions) == [Record, Report, Release, Finish, Ask]
    assert actions[3].outcome.state is TrialState.PRUNED
    assert "rank 2 of 2" in actions[3].outcome.reason


def test_pruning_goes_by_the_best_readout_so_far():
    state, _ = begin()
    state, _ = step.on_event(PLAN, state, step.Reached(0, measurement(10, 0.2), 1.0))
    state, _ = begin(slot=1, state=state)
    state, _ = step.on_event(PLAN, state, step.Reached(1, measurement(10, 0.1), 1.0))
    state, _ = step.on_event(PLAN, state, step.Reached(0, measurement(30, 0.3), 2.0))
    # Slot 1 got worse at step 30, but its best so far (0.1) still beats the other's (0.2).
    _, actions = step.on_event(PLAN, state, step.Reached(1, measurement(30, 0.5), 2.0))
    assert kinds(actions) == [Record, Advance, Report]


def test_a_loss_that_is_no_number_ends_the_trajectory_as_diverged():
    state, _ = begin()
    _, actions = step.on_event(PLAN, state, step.Reached(0, measurement(10, 0.5, train_loss=float("nan")), 1.0))
    finish = next(a for a in actions if isinstance(a, Finish))
    assert finish.outcome.state is TrialState.PRUNED
    assert finish.outcome.reason == "step 10: diverged, the loss is no longer a number (step 10)"


def test_where_a_loss_ceased_to_be_a_number_is_told_apart_from_where_that_was_seen():
    points = (CurvePoint(3, 1.0), CurvePoint(6, float("inf")), CurvePoint(10, float("nan")))
    state, _ = begin()
    _, actions = step.on_event(PLAN, state, step.Reached(0, Measurement(10, points, (Score(0.5, 0.5),)), 1.0))
    finish = next(a for a in actions if isinstance(a, Finish))
    assert finish.outcome.reason.endswith("(step 6)")


def test_the_best_few_are_kept_and_the_worst_of_them_dropped():
    plan = replace(PLAN, rungs=(10,), keep_checkpoints=2)
    state, _ = begin(plan)
    kept = []
    for following, loss in enumerate((0.5, 0.4, 0.3), start=1):
        state, actions = step.on_event(plan, state, step.Reached(0, measurement(10, loss), 1.0))
        assert kinds(actions) == [Record, TakeState, Report]
        state, actions = step.on_event(plan, state, step.StateArrived(0, b"weights", 1.0))
        kept += [action for action in actions if isinstance(action, Keep)]
        assert any(isinstance(a, Finish) and a.outcome.state is TrialState.COMPLETE for a in actions)
        assert actions[-1] == Ask(0, following)
        state, _ = step.on_event(plan, state, step.Asked(0, trajectory(following), 1.0))
    assert [(keep.trajectory, keep.drop) for keep in kept] == [(0, None), (1, None), (2, 0)]
    _, actions = step.on_event(plan, state, step.Reached(0, measurement(10, 0.9), 1.0))
    assert TakeState not in kinds(actions)


def test_a_lost_worker_is_tried_again_from_the_start_and_then_given_up():
    lost = Failure(FailureKind.WORKER_LOST, "gone")
    state, _ = begin()
    state, actions = step.on_event(PLAN, state, step.Broke(0, lost, 1.0))
    assert actions == (Start(0, trajectory(0), 2, 10),)
    _, actions = step.on_event(PLAN, state, step.Broke(0, lost, 2.0))
    assert kinds(actions) == [Finish, Ask]
    assert actions[0].outcome.failure is lost


def test_an_error_in_the_trial_is_not_tried_again():
    state, _ = begin()
    _, actions = step.on_event(PLAN, state, step.Broke(0, Failure(FailureKind.TRIAL_ERROR, "boom"), 1.0))
    assert kinds(actions) == [Finish, Ask]
    assert actions[0].outcome.state is TrialState.FAILED


def test_a_second_attempt_does_not_compete_with_itself():
    state, _ = begin()
    state, _ = step.on_event(PLAN, state, step.Reached(0, measurement(10, 0.2), 1.0))
    state, _ = step.on_event(PLAN, state, step.Broke(0, Failure(FailureKind.WORKER_LOST, "gone"), 1.5))
    state, _ = step.on_event(PLAN, state, step.Reached(0, measurement(10, 0.2), 2.0))
    assert state.rungs.values[0, 10] == (0.2,)


def test_when_time_is_up_nothing_is_asked_and_what_runs_ends_at_its_rung():
    plan = replace(PLAN, time_budget_seconds=60.0)
    state, _ = begin(plan)
    state, actions = step.on_event(plan, state, step.Reached(0, measurement(10, 0.1), 60.0))
    finish = next(a for a in actions if isinstance(a, Finish))
    assert finish.outcome.reason == "step 10: time budget of 60 s spent"
    assert step.is_over(state)
    assert step.on_event(plan, state, step.SlotFree(0, 61.0))[1] == ()


@settings(max_examples=200, deadline=None)
@given(
    data=st.data(),
    slots=st.integers(1, 4),
    total=st.integers(1, 12),
    pruner=st.sampled_from(["asha", "hyperband", "none"]),
)
def test_whatever_the_order_every_trajectory_ends_once(data, slots, total, pruner):
    """Simulate a backend that answers in any order, with losses, NaNs and failures as Hypothesis likes."""
    plan = Plan(rungs=(1, 3, 9), max_trajectories=total, rule=Rule(pruner, 3), keep_checkpoints=2)
    state, under_way, recorded, finished, checkpoints = State(), {}, set(), [], set()
    pending = [step.SlotFree(slot, 0.0) for slot in range(slots)]
    while pending or under_way:
        if not pending:
            slot = data.draw(st.sampled_from(sorted(under_way)))
            pending.append(answer(data, slot, under_way.pop(slot)))
        state, actions = step.on_event(plan, state, pending.pop(0))
        for action in actions:
            match action:
                case Ask():
                    pending.append(step.Asked(action.slot, trajectory(action.number), 0.0))
                case Start():
                    assert action.slot not in under_way
                    under_way[action.slot] = action.to_step
                case Advance():
                    current = state.running[action.slot].trajectory.number
                    assert (current, max(r for r in plan.rungs if r < action.to_step)) in recorded
                    under_way[action.slot] = action.to_step
                case TakeState():
                    under_way[action.slot] = "state"
                case Record():
                    recorded.add((action.trajectory.number, action.measurement.step))
                case Keep():
                    checkpoints.add(action.trajectory)
                    checkpoints.discard(action.drop)
                case Finish():
                    finished.append(action.trajectory.number)
    assert sorted(finished) == list(range(total))
    assert step.is_over(state)
    assert len(checkpoints) <= plan.keep_checkpoints
    assert checkpoints == {number for _, number in state.kept}


def answer(data, slot, command):
    if data.draw(st.integers(0, 9)) == 0:
        kind = data.draw(st.sampled_from([FailureKind.WORKER_LOST, FailureKind.TRIAL_ERROR]))
        return step.Broke(slot, Failure(kind, "made by the test"), 0.0)
    if command == "state":
        return step.StateArrived(slot, b"state", 0.0)
    loss = data.draw(st.floats(0, 5) | st.just(float("nan")))
    return step.Reached(slot, measurement(command, loss, train_loss=loss), 0.0)


def drive(plan, seconds_a_rung=1.0, slots=2, trials_of=lambda left: min(3, 3 if left is None else left)):
    """Run to the end, two slots in turn; each trajectory has three trials where the budget lets it."""
    state, clock, asked = State(), 0.0, []
    queue = [step.SlotFree(slot, 0.0) for slot in range(slots)]
    while queue:
        event = queue.pop(0)
        state, actions = step.on_event(plan, state, event)
        for action in actions:
            if isinstance(action, Ask):
                asked.append(trials_of(action.max_trials))
                queue.append(
                    step.Asked(action.slot, trajectory(action.number, asked[-1]), clock, action.max_trials)
                )
            if isinstance(action, Start | Advance):
                clock += seconds_a_rung
                run = state.running[action.slot]
                told = measurement(action.to_step, 0.5, trials=len(run.trajectory.trials))
                queue.append(step.Reached(action.slot, told, clock))
            if isinstance(action, TakeState):
                queue.append(step.StateArrived(action.slot, b"", clock))
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
    state, actions = step.on_event(plan, state, step.Reached(0, measurement(10, 0.5), 10.0))
    assert kinds(actions) == [Record, Advance, Report]
    assert step.device_seconds(plan, state) == 20.0
    state, actions = step.on_event(plan, state, step.Reached(0, measurement(30, 0.5), 20.0))
    assert kinds(actions) == [Record, Report, Release, Finish]
    assert actions[-1].outcome.reason == "step 30: budget of 35 device-seconds spent"
    assert state.device_seconds == 40.0


def test_the_lattice_counts_for_which_checkpoints_are_kept():
    plan = replace(PLAN, keep_checkpoints=1, rule=Rule("none"), rungs=(90,))
    state, _ = begin(replace(plan, max_trajectories=2))
    last = replace(measurement(90, 0.5), lattice_scores=(Score(0.1, 0.9), Score(0.7, 0.9)))
    assert last.winning_cell == 0
    state, _ = step.on_event(plan, state, step.Reached(0, last, 1.0))
    state, _ = step.on_event(plan, state, step.StateArrived(0, b"", 1.0))
    assert state.kept == ((0.1, 0),)
