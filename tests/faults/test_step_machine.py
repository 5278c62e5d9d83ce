"""The driver's pure step under any order of events, duplicates and late arrivals included."""

import random
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sweeps import moves, step
from sweeps.pruning import Rule
from sweeps.records import (
    CurvePoint,
    Failure,
    FailureKind,
    Measurement,
    Score,
    Trajectory,
    TrialSpec,
)

RUNGS = (1, 3, 9)
LOST = Failure(FailureKind.WORKER_LOST, "made by the test")


def trajectory(number):
    return Trajectory(number, {}, (TrialSpec(number, {}),), number)


def measurement(at, loss):
    return Measurement(at, (CurvePoint(at, loss),), (Score(loss, 0.5),))


class World:
    """What the step's actions lead to: slots whose workers owe answers, a study, and what is durable."""

    def __init__(self, plan, num_slots):
        self.plan = plan
        self.state = moves.State()
        self.clock = 0.0
        self.slots = {}
        self.asks, self.past = [], []
        self.recorded, self.saved = set(), {}
        self.attempts, self.finished, self.told, self.outcomes = {}, [], [], {}
        self.kept = set()
        self.next_slot = 0
        for _ in range(num_slots):
            self.add_slot()

    def add_slot(self):
        slot, self.next_slot = self.next_slot, self.next_slot + 1
        self.slots[slot] = None
        self.send(moves.SlotFree(slot, self.clock))

    def lose_slot(self, slot):
        del self.slots[slot]
        self.send(moves.SlotLost(slot, LOST, self.clock))

    def send(self, event):
        self.past.append(event)
        self.state, actions = step.on_event(self.plan, self.state, event)
        for action in actions:
            self.apply(action)

    def apply(self, action):
        match action:
            case moves.Ask():
                assert action.number == len(self.asks) < self.plan.max_trajectories
                self.asks.append(False)
            case moves.Start():
                self.start(action)
            case moves.Advance():
                number = self.busy(action.slot)
                passed = [rung for rung in RUNGS if rung < action.to_step]
                assert all((number, rung) in self.recorded for rung in passed)
                self.slots[action.slot] = (number, self.attempts[number], "train", action.to_step)
            case moves.TakeState():
                number = self.busy(action.slot)
                self.slots[action.slot] = (number, self.attempts[number], "save", None)
            case moves.Pause():
                number, attempt, doing, to_step = self.slots[action.slot]
                assert doing == "train"
                self.slots[action.slot] = (number, attempt, "pause", to_step)
            case moves.Record():
                self.recorded.add((action.trajectory.number, action.measurement.step))
            case moves.Report():
                assert (action.trajectory.number, action.measurement.step) in self.recorded
                assert action.trajectory.number not in self.told
            case moves.Save():
                assert action.trajectory not in self.finished
                self.saved[action.trajectory] = action.saved
            case moves.Keep():
                self.kept.add(action.trajectory)
                self.kept.discard(action.drop)
            case moves.Release() | moves.Abandon():
                self.slots[action.slot] = None
            case moves.Lost():
                assert action.attempt == self.attempts[action.trajectory.number]
            case moves.Finish():
                assert action.trajectory.number not in self.finished
                self.finished.append(action.trajectory.number)
            case moves.Tell():
                assert action.trajectory.number in self.finished
                assert action.trajectory.number not in self.told
                self.told.append(action.trajectory.number)
                self.outcomes[action.trajectory.number] = action.outcome

    def start(self, action):
        number = action.trajectory.number
        assert self.slots[action.slot] is None
        assert number not in [held[0] for held in self.slots.values() if held]
        assert number not in self.finished
        assert action.attempt > self.attempts.get(number, 0)
        assert action.saved == self.saved.get(number)
        self.attempts[number] = action.attempt
        self.slots[action.slot] = (number, action.attempt, "train", action.to_step)

    def busy(self, slot):
        return self.state.running[slot].trajectory.number

    def owing(self):
        """Slots whose worker owes an answer."""
        return sorted(slot for slot, held in self.slots.items() if held)

    def answer_ask(self):
        number = self.asks.index(False)
        self.asks[number] = True
        self.send(moves.Asked(trajectory(number), self.clock))

    def answer(self, slot, loss):
        number, attempt, doing, to_step = self.slots[slot]
        # The worker has nothing to do until it is told.
        self.slots[slot] = (number, attempt, "idle", None)
        if doing in ("train", "pause"):
            self.send(moves.Reached(slot, number, attempt, measurement(to_step, loss), self.clock))
        elif doing == "save":
            self.send(moves.StateArrived(slot, number, attempt, b"", self.clock))

    def pause(self, slot):
        number, attempt, _, to_step = self.slots[slot]
        self.slots[slot] = (number, attempt, "idle", to_step)
        self.send(moves.Paused(slot, number, attempt, b"", self.clock))

    def fail(self, slot, kind):
        number, attempt, *_ = self.slots[slot]
        self.slots[slot] = None
        self.send(moves.Broke(slot, number, attempt, Failure(kind, "made by the test"), self.clock))


