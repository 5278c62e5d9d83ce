"""A worker's host: legs on the way to a rung change nothing, and what is halted goes on as if it had not been."""

import math

import pytest

from sweeps.backends.envelope import Partial, run_state, unwrap, wrap
from sweeps.backends.worker import Halted, WorkerHost
from sweeps.errors import TrainableError
from sweeps.records import CurvePoint, Score
from tests.contracts.backend_contract import PACED, job, spec
from tests.support.trainables import Paced

LATTICE = ({"tilt": 0.5}, {"tilt": 0.75, "shift": 0.5})


def count(halts):
    """Asks to halt at the legs with these numbers."""
    asked = iter(range(10**6))
    return lambda: next(asked) in halts


@pytest.mark.parametrize("every", [1, 5, 7, 1000])
@pytest.mark.parametrize("lattice", [(), LATTICE], ids=["plain", "lattice"])
def test_legs_and_halts_change_no_measurement(monkeypatch, every, lattice):
    monkeypatch.setattr(Paced, "pause_every", None)
    host = WorkerHost(spec(trainable=PACED))
    straight = [host.start(job(lattice=lattice)), host.advance(90)]
    monkeypatch.setattr(Paced, "pause_every", every)
    host = WorkerHost(spec(trainable=PACED))
    in_legs = [host.start(job(lattice=lattice)), host.advance(90)]
    assert [(m.curve, m.scores, m.lattice_scores, m.test_scores) for m in in_legs] == [
        (m.curve, m.scores, m.lattice_scores, m.test_scores) for m in straight
    ]
    host.start(job(lattice=lattice))
    came, halted = host.advance(90, count({0, 3})), 0
    while isinstance(came, Halted):
        halted += 1
        host = WorkerHost(spec(trainable=PACED))
        came = host.start(job(to_step=90, state=came.state, lattice=lattice), count({halted}))
    assert halted > 1 or every >= 90
    assert came == in_legs[1]  # The seconds of all its legs as well.


def test_a_leg_that_diverges_ends_the_run_at_once_and_says_so_at_the_rung(monkeypatch):
    host = WorkerHost(spec("nan", trainable=PACED))
    measurement = host.start(job(to_step=90, lattice=LATTICE))
    assert [point.step for point in measurement.curve] == [1, 2, 3, 4, 5, 90]
    assert measurement.diverged
    assert all(math.isnan(score.eval_loss) for score in (*measurement.scores, *measurement.lattice_scores))
    assert (len(measurement.scores), len(measurement.lattice_scores)) == (2, 2)
    assert host.start(job(to_step=30, lattice=LATTICE)).lattice_scores == ()


@pytest.mark.parametrize("every", [0, -5, 2.5, "5", True])
def test_an_interval_that_is_none_is_named(monkeypatch, every):
    monkeypatch.setattr(Paced, "pause_every", every)
    with pytest.raises(TrainableError, match=rf"pause_every is {every!r}, but must be a whole number"):
        WorkerHost(spec(trainable=PACED)).start(job())


def test_a_leg_is_checked_like_any_measurement():
    with pytest.raises(TrainableError, match=r"measurement\.step is 6, but must be 5, as asked"):
        WorkerHost(spec("wrong_step", trainable=PACED)).start(job())


def test_an_envelope_gives_back_what_was_put_in_bit_for_bit():
    curve = (
        CurvePoint(3, 0.1 + 0.2, None, {"norm": 1e-300, "loss": math.inf}),
        CurvePoint(5, 5e-324, Score(1 / 3, 0.5)),
    )
    partial, state = Partial(5, curve, 0.1), bytes(range(256)) + b"\n{}"
    assert unwrap(wrap(partial, state)) == (partial, state)
    assert unwrap(wrap(Partial(), b"")) == (Partial(), b"")


def test_states_of_before_there_were_envelopes_can_still_be_read():
    assert run_state(b"PK\x03\x04") == b"PK\x03\x04"
    assert run_state(wrap(Partial(), b"PK\x03\x04")) == b"PK\x03\x04"


def test_an_envelope_of_another_format_is_refused_by_its_number():
    with pytest.raises(TrainableError, match="has format 2, but must have 1"):
        unwrap(wrap(Partial(), b"").replace(b"state 1", b"state 2"))
