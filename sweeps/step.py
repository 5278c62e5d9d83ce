"""The driver's pure heart: ``on_event(plan, state, event) -> (state, actions)``.

No clock, no I/O: events carry the time, and the actions are carried out, in order, by ``driver.py``. The order
matters: a measurement is recorded (durably) before it is acted on, an end is recorded before the study hears of
it, and the study hears of it before it is asked for more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from types import MappingProxyType
from typing import TypeVar

from sweeps.moves import (
    OUT_OF_MEMORY,
    RETRIED,
    Abandon,
    Action,
    Advance,
    Ask,
    Asked,
    Broke,
    Event,
    Finish,
    Keep,
    Lost,
    OpenGeneration,
    Past,
    Pause,
    Paused,
    Phase,
    Plan,
    Reached,
    Record,
    Release,
    Report,
    Running,
    Save,
    SlotFree,
    SlotLost,
    Start,
    State,
    StateArrived,
    Step,
    StopAsked,
    TakeState,
    Tell,
    Tick,
    Waiting,
)
from sweeps.pruning import arrival, reason_to_prune
from sweeps.records import Failure, FailureKind, Measurement, Outcome, Trajectory, TrialState

Value = TypeVar("Value")


def on_event(plan: Plan, state: State, event: Event) -> Step:
    """What the sweep does about ``event``."""
    state = replace(state, elapsed_seconds=max(state.elapsed_seconds, event.now))
    state, actions = _handled(plan, state, event)
    for what_follows in (_given_up, _told, _started, _asked):
        state, more = what_follows(plan, state)
        actions += more
    return state, actions


def is_over(plan: Plan, state: State) -> bool:
    """Whether nothing is under way, and nothing will be."""
    if state.running or state.asking:
        return False
    return state.stopping or (not state.waiting and budget_spent(plan, state) is not None)


def budget_spent(plan: Plan, state: State) -> str | None:
    """Why nothing more is asked for, or None."""
    if reason := _no_more(plan, state):
        return reason
    if state.num_asked >= plan.max_trajectories:
        return f"{plan.max_trajectories} trajectories asked for"
    if plan.max_trials is not None and state.num_trials >= plan.max_trials:
        return f"{plan.max_trials} trials asked for"
    return None


def has_work(plan: Plan, state: State) -> bool:
    """Whether a driver that starts from ``state`` has anything to do, if only to end what was left unfinished."""
    return bool(state.waiting or state.untold) or budget_spent(plan, state) is None


def gave_up(plan: Plan, state: State) -> str | None:
    """Why the sweep gave up, or None: all that it tried failed in the same way."""
    if state.has_succeeded or state.failed_alike is None or state.failed_alike[1] < plan.stop_after_failures:
        return None
    kind, count = state.failed_alike
    return f"the first {count} trajectories all failed in the same way: {kind}"


def device_seconds(plan: Plan, state: State) -> float:
    """What all attempts have had of devices up to now, those under way included."""
    under_way = sum(state.elapsed_seconds - run.began for run in state.running.values())
    return state.device_seconds + plan.devices_per_trajectory * under_way


# What events do


def _handled(plan: Plan, state: State, event: Event) -> Step:
    match event:
        case SlotFree():
            return (state if event.slot in state.running else _idle(state, event.slot)), ()
        case SlotLost():
            return _slot_lost(plan, state, event)
        case Asked():
            unused = (event.reserved or 0) - len(event.trajectory.trials)
            waiting = (*state.waiting, Waiting(event.trajectory))
            return replace(
                state, asking=state.asking - 1, num_trials=state.num_trials - unused, waiting=waiting
            ), ()
        case Tick():
            return _ticked(plan, state)
        case StopAsked():
            training = [slot for slot, run in state.running.items() if run.phase is Phase.TRAINING]
            return _pausing(replace(state, stopping=True), training)
    run = state.running.get(event.slot)
    if run is None or (run.trajectory.number, run.attempt) != (event.trajectory, event.attempt):
        return state, ()  # Of an attempt that is over: it came too late.
    match event:
        case Reached():
            return _measured(plan, state, event, run)
        case StateArrived():
            return _state_arrived(plan, state, event, run)
        case Paused():
            return _saved(plan, state, event.slot, run, event.state)
        case Broke():
            return _broke(plan, state, event.slot, event.failure)


def _measured(plan: Plan, state: State, event: Reached, run: Running) -> Step:
    measurement = event.measurement
    if run.phase not in (Phase.TRAINING, Phase.PAUSING) or measurement.step != run.to_step:
        return state, ()  # Told twice.
    past = replace(run.past, best=min(run.past.best, measurement.best_loss), final=measurement)
    state, past = _compete(plan, state, run.trajectory.number, past, measurement.step)
    run = replace(run, past=past)
    state = _set_running(state, event.slot, run)
    record, report = Record(run.trajectory, run.attempt, measurement), Report(run.trajectory, measurement)
    outcome = _outcome(plan, state, run, measurement)
    if outcome is None:
        state, action = _go_on(plan, state, event.slot, run)
        # The worker goes on as soon as the measurement is durable; the study hears of it meanwhile.
        return state, (record, action, report)
    if outcome.state is TrialState.COMPLETE and _rank(state.kept, measurement.best_loss) < plan.keep_checkpoints:
        return _command(state, event.slot, run, Phase.ENDING), (record, TakeState(event.slot), report)
    state, actions = _finish(plan, state, event.slot, outcome)
    return state, (record, report, *actions)


def _go_on(plan: Plan, state: State, slot: int, run: Running) -> tuple[State, Action]:
    """To the next rung, by way of a saved state where it is time for one."""
    following = plan.rungs[plan.rungs.index(_final(run).step) + 1]
    run = replace(run, to_step=following)
    if state.stopping or _due(plan, state, run):
        return _command(state, slot, run, Phase.SAVING), TakeState(slot)
    return _command(state, slot, run, Phase.TRAINING), Advance(slot, following)


def _state_arrived(plan: Plan, state: State, event: StateArrived, run: Running) -> Step:
    if run.phase is Phase.SAVING:
        return _saved(plan, state, event.slot, run, event.state)
    if run.phase is not Phase.ENDING:
        return state, ()
    measurement, number = _final(run), run.trajectory.number
    others = tuple(entry for entry in state.kept if entry[1] != number)
    ranked = sorted([*others, (measurement.best_loss, number)])
    kept, pushed_out = ranked[: plan.keep_checkpoints], ranked[plan.keep_checkpoints :]
    drop = pushed_out[0][1] if pushed_out else None
    keep = (Keep(number, event.state, drop),) if drop != number else ()
    state = replace(state, kept=tuple(kept))
    state, actions = _finish(plan, state, event.slot, _completed(measurement))
    return state, (*keep, *actions)


def _saved(plan: Plan, state: State, slot: int, run: Running, content: bytes) -> Step:
    """A state to go on from has arrived: it is made durable, and the run goes on, or leaves with the driver.

    Where there is no time left, the run ends as it was last measured.
    """
    at = run.past.final.step if run.past.final else 0
    if at and not state.stopping and (reason := _time_spent(plan, state)):
        return _finish(plan, state, slot, Outcome(TrialState.PRUNED, f"step {at}: {reason}"))
    save = Save(run.trajectory.number, at, content)
    run = replace(run, past=replace(run.past, saved=at), saved_at=state.elapsed_seconds)
    if not state.stopping:
        return _command(state, slot, run, Phase.TRAINING), (save, Advance(slot, run.to_step))
    left = Waiting(run.trajectory, run.attempt + 1, run.past, run.alone)
    return _put_back(plan, state, slot, left), (save, Release(slot))


def _broke(plan: Plan, state: State, slot: int, failure: Failure) -> Step:
    run = state.running[slot]
    past, again = run.past, None
    if failure.kind in OUT_OF_MEMORY and not past.out_of_memory:
        again = replace(past, out_of_memory=True)
    if failure.kind in RETRIED and past.failures < plan.retries:
        again = replace(past, failures=past.failures + 1)
    if again is not None:
        waiting = Waiting(run.trajectory, run.attempt + 1, again, alone=again.out_of_memory)
        return _put_back(plan, state, slot, waiting), (Lost(run.trajectory, run.attempt, failure),)
    outcome = Outcome(TrialState.FAILED, f"{failure.kind}: {failure.message}", failure)
    state = _ended(plan, _clear(plan, state, slot), run.trajectory, run.attempt, outcome, past.final)
    return state, (Finish(run.trajectory, run.attempt, outcome, past.final),)


def _slot_lost(plan: Plan, state: State, event: SlotLost) -> Step:
    """What a node took with it goes back to the queue; that is no fault of the trial."""
    run = state.running.get(event.slot)
    actions: tuple[Action, ...] = ()
    if run is not None:
        again = Waiting(run.trajectory, run.attempt + 1, run.past, run.alone)
        state = _put_back(plan, state, event.slot, again)
        actions = (Lost(run.trajectory, run.attempt, event.failure),)
    return replace(state, idle=state.idle - {event.slot}), actions


def _ticked(plan: Plan, state: State) -> Step:
    """End what does not answer in time; have saved what was not for long, or has no time left to go on.

    What was never measured goes on to its first rung even so, or nothing would be known of it.
    """
    actions: tuple[Action, ...] = ()
    for slot, run in sorted(state.running.items()):
        if late := _overdue(plan, state, run):
            state, more = _broke(plan, state, slot, Failure(FailureKind.TIMED_OUT, late))
            actions += (Abandon(slot), *more)
    due = [
        slot
        for slot, run in sorted(state.running.items())
        if run.phase is Phase.TRAINING
        and (_due(plan, state, run) or (run.past.final and _time_spent(plan, state)))
    ]
    state, pauses = _pausing(state, due)
    return state, actions + pauses


def _overdue(plan: Plan, state: State, run: Running) -> str | None:
    """Which limit of time a run has passed, or None."""
    limits = (
        ("resources.rung_timeout", plan.rung_timeout_seconds, run.told, f"no answer on the way to {run.to_step}"),
        ("resources.trial_timeout", plan.trial_timeout_seconds, run.began, f"not at step {plan.rungs[-1]}"),
    )
    for name, limit, since, what in limits:
        if limit is not None and state.elapsed_seconds - since >= limit:
            return f"{what} after {limit:g} s ({name})"
    return None


def _due(plan: Plan, state: State, run: Running) -> bool:
    return state.elapsed_seconds - run.saved_at >= plan.checkpoint_seconds


# What follows from any event


def _given_up(plan: Plan, state: State) -> Step:
    """How trajectories end that wait for a slot when there is to be none for them."""
    reason = _no_more(plan, state)
    if reason is None or state.stopping:
        return state, ()
    waiting, actions = state.waiting, []
    state = replace(state, waiting=())
    for each in waiting:
        outcome, attempt = _never_run(each, reason), max(1, each.attempt - 1)
        state = _ended(plan, state, each.trajectory, attempt, outcome, each.past.final)
        actions.append(Finish(each.trajectory, attempt, outcome, each.past.final))
    return state, tuple(actions)


def _never_run(waiting: Waiting, reason: str) -> Outcome:
    if (final := waiting.past.final) is not None:
        return Outcome(TrialState.PRUNED, f"step {final.step}: {reason}")
    why = f"not run: {reason}"
    return Outcome(TrialState.FAILED, why, Failure(FailureKind.TIMED_OUT, why))


def _told(plan: Plan, state: State) -> Step:
    """Tell the study of ends: at once, or in a deterministic sweep once all lower numbers have been told."""
    if plan.generation is None:
        return replace(state, untold=MappingProxyType({})), tuple(state.untold.values())
    actions: list[Action] = []
    untold, told = dict(state.untold), state.told
    while told in untold:
        actions.append(untold.pop(told))
        told += 1
    return replace(state, untold=MappingProxyType(untold), told=told), tuple(actions)


def _started(plan: Plan, state: State) -> Step:
    """Give what waits to idle slots. One that is to run alone waits until nothing else runs, and all for it."""
    actions: list[Action] = []
    while state.idle and state.waiting and not state.stopping and not _no_more(plan, state):
        first, *rest = state.waiting
        alone = first.alone or any(run.alone for run in state.running.values())
        if alone and state.running:
            break
        slot, past = min(state.idle), first.past
        to_step = next(rung for rung in plan.rungs if rung > (past.saved or 0))
        now = state.elapsed_seconds
        run = Running(first.trajectory, first.attempt, to_step, past, first.alone, Phase.TRAINING, now, now, now)
        state = replace(_set_running(state, slot, run), idle=state.idle - {slot}, waiting=tuple(rest))
        actions.append(Start(slot, first.trajectory, first.attempt, to_step, past.saved))
    return state, tuple(actions)


def _asked(plan: Plan, state: State) -> Step:
    """Ask for as many trajectories as slots are idle; or for a generation, once the last one has been told of."""
    actions: list[Action] = []
    alone = any(run.alone for run in state.running.values()) or any(each.alone for each in state.waiting)
    held = state.stopping or alone
    if plan.generation is None:
        wanted = 0 if held else len(state.idle) - len(state.waiting) - state.asking
        last = state.num_asked + max(0, wanted)
    else:
        state, opening = _generation_opened(plan, state)
        actions += opening
        last = 0 if held else _generation_end(plan, state)
    while state.num_asked < last and budget_spent(plan, state) is None:
        most = None
        if plan.max_trials is not None:  # Another may be asked for before this one's answer is there.
            most = min(plan.trials_per_trajectory, plan.max_trials - state.num_trials)
        actions.append(Ask(state.num_asked, most))
        state = replace(
            state,
            asking=state.asking + 1,
            num_asked=state.num_asked + 1,
            num_trials=state.num_trials + (most or 0),
        )
    return state, tuple(actions)


def _generation_opened(plan: Plan, state: State) -> Step:
    """Where all is told that was asked for, its values count from now on, and the next generation begins."""
    settled = state.told == state.num_asked and not state.stopping
    if not settled or state.generation_first == state.num_asked > 0 or budget_spent(plan, state):
        return state, ()
    rungs = state.rungs
    for each in state.arrivals:
        rungs = rungs.with_value(plan.rule, each)
    state = replace(state, rungs=rungs, arrivals=(), generation_first=state.num_asked)
    return state, (OpenGeneration(state.num_asked),)


def _generation_end(plan: Plan, state: State) -> int:
    """The number after a generation's last: generations end at multiples of their size."""
    size = plan.generation or 1
    return (state.generation_first // size + 1) * size


# Smaller parts


def _compete(plan: Plan, state: State, number: int, past: Past, step: int) -> tuple[State, Past]:
    """Put a value among its rung's; a second attempt passes the same rungs again, and must not compete twice."""
    if step <= past.competed:
        return state, past
    arrived = arrival(plan.rule, number, plan.rungs.index(step), plan.rungs, past.best)
    if plan.generation is None:
        state = replace(state, rungs=state.rungs.with_value(plan.rule, arrived))
    else:  # It is judged by earlier generations and itself: who came first is no matter.
        state = replace(state, arrivals=(*state.arrivals, arrived))
    return state, replace(past, competed=step)


def _outcome(plan: Plan, state: State, run: Running, measurement: Measurement) -> Outcome | None:
    """How a run ends that was just measured; None if it goes on."""
    if stop := _reason_to_stop(plan, state, run, measurement):
        return Outcome(TrialState.PRUNED, stop)
    return _completed(measurement) if measurement.step >= plan.rungs[-1] else None


def _reason_to_stop(plan: Plan, state: State, run: Running, measurement: Measurement) -> str | None:
    step = measurement.step
    if measurement.diverged or not isfinite(measurement.best_loss):
        first = next((point.step for point in measurement.curve if not isfinite(point.train_loss)), step)
        return f"step {step}: diverged, the loss is no longer a number (step {first})"
    if step >= plan.rungs[-1]:
        return None
    if reason := _time_spent(plan, state):
        return f"step {step}: {reason}"
    arrived = arrival(plan.rule, run.trajectory.number, plan.rungs.index(step), plan.rungs, run.past.best)
    return reason_to_prune(plan.rule, state.rungs, arrived)


def _finish(plan: Plan, state: State, slot: int, outcome: Outcome) -> Step:
    run = state.running[slot]
    state = _ended(plan, _clear(plan, state, slot), run.trajectory, run.attempt, outcome, run.past.final)
    return state, (Release(slot), Finish(run.trajectory, run.attempt, outcome, run.past.final))


def _ended(
    plan: Plan,
    state: State,
    trajectory: Trajectory,
    attempt: int,
    outcome: Outcome,
    measurement: Measurement | None,
) -> State:
    """An end that the study is to hear of."""
    tell = Tell(trajectory, attempt, outcome, measurement)
    state = replace(state, untold=_with(state.untold, trajectory.number, tell))
    failure = outcome.failure
    if failure is None or (state.failed_alike and state.failed_alike[0] is not failure.kind):
        return replace(state, has_succeeded=True)
    return replace(state, failed_alike=(failure.kind, 1 + (state.failed_alike[1] if state.failed_alike else 0)))


def _completed(measurement: Measurement) -> Outcome:
    return Outcome(TrialState.COMPLETE, f"reached its last step, {measurement.step}")


def _final(run: Running) -> Measurement:
    if run.past.final is None:
        raise ValueError(f"trajectory {run.trajectory.number} stands at a rung, but has no measurement")
    return run.past.final


def _no_more(plan: Plan, state: State) -> str | None:
    """Why nothing more is run, not even what waits; or None."""
    return _time_spent(plan, state) or gave_up(plan, state)


def _time_spent(plan: Plan, state: State) -> str | None:
    """Which budget of time is spent, or None."""
    limit, devices = plan.time_budget_seconds, plan.device_budget_seconds
    if limit is not None and state.elapsed_seconds >= limit:
        return f"time budget of {limit:g} s spent"
    if devices is not None and device_seconds(plan, state) >= devices:
        return f"budget of {devices:g} device-seconds spent"
    return None


def _rank(kept: tuple[tuple[float, int], ...], value: float) -> int:
    return bisect_left([entry[0] for entry in kept], value)


def _pausing(state: State, slots: list[int]) -> Step:
    for slot in slots:
        state = _set_running(state, slot, replace(state.running[slot], phase=Phase.PAUSING))
    return state, tuple(Pause(slot) for slot in slots)


def _command(state: State, slot: int, run: Running, phase: Phase) -> State:
    """The worker in ``slot`` is told to do something, and owes an answer from now on."""
    return _set_running(state, slot, replace(run, phase=phase, told=state.elapsed_seconds))


def _put_back(plan: Plan, state: State, slot: int, again: Waiting) -> State:
    """A run leaves its slot, to be run again before anything else."""
    return replace(_clear(plan, state, slot), waiting=(again, *state.waiting))


def _idle(state: State, slot: int) -> State:
    return replace(state, idle=state.idle | {slot})


def _set_running(state: State, slot: int, run: Running) -> State:
    return replace(state, running=_with(state.running, slot, run))


def _with(mapping: Mapping[int, Value], key: int, value: Value) -> Mapping[int, Value]:
    return MappingProxyType({**mapping, key: value})


def _clear(plan: Plan, state: State, slot: int) -> State:
    had = plan.devices_per_trajectory * (state.elapsed_seconds - state.running[slot].began)
    left = {key: run for key, run in state.running.items() if key != slot}
    return _idle(replace(state, running=MappingProxyType(left), device_seconds=state.device_seconds + had), slot)