class StepMachine(RuleBasedStateMachine):
    """Whatever happens, in whatever order, every trajectory ends once and is told once."""

    @initialize(
        slots=st.integers(0, 3),
        total=st.integers(1, 9),
        generation=st.none() | st.integers(1, 4),
        pruner=st.sampled_from(["asha", "hyperband", "none"]),
        window=st.sampled_from([2, 15]),
        retries=st.integers(0, 2),
        checkpoint=st.sampled_from([0.0, 5.0, 1e9]),
        timeout=st.none() | st.just(20.0),
    )
    def begin(self, slots, total, generation, pruner, window, retries, checkpoint, timeout):
        plan = moves.Plan(
            rungs=RUNGS,
            max_trajectories=total,
            rule=Rule(pruner, 3, window),
            retries=retries,
            keep_checkpoints=2,
            generation=generation,
            checkpoint_seconds=checkpoint,
            rung_timeout_seconds=timeout,
        )
        self.world = World(plan, slots)

    @precondition(lambda self: False in self.world.asks)
    @rule()
    def the_study_answers(self):
        self.world.answer_ask()

    @precondition(lambda self: self.world.owing())
    @rule(data=st.data(), loss=st.floats(0, 5) | st.just(float("nan")))
    def a_worker_answers(self, data, loss):
        self.world.answer(data.draw(st.sampled_from(self.world.owing())), loss)

    @precondition(lambda self: self.pausing())
    @rule(data=st.data())
    def a_worker_pauses(self, data):
        self.world.pause(data.draw(st.sampled_from(self.pausing())))

    @precondition(lambda self: self.world.owing())
    @rule(data=st.data(), kind=st.sampled_from(FailureKind))
    def a_worker_fails(self, data, kind):
        self.world.fail(data.draw(st.sampled_from(self.world.owing())), kind)

    @rule(data=st.data())
    def something_comes_again(self, data):
        known = [e for e in self.world.past if not isinstance(e, moves.Asked | moves.SlotFree | moves.SlotLost)]
        if known:
            stale = data.draw(st.sampled_from(known))
            self.world.send(replace(stale, now=self.world.clock))

    @rule(seconds=st.floats(0, 30))
    def time_goes_by(self, seconds):
        self.world.clock += seconds
        self.world.send(moves.Tick(self.world.clock))

    @rule()
    def a_node_joins(self):
        self.world.add_slot()

    @precondition(lambda self: self.world.slots)
    @rule(data=st.data())
    def a_node_leaves(self, data):
        self.world.lose_slot(data.draw(st.sampled_from(sorted(self.world.slots))))

    def pausing(self):
        return [slot for slot in self.world.owing() if self.world.slots[slot][2] == "pause"]

    @invariant()
    def nothing_is_lost_or_doubled(self):
        world, state = self.world, self.world.state
        running = [run.trajectory.number for run in state.running.values()]
        waiting = [each.trajectory.number for each in state.waiting]
        answered = [number for number, answered in enumerate(world.asks) if answered]
        assert sorted([*running, *waiting, *world.finished]) == answered
        assert state.asking == world.asks.count(False)

    @invariant()
    def slots_are_what_the_world_has(self):
        world, state = self.world, self.world.state
        busy = {slot for slot, held in world.slots.items() if held}
        assert set(state.running) == busy
        assert state.idle == set(world.slots) - busy

    @invariant()
    def one_that_runs_alone_does(self):
        running = self.world.state.running.values()
        assert len(running) <= 1 or not any(run.alone for run in running)

    @invariant()
    def deterministic_sweeps_tell_in_order(self):
        if self.world.plan.generation is not None:
            assert self.world.told == list(range(len(self.world.told)))

    @invariant()
    def the_best_few_are_kept(self):
        assert self.world.kept == {number for _, number in self.world.state.kept}
        assert len(self.world.kept) <= 2

    def teardown(self):
        if not hasattr(self, "world"):
            return
        world = self.world
        if not world.slots:
            world.add_slot()
        for _ in range(10_000):
            if step.is_over(world.plan, world.state):
                break
            if False in world.asks:
                world.answer_ask()
            else:
                world.answer(world.owing()[0], 0.5)
        assert step.is_over(world.plan, world.state)
        gave_up = step.gave_up(world.plan, world.state)
        assert sorted(world.told) == sorted(world.finished) == list(range(len(world.asks)))
        assert gave_up or len(world.asks) == world.plan.max_trajectories


