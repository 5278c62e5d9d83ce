"""What every backend must do. Subclass, and give a ``make`` fixture: ``spec``'s arguments -> backend (entered)."""

from __future__ import annotations

import re

import pytest

from sweeps.backends import Job, Measured, Paused, RunFailed, StateTaken, WorkerSpec
from sweeps.records import FailureKind, Trajectory, TrialSpec
from sweeps.trainable import Devices
from tests.support.trainables import RunSettings, Settings

WAIT = 120.0  # Ray starts a worker anew whose first start led to nothing, but only after 60 s.
PACED = "tests.support.trainables:Paced"
LONG = 8000  # Steps of a paced run that take more than WAIT while its gate is shut.


def spec(
    behaviour="well",
    trainable="tests.support.trainables:Quadratic",
    cpus=1.0,
    gpus=0.0,
    towers=1,
    threads=1,
    gate="",
):
    settings = Settings(run=RunSettings(behaviour=behaviour, towers=towers, gate=str(gate)))
    return WorkerSpec(trainable, settings, Devices(towers, gpus / towers, threads), cpus, gpus)


def job(number=0, to_step=10, rate=0.1, offsets=(0.0, 0.25), attempt=1, state=None, lattice=()):
    specs = tuple(TrialSpec(10 * number + i, {"offset": offset}) for i, offset in enumerate(offsets))
    return Job(Trajectory(number, {"rate": rate}, specs, number, lattice), attempt, to_step, state)


def loss(rate, steps):
    """The closed form that the trainable must match."""
    return (1 - rate) ** (2 * steps) / 2


