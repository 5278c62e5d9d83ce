"""What the driver's pure step works on: the plan, the state, the events that come in, and the actions that go out.

Frozen data only; ``step.py`` has the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import MappingProxyType

from sweeps.pruning import Arrival, Rule, Rungs
from sweeps.records import Failure, FailureKind, Measurement, Outcome, Trajectory

# An attempt that is lost in these ways is followed by another, up to a limit.
RETRIED = frozenset({FailureKind.WORKER_LOST, FailureKind.TIMED_OUT})
# After these, by one more, on a fresh worker with no other beside it.
OUT_OF_MEMORY = frozenset({FailureKind.DEVICE_OUT_OF_MEMORY, FailureKind.HOST_OUT_OF_MEMORY})


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
    generation: int | None = None
    """Deterministic: trajectories are asked for so many at a time, and judged by those of earlier generations."""
    trial_timeout_seconds: float | None = None
    """An attempt that holds its slot for longer is ended."""
    rung_timeout_seconds: float | None = None
    """A worker that owes an answer for longer is ended."""
    checkpoint_seconds: float = 60.0
    """The state of a run is saved once so much time has gone by since it was saved last."""
    stop_after_failures: int = 5
    """The sweep gives up where so many trajectories, from the first, fail with the same kind and none does not."""


class Phase(Enum):
    """What a worker was last told to do."""

    TRAINING = auto()
    PAUSING = auto()
    """To train, and then to stop where it can."""
    SAVING = auto()
    """To hand its state over, and then to go on."""
    ENDING = auto()
    """To hand its state over: it has reached its last step."""


@dataclass(frozen=True)
class Past:
    """What is known of a trajectory from before its present attempt.

    ``failures`` counts attempts that were lost, ``out_of_memory`` tells of one that lacked memory. ``competed`` is
    the last step at which its value is among the rungs', ``best`` its best eval loss so far, ``final`` its last
    measurement. ``saved`` is the rung at which, or on the way from which, its state was saved; None if it never
    was.
    """

    failures: int = 0
    out_of_memory: bool = False
    competed: int = 0
    best: float = float("inf")
    final: Measurement | None = None
    saved: int | None = None


@dataclass(frozen=True)
class Waiting:
    """A trajectory that waits for a slot, as attempt number ``attempt``; ``alone``: with no other beside it."""

    trajectory: Trajectory
    attempt: int = 1
    past: Past = field(default_factory=Past)
    alone: bool = False


@dataclass(frozen=True)
class Running:
    """A trajectory in a slot, on its way ``to_step``. Times are those of the sweep, in seconds."""

    trajectory: Trajectory
    attempt: int
    to_step: int
    past: Past = field(default_factory=Past)
    alone: bool = False
    phase: Phase = Phase.TRAINING
    began: float = 0.0
    told: float = 0.0
    """When its worker was last told to do something."""
    saved_at: float = 0.0


@dataclass(frozen=True)
class State:
    """Where the sweep stands.

    ``num_asked`` counts trajectories ever asked for, ``num_trials`` their trials, ``asking`` those that the study
    was asked for and has not given yet. ``kept`` holds the best completed (loss, trajectory) pairs, whose
    checkpoints are kept; ``device_seconds`` is what past attempts had.

    ``rungs`` decide. In a deterministic sweep ``arrivals`` will, once their generation has
    ended; it began with trajectory ``generation_first``. ``untold`` are ends that the study hears of after those
    of lower numbers, ``told`` counts those that it has heard of.
    """

    num_asked: int = 0
    num_trials: int = 0
    asking: int = 0
    idle: frozenset[int] = frozenset()
    running: Mapping[int, Running] = field(default_factory=lambda: MappingProxyType({}))
    waiting: tuple[Waiting, ...] = ()
    rungs: Rungs = field(default_factory=Rungs)
    arrivals: tuple[Arrival, ...] = ()
    untold: Mapping[int, Tell] = field(default_factory=lambda: MappingProxyType({}))
    told: int = 0
    generation_first: int = 0
    kept: tuple[tuple[float, int], ...] = ()
    elapsed_seconds: float = 0.0
    device_seconds: float = 0.0
    failed_alike: tuple[FailureKind, int] | None = None
    """The kind of the first failure since this driver started, and how many have failed with it."""
    has_succeeded: bool = False
    """Whether a trajectory has ended otherwise than by that kind of failure since then."""
    stopping: bool = False


# Events. Those of a run name its trajectory and attempt: what comes too late, or twice, changes nothing.


@dataclass(frozen=True)
class SlotFree:
    """A slot has nothing to do: at the start, or as a node joined."""

    slot: int
    now: float


@dataclass(frozen=True)
class SlotLost:
    """A slot is gone, with its node and whatever ran in it."""

    slot: int
    failure: Failure
    now: float


@dataclass(frozen=True)
class Asked:
    """The study proposed a trajectory; ``reserved`` is the ``max_trials`` that it was asked with."""

    trajectory: Trajectory
    now: float
    reserved: int | None = None


@dataclass(frozen=True)
class Reached:
    """A run reached its rung."""

    slot: int
    trajectory: int
    attempt: int
    measurement: Measurement
    now: float


@dataclass(frozen=True)
class StateArrived:
    """The state of a run that stands at a rung."""

    slot: int
    trajectory: int
    attempt: int
    state: bytes
    now: float


@dataclass(frozen=True)
class Paused:
    """The state of a run that was stopped on its way to a rung."""

    slot: int
    trajectory: int
    attempt: int
    state: bytes
    now: float


@dataclass(frozen=True)
class Broke:
    """An attempt ended without a result."""

    slot: int
    trajectory: int
    attempt: int
    failure: Failure
    now: float


@dataclass(frozen=True)
class Tick:
    """Time went by."""

    now: float


@dataclass(frozen=True)
class StopAsked:
    """The user wants the sweep to stop, so that it can be resumed."""

    now: float


Event = SlotFree | SlotLost | Asked | Reached | StateArrived | Paused | Broke | Tick | StopAsked

# Actions, carried out in order


@dataclass(frozen=True)
class OpenGeneration:
    """Record that a deterministic sweep asks for a generation of trajectories, from number ``first`` on."""

    first: int


@dataclass(frozen=True)
class Ask:
    """Ask the study for trajectory ``number``, with at most ``max_trials`` trials."""

    number: int
    max_trials: int | None = None


@dataclass(frozen=True)
class Start:
    """Give the trajectory to the worker in ``slot``, up to a rung; ``saved``: from the state saved there."""

    slot: int
    trajectory: Trajectory
    attempt: int
    to_step: int
    saved: int | None = None


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
    """Let the run in ``slot`` go on to a rung."""

    slot: int
    to_step: int


@dataclass(frozen=True)
class TakeState:
    """Fetch the state of the run in ``slot``, which stands at a rung."""

    slot: int


@dataclass(frozen=True)
class Pause:
    """Have the run in ``slot`` stop where it can before its rung."""

    slot: int


@dataclass(frozen=True)
class Save:
    """Make the state of a run durable, which stands at, or on its way from, rung ``saved``."""

    trajectory: int
    saved: int
    state: bytes


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
class Abandon:
    """End the worker in ``slot``, which does not answer; the slot is free, with a fresh one."""

    slot: int


@dataclass(frozen=True)
class Lost:
    """Record that an attempt was lost and that another follows, and why."""

    trajectory: Trajectory
    attempt: int
    failure: Failure


@dataclass(frozen=True)
class Finish:
    """Record how a trajectory ended; ``measurement`` is its last."""

    trajectory: Trajectory
    attempt: int
    outcome: Outcome
    measurement: Measurement | None


@dataclass(frozen=True)
class Tell:
    """Tell the study how all trials of a trajectory ended."""

    trajectory: Trajectory
    attempt: int
    outcome: Outcome
    measurement: Measurement | None


Action = (
    OpenGeneration
    | Ask
    | Start
    | Record
    | Report
    | Advance
    | TakeState
    | Pause
    | Save
    | Keep
    | Release
    | Abandon
    | Lost
    | Finish
    | Tell
)
Step = tuple[State, tuple[Action, ...]]