TestStepMachine = StepMachine.TestCase
TestStepMachine.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def loss_of(number, at):
    """Of a made-up trajectory; some end as no number."""
    spread = (number * 7919 % 101) / 101
    return float("nan") if number % 11 == 5 and at == 3 else spread / at


def outcomes(rng, plan, slots):
    """What the study was told, in order, and all measurements; ``rng`` picks who answers when."""
    world = World(plan, slots)
    while not step.is_over(plan, world.state):
        if False in world.asks:
            world.answer_ask()
            continue
        slot = rng.choice(world.owing())
        number, _, doing, to_step = world.slots[slot]
        if rng.random() < 0.1:
            world.fail(slot, FailureKind.WORKER_LOST)
        elif doing == "pause" and rng.random() < 0.5:
            world.pause(slot)
        else:
            world.clock += 1.0
            world.answer(slot, loss_of(number, to_step or 1))
    return world.told, world.outcomes, sorted(world.recorded), sorted(world.kept)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    pruner=st.sampled_from(["asha", "hyperband"]),
    window=st.sampled_from([2, 15]),
    generation=st.integers(1, 5),
    checkpoint=st.sampled_from([0.0, 3.0, 1e9]),
)
def test_a_deterministic_sweep_does_not_depend_on_workers_or_their_timing(
    seed, pruner, window, generation, checkpoint
):
    plan = moves.Plan(
        rungs=RUNGS,
        max_trajectories=12,
        rule=Rule(pruner, 3, window),
        retries=10**6,
        keep_checkpoints=2,
        generation=generation,
        checkpoint_seconds=checkpoint,
    )
    rng = random.Random(seed)
    assert outcomes(rng, plan, 1) == outcomes(rng, plan, 3)


def test_the_world_above_can_tell():
    """Without generations, who comes first decides: two orders give two sweeps."""
    plan = moves.Plan(rungs=RUNGS, max_trajectories=4, rule=Rule("asha", 3))

    def recorded(order):
        world = World(plan, 2)
        while not step.is_over(plan, world.state):
            if False in world.asks:
                world.answer_ask()
            else:
                slot = order(world.owing())
                world.answer(slot, loss_of(world.slots[slot][0], world.slots[slot][3] or 1))
        return world.recorded

    assert recorded(min) != recorded(max)