class BackendContract:
    def test_a_run_is_measured_at_each_rung_with_every_readout_in_order(self, make):
        backend = make()
        backend.start(0, job())
        event = backend.next_event(WAIT)
        assert isinstance(event, Measured)
        assert (event.slot, event.trajectory, event.attempt, event.measurement.step) == (0, 0, 1, 10)
        assert [s.eval_loss for s in event.measurement.scores] == pytest.approx(
            [loss(0.1, 10), loss(0.1, 10) + 0.25]
        )
        assert [point.step for point in event.measurement.curve] == list(range(1, 11))
        backend.advance(0, 30)
        measurement = backend.next_event(WAIT).measurement
        assert measurement.scores[0].eval_loss == pytest.approx(loss(0.1, 30))
        assert measurement.curve[0].step == 11

    def test_a_run_goes_on_from_its_state_as_if_nothing_had_happened(self, make):
        backend = make()
        backend.start(0, job())
        backend.next_event(WAIT)
        backend.take_state(0)
        taken = backend.next_event(WAIT)
        assert isinstance(taken, StateTaken)
        backend.advance(0, 30)
        straight = backend.next_event(WAIT).measurement
        backend.release(0)
        backend.start(0, job(attempt=2, to_step=30, state=taken.state))
        resumed = backend.next_event(WAIT)
        assert resumed.attempt == 2
        assert resumed.measurement == straight

    def test_a_released_slot_runs_the_next_trajectory(self, make):
        backend = make()
        for number, rate in enumerate((0.1, 0.2)):
            backend.start(0, job(number, rate=rate))
            event = backend.next_event(WAIT)
            assert event.trajectory == number
            assert event.measurement.scores[0].eval_loss == pytest.approx(loss(rate, 10))
            backend.release(0)

    def test_nothing_under_way_is_no_event(self, make):
        assert make().next_event(0.01) is None

    @pytest.mark.parametrize(
        ("behaviour", "kind", "message"),
        [
            ("raise", FailureKind.TRIAL_ERROR, "RuntimeError: boom"),
            ("sys_exit", FailureKind.TRIAL_ERROR, "SystemExit: 4"),
            ("invalid", FailureKind.INVALID_SETTINGS, "InvalidRunError: rate is 2.0"),
            ("nonsense", FailureKind.TRIAL_ERROR, "advance(10) gave no measurement"),
            ("wrong_step", FailureKind.TRIAL_ERROR, "measurement.step is 11, but must be 10"),
            ("twice", FailureKind.TRIAL_ERROR, "advance(10) gave no measurement: measurement.curve has steps"),
            ("few_scores", FailureKind.TRIAL_ERROR, "measurement.scores holds 1, but must hold one a readout, 2"),
        ],
    )
    def test_a_failure_has_a_kind_a_message_and_a_traceback_and_leaves_the_slot_usable(
        self, make, behaviour, kind, message
    ):
        backend = make(behaviour)
        for attempt in (1, 2):
            backend.start(0, job(attempt=attempt))
            event = backend.next_event(WAIT)
            assert isinstance(event, RunFailed)
            assert (event.slot, event.trajectory, event.attempt) == (0, 0, attempt)
            assert event.failure.kind is kind
            assert event.failure.message.startswith(message)
            assert "\n" not in event.failure.message
            assert "Traceback" in event.failure.traceback

    def test_a_loss_that_is_no_number_is_a_measurement_not_a_failure(self, make):
        backend = make("nan")
        backend.start(0, job())
        assert backend.next_event(WAIT).measurement.diverged

    def test_a_paused_run_goes_on_to_its_rung_here_or_elsewhere_as_if_nothing_had_happened(self, make, tmp_path):
        gate = tmp_path / "gate"
        backend = make(trainable=PACED, gate=gate)
        backend.start(0, job(to_step=LONG))
        backend.pause(0)
        paused = backend.next_event(WAIT)
        assert isinstance(paused, Paused)
        assert (paused.slot, paused.trajectory, paused.attempt) == (0, 0, 1)
        gate.touch()
        backend.advance(0, LONG)
        here = backend.next_event(WAIT)
        backend.release(0)
        backend.start(0, job(to_step=LONG, attempt=2, state=paused.state))
        elsewhere = backend.next_event(WAIT)
        backend.release(0)
        backend.start(0, job(to_step=LONG))
        straight = backend.next_event(WAIT).measurement
        assert [point.step for point in straight.curve] == list(range(1, LONG + 1))
        assert isinstance(here, Measured)
        assert here.measurement.curve == straight.curve
        assert here.measurement == elsewhere.measurement == straight

    def test_a_pause_stops_no_later_command(self, make, tmp_path):
        backend = make(trainable=PACED)
        backend.start(0, job())
        backend.next_event(WAIT)
        backend.pause(0)  # Nothing is under way.
        backend.advance(0, 90)
        assert backend.next_event(WAIT).measurement.step == 90

    def test_a_run_that_cannot_stop_between_rungs_is_measured_though_it_was_asked_to_pause(self, make):
        backend = make()
        backend.start(0, job())
        backend.pause(0)
        assert backend.next_event(WAIT).measurement.step == 10

    def test_an_abandoned_slot_is_free_and_silent(self, make, tmp_path):
        backend = make(trainable=PACED, gate=tmp_path / "never")
        backend.start(0, job(number=7, to_step=LONG))
        backend.abandon(0)
        assert backend.next_event(0.1) is None
        backend.start(0, job(number=8, to_step=5))
        event = backend.next_event(WAIT)
        assert isinstance(event, Measured)
        assert (event.trajectory, event.measurement.step) == (8, 5)

    @pytest.mark.parametrize(
        ("damage", "how"),
        [
            (lambda state: b"", "it does not begin as one"),
            (lambda state: b"PK" + state, "it does not begin as one"),
            (lambda state: state[:20], "it does not begin as one"),
            (lambda state: state[:-3], r"\d+ bytes of \d+ are there"),
            (lambda state: state[:-1] + bytes([state[-1] ^ 1]), "its checksum is another"),
        ],
        ids=["empty", "no envelope", "cut head", "cut end", "a flipped bit"],
    )
    def test_a_damaged_state_is_a_failure_that_says_so(self, make, damage, how):
        backend = make()
        backend.start(0, job())
        backend.next_event(WAIT)
        backend.take_state(0)
        taken = backend.next_event(WAIT).state
        backend.release(0)
        backend.start(0, job(state=damage(taken), to_step=30))
        event = backend.next_event(WAIT)
        assert isinstance(event, RunFailed)
        assert event.failure.kind is FailureKind.TRIAL_ERROR
        assert re.fullmatch(rf"the run's state is damaged, but must be whole \({how}\)", event.failure.message)
