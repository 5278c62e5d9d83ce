"""What a restart finds, and what it does about it.

The curves are written first and decide: a measurement in them that the study lacks is reported again, and a
trajectory that ended in them is ended in the study. What is left RUNNING then goes on, under its own numbers, from
the state that was saved last.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from sweeps.history import History, TrajectoryHistory
from sweeps.moves import OUT_OF_MEMORY, RETRIED, Past, Plan, State, Tell, Waiting
from sweeps.pruning import Arrival, Rungs, arrival
from sweeps.records import Outcome, StoredTrial, Trajectory, TrialState
from sweeps.run_folder import RunFolder

if TYPE_CHECKING:
    from sweeps.study import Study


def recover(plan: Plan, study: Study, history: History, folder: RunFolder) -> State:
    """The driver's state after a restart; the study learns on the way of measurements that it lacks."""
    study.recall()
    waiting: list[Waiting] = []
    untold: dict[int, Tell] = {}
    for trajectory in study.running_trajectories(plan.max_trials):
        past = history.trajectories.get(trajectory.number, TrajectoryHistory())
        for reached in sorted(past.scores):
            study.report(trajectory, past.measurement(trajectory, reached))
        if past.state is None:
            waiting.append(_waiting(trajectory, past, folder))
        else:
            untold[trajectory.number] = _tell(trajectory, past, past.state)
    study.flush()
    stored = study.stored_trials()
    rungs, arrivals = _rungs(plan, history)
    return State(
        num_asked=max((trial.trajectory for trial in stored), default=-1) + 1,
        num_trials=sum(trial.cell is None for trial in stored),
        waiting=tuple(waiting),
        rungs=rungs,
        arrivals=arrivals,
        untold=MappingProxyType(untold),
        told=min((t.trajectory for t in stored if t.state is TrialState.RUNNING), default=_count(stored)),
        generation_first=history.generation_first,
        kept=_kept(stored, folder),
        elapsed_seconds=history.elapsed_seconds,
        device_seconds=plan.devices_per_trajectory * history.slot_seconds,
        has_succeeded=any(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in stored),
    )


def _waiting(trajectory: Trajectory, past: TrajectoryHistory, folder: RunFolder) -> Waiting:
    """A state that was saved before its rung's measurement was lost is of no use; the one before may be."""
    reached = sorted(past.scores)
    final = reached[-1] if reached else 0
    found = Past(
        failures=sum(kind in RETRIED for kind in past.lost),
        out_of_memory=any(kind in OUT_OF_MEMORY for kind in past.lost),
        competed=final,
        best=past.best_at(final),
        final=past.measurement(trajectory, final) if reached else None,
        saved=next((rung for rung in folder.saved_rungs(trajectory.number) if rung in (0, *reached)), None),
    )
    return Waiting(trajectory, past.attempts + 1, found, alone=found.out_of_memory)


def _tell(trajectory: Trajectory, past: TrajectoryHistory, state: TrialState) -> Tell:
    last = past.measurement(trajectory, max(past.scores)) if past.scores else None
    return Tell(trajectory, past.attempts, Outcome(state, past.reason, past.failure), last)


def _count(stored: Sequence[StoredTrial]) -> int:
    return max((trial.trajectory for trial in stored), default=-1) + 1


def _kept(stored: Sequence[StoredTrial], folder: RunFolder) -> tuple[tuple[float, int], ...]:
    best: dict[int, float] = {}
    for trial in stored:
        if trial.value is not None and folder.checkpoint(trial.trajectory).exists():
            best[trial.trajectory] = min(trial.value, best.get(trial.trajectory, float("inf")))
    return tuple(sorted((value, number) for number, value in best.items()))


def _rungs(plan: Plan, history: History) -> tuple[Rungs, tuple[Arrival, ...]]:
    """The values that decide, and those of the generation under way, which do not yet."""
    rungs, arrivals = Rungs(), []
    for number, past in sorted(history.trajectories.items()):
        for reached in sorted(past.scores.keys() & set(plan.rungs)):
            arrived = arrival(plan.rule, number, plan.rungs.index(reached), plan.rungs, past.best_at(reached))
            if plan.generation is not None and number >= history.generation_first:
                arrivals.append(arrived)
            else:
                rungs = rungs.with_value(plan.rule, arrived)
    return rungs, tuple(arrivals)
