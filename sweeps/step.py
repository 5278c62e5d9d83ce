"""The driver's pure heart: ``on_event(plan, state, event) -> (state, actions)``.

No clock, no I/O: events carry the time, and the actions are carried out, in order, by ``driver.py``.
The order matters: a measurement is recorded (durably) before it is acted on, and a trajectory is finished
in the study before its slot asks for the next one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from types import MappingProxyType

from sweeps.pruning import Rule, Rungs, bracket_of, reason_to_prune
from sweeps.records import Failure, FailureKind, Measurement, Outcome, Trajectory, TrialState

RETRIED = frozenset({FailureKind.WORKER_LOST, FailureKind.TIMED_OUT})


@dataclass(frozen=True)
class Plan:
    """What the sweep set out to do; constant while it runs."""

    rungs: tuple[int, ...]
    max_trajectories: int
    time_budget_seconds: float | None = None
    max_trials: int | None = None
    """Trials asked for; a cell of a lattice that becomes a trial comes on top."""
    trials_per_trajectory: int = 1
    """The most that one is asked with."""
    device_budget_seconds: float | None = None
    devices_per_trajectory: int = 1
    rule: Rule = field(default_factory=Rule)
    retries: int = 1
    keep_checkpoints: int = 3


@dataclass(frozen=True)
class Running:
    """A trajectory in a slot. ``best`` is its best eval loss so far, ``final`` its last measurement.

    ``began`` is when it got the slot; ``competed`` the last step at which its value is among the rungs'.
    """

    trajectory: Trajectory
    attempt: int
    began: float = 0.0
    competed: int = 0
    best: float = float("inf")
    final: Measurement | None = None


@dataclass(frozen=True)
class Waiting:
    """A trajectory to be run again, as attempt number ``attempt``; for ``competed`` see Running."""

    trajectory: Trajectory
    attempt: int
    competed: int = 0


@dataclass(frozen=True)
class State:
    """Where the sweep stands.

    ``num_asked`` counts trajectories ever asked for, ``num_trials`` their trials; ``kept`` holds the best
    completed (loss, trajectory) pairs, whose checkpoints are kept; ``device_seconds`` is what past attempts had.
    """

    num_asked: int = 0
    num_trials: int = 0
    running: Mapping[int, Running] = field(default_factory=lambda: MappingProxyType({}))
    waiting: tuple[Waiting, ...] = ()
    rungs: Rungs = field(default_factory=Rungs)
    kept: tuple[tuple[float, int], ...] = ()
    elapsed_seconds: float = 0.0
    device_seconds: float = 0.0


# Events


@dataclass(frozen=True)
class SlotFree:
    """A slot has nothing to do."""

    slot: int
    now: float


@dataclass(frozen=True)
class Asked:
    """The study proposed a trajectory for ``slot``; ``reserved`` is the ``max_trials`` that it was asked with."""

    slot: int
    trajectory: Trajectory
    now: float
    reserved: int | None = None


@dataclass(frozen=True)
class Reached:
    """The run in ``slot`` reached a rung."""

    slot: int
    measurement: Measurement
    now: float


@dataclass(frozen=True)
class StateArrived:
    """The state of the run in ``slot``, which has reached its last rung."""

    slot: int
    state: bytes
    now: float


@dataclass(frozen=True)
class Broke:
    """The attempt in ``slot`` ended without a result."""

    slot: int
    failure: Failure
    now: float


Event = SlotFree | Asked | Reached | StateArrived | Broke

# Actions


@dataclass(frozen=True)
class Ask:
    """Ask the study for trajectory ``number``, to be run in ``slot``, with at most ``max_trials`` trials."""

    slot: int
    number: int
    max_trials: int | None = None


@dataclass(frozen=True)
class Start:
    """Give the trajectory to the worker in ``slot``, up to its first rung."""

    slot: int
    trajectory: Trajectory
    attempt: int
    to_step: int


@dataclass(frozen=True)
class Record:
    """Make a measurement durable."""

    trajectory: Trajectory
    attempt: int
    measurement: Measurement


@dataclass(frozen=True)
class Report:
    """Report a recorded measurement to the study."""

    trajectory: Trajectory
    measurement: Measurement


@dataclass(frozen=True)
class Advance:
    """Let the run in ``slot`` go on to the next rung."""

    slot: int
    to_step: int


@dataclass(frozen=True)
class TakeState:
    """Fetch the state of a run that is worth keeping."""

    slot: int


@dataclass(frozen=True)
class Keep:
    """Write a checkpoint, and remove the one that it pushed out of the best few."""

    trajectory: int
    state: bytes
    drop: int | None


@dataclass(frozen=True)
class Release:
    """Let the worker in ``slot`` forget its run; the slot is free."""

    slot: int


@dataclass(frozen=True)
class Finish:
    """Tell the study how all trials of a trajectory ended."""

    trajectory: Trajectory
    attempt: int
    outcome: Outcome
    measurement: Measurement | None


Action = Ask | Start | Record | Report | Advance | TakeState | Keep | Release | Finish
Step = tuple[State, tuple[Action, ...]]


def on_event(plan: Plan, state: State, event: Event) -> Step:
    """What the sweep does about ``event``."""
    state = replace(state, elapsed_seconds=max(state.elapsed_seconds, event.now))
    match event:
        case SlotFree():
            return _fill(plan, state, event.slot)
        case Asked():
            unused = (event.reserved or 0) - len(event.trajectory.trials)
            state = replace(state, num_trials=state.num_trials - unused)
            return _start(plan, state, event.slot, Waiting(event.trajectory, attempt=1))
        case Reached():
            return _measured(plan, state, event)
        case StateArrived():
            return _state_arrived(plan, state, event)
        case Broke():
            return _broke(plan, state, event)


def is_over(state: State) -> bool:
    """Whether nothing is under way."""
    return not state.running


def budget_spent(plan: Plan, state: State) -> str | None:
    """Which budget is spent, or None."""
    if reason := _time_spent(plan, state):
        return reason
    if state.waiting:
        return None
    if state.num_asked >= plan.max_trajectories:
        return f"{plan.max_trajectories} trajectories asked for"
    if plan.max_trials is not None and state.num_trials >= plan.max_trials:
        return f"{plan.max_trials} trials asked for"
    return None


def give_up_waiting(plan: Plan, state: State) -> tuple[Finish, ...]:
    """How trajectories end that wait for another attempt when the budget is spent."""
    reason = f"not run again: {budget_spent(plan, state)}"
    failure = Failure(FailureKind.TIMED_OUT, reason)
    return tuple(
        Finish(again.trajectory, again.attempt - 1, Outcome(TrialState.FAILED, reason, failure), None)
        for again in state.waiting
    )


def _fill(plan: Plan, state: State, slot: int) -> Step:
    if state.waiting and not _time_spent(plan, state):
        again, *rest = state.waiting
        return _start(plan, replace(state, waiting=tuple(rest)), slot, again)
    if budget_spent(plan, state):
        return state, ()
    most = None
    if plan.max_trials is not None:  # Another slot may ask before this one's answer is there.
        most = min(plan.trials_per_trajectory, plan.max_trials - state.num_trials)
    asked = replace(state, num_asked=state.num_asked + 1, num_trials=state.num_trials + (most or 0))
    return asked, (Ask(slot, state.num_asked, most),)


def _start(plan: Plan, state: State, slot: int, new: Waiting) -> Step:
    run = Running(new.trajectory, new.attempt, state.elapsed_seconds, new.competed)
    return _set_running(state, slot, run), (Start(slot, new.trajectory, new.attempt, plan.rungs[0]),)


def _measured(plan: Plan, state: State, event: Reached) -> Step:
    run = state.running[event.slot]
    measurement = event.measurement
    number, step = run.trajectory.number, measurement.step
    run = replace(run, best=min(run.best, measurement.best_loss), final=measurement)
    record = Record(run.trajectory, run.attempt, measurement)
    report = Report(run.trajectory, measurement)

    bracket = bracket_of(plan.rule, number, len(plan.rungs))
    if step > run.competed:  # A second attempt passes the same rungs again; it must not compete twice.
        run = replace(run, competed=step)
        state = replace(state, rungs=state.rungs.with_value(bracket, step, run.best))
    state = _set_running(state, event.slot, run)

    stop = _reason_to_stop(plan, state, run, measurement, bracket)
    if stop is not None:
        state, actions = _finish(plan, state, event.slot, Outcome(TrialState.PRUNED, stop))
        return state, (record, report, *actions)
    if step < plan.rungs[-1]:
        # The worker goes on as soon as the measurement is durable; the study hears of it meanwhile.
        following = plan.rungs[plan.rungs.index(step) + 1]
        return state, (record, Advance(event.slot, following), report)
    if _rank(state.kept, measurement.best_loss) < plan.keep_checkpoints:
        return state, (record, TakeState(event.slot), report)
    state, actions = _finish(plan, state, event.slot, _completed(measurement))
    return state, (record, report, *actions)


def _state_arrived(plan: Plan, state: State, event: StateArrived) -> Step:
    run = state.running[event.slot]
    measurement = _final(run)
    number = run.trajectory.number
    others = tuple(entry for entry in state.kept if entry[1] != number)
    ranked = sorted([*others, (measurement.best_loss, number)])
    kept, pushed_out = ranked[: plan.keep_checkpoints], ranked[plan.keep_checkpoints :]
    drop = pushed_out[0][1] if pushed_out else None
    keep = (Keep(number, event.state, drop),) if drop != number else ()
    state = replace(state, kept=tuple(kept))
    state, actions = _finish(plan, state, event.slot, _completed(measurement))
    return state, (*keep, *actions)


def _broke(plan: Plan, state: State, event: Broke) -> Step:
    run = state.running[event.slot]
    if event.failure.kind in RETRIED and run.attempt <= plan.retries:
        again = Waiting(run.trajectory, run.attempt + 1, run.competed)
        state = replace(state, waiting=(*state.waiting, again))
        return _fill(plan, _clear(plan, state, event.slot), event.slot)
    outcome = Outcome(TrialState.FAILED, f"{event.failure.kind}: {event.failure.message}", event.failure)
    finish = Finish(run.trajectory, run.attempt, outcome, run.final)
    state, actions = _fill(plan, _clear(plan, state, event.slot), event.slot)
    return state, (finish, *actions)


def _finish(plan: Plan, state: State, slot: int, outcome: Outcome) -> Step:
    run = state.running[slot]
    finish = Finish(run.trajectory, run.attempt, outcome, run.final)
    state, actions = _fill(plan, _clear(plan, state, slot), slot)
    return state, (Release(slot), finish, *actions)


def _reason_to_stop(plan: Plan, state: State, run: Running, measurement: Measurement, bracket: int) -> str | None:
    step = measurement.step
    if measurement.diverged or not isfinite(measurement.best_loss):
        first = next((point.step for point in measurement.curve if not isfinite(point.train_loss)), step)
        return f"step {step}: diverged, the loss is no longer a number (step {first})"
    if step >= plan.rungs[-1]:
        return None
    if reason := _time_spent(plan, state):
        return f"step {step}: {reason}"
    rung = plan.rungs.index(step)
    return reason_to_prune(plan.rule, state.rungs, bracket, rung, step, run.best)


def _completed(measurement: Measurement) -> Outcome:
    return Outcome(TrialState.COMPLETE, f"reached its last step, {measurement.step}")


def _final(run: Running) -> Measurement:
    if run.final is None:
        raise ValueError(f"trajectory {run.trajectory.number} has a state, but no measurement")
    return run.final


def _time_spent(plan: Plan, state: State) -> str | None:
    """Which budget of time is spent, or None."""
    limit, devices = plan.time_budget_seconds, plan.device_budget_seconds
    if limit is not None and state.elapsed_seconds >= limit:
        return f"time budget of {limit:g} s spent"
    if devices is not None and device_seconds(plan, state) >= devices:
        return f"budget of {devices:g} device-seconds spent"
    return None


def device_seconds(plan: Plan, state: State) -> float:
    """What all attempts have had of devices up to now, those under way included."""
    under_way = sum(state.elapsed_seconds - run.began for run in state.running.values())
    return state.device_seconds + plan.devices_per_trajectory * under_way


def _rank(kept: tuple[tuple[float, int], ...], value: float) -> int:
    return bisect_left([entry[0] for entry in kept], value)


def _set_running(state: State, slot: int, run: Running) -> State:
    return replace(state, running=MappingProxyType({**state.running, slot: run}))


def _clear(plan: Plan, state: State, slot: int) -> State:
    had = plan.devices_per_trajectory * (state.elapsed_seconds - state.running[slot].began)
    left = {key: run for key, run in state.running.items() if key != slot}
    return replace(state, running=MappingProxyType(left), device_seconds=state.device_seconds + had)
