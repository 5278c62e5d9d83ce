"""A run: readouts never touch the weights, states come back bit for bit, a NaN ends it in peace."""

import subprocess
import sys

import numpy as np
import pytest

from model.checkpoint import CheckpointError
from model.checks import SettingError
from model.config import TrainSettings
from tests.model.conftest import ONE, TWO, make_trainable

LATTICE = [
    {"bn_momentum": m, "ema_decay": d}
    for m in (0.8, 0.9, 0.97, 0.99, 0.997, 0.999)
    for d in (0.0, 0.9, 0.99, 0.999)
]
PARAMS = {"bn_placement": "conv+fc", "learning_rate": 3e-3}


def finish(run, rungs=(7, 20, 60)):
    return [run.advance(rung) for rung in rungs]


@pytest.mark.parametrize("readouts", [LATTICE[:1], LATTICE[3:11], LATTICE], ids=len)
def test_readouts_leave_the_weights_bit_identical(readouts):
    trainable = make_trainable(bn_momentum=0.5)
    alone = trainable.start(PARAMS, [{}], 11, ONE)
    finish(alone)
    weights = alone.weights()
    together = trainable.start(PARAMS, readouts, 11, ONE)
    finish(together)
    np.testing.assert_array_equal(together.weights(), weights)


def test_each_readout_equals_a_run_with_it_alone():
    trainable = make_trainable(ema_warmup=False)
    together = finish(trainable.start(PARAMS, LATTICE, 11, ONE))[-1].scores
    for index in (0, 5, 14, 23):
        alone = finish(trainable.start(PARAMS, [LATTICE[index]], 11, ONE))[-1].scores[0]
        assert together[index].eval_loss == pytest.approx(alone.eval_loss, rel=1e-5)


def test_points_come_every_report_and_scores_where_asked():
    train = TrainSettings(batch_size=16, steps=60, report_every=4, eval_every=15)
    measurement = make_trainable(train=train).start(PARAMS, LATTICE[:3], 0, ONE).advance(33)
    assert [p.step for p in measurement.curve] == [4, 8, 12, 15, 16, 20, 24, 28, 30, 32, 33]
    assert [p.step for p in measurement.curve if p.score is not None] == [15, 30, 33]
    assert measurement.curve[-1].score == measurement.scores[0]
    assert len(measurement.scores) == 3


def test_rungs_do_not_change_the_path():
    trainable = make_trainable()
    run = trainable.start(PARAMS, [{}], 2, ONE)
    finish(run)
    weights = run.weights()
    again = trainable.start(PARAMS, [{}], 2, ONE)
    again.advance(60)
    np.testing.assert_array_equal(again.weights(), weights)


def test_a_state_goes_on_bit_for_bit():
    trainable = make_trainable(towers=2)
    run = trainable.start(PARAMS, LATTICE[:8], 4, TWO)
    run.advance(20)
    state = run.state()
    straight = run.advance(60)
    resumed = trainable.start(PARAMS, LATTICE[:8], 4, TWO, state).advance(60)
    assert [p.train_loss for p in resumed.curve] == [p.train_loss for p in straight.curve]
    assert resumed.scores == straight.scores


CONTINUE = """
import sys
from tests.model.conftest import TWO, make_trainable
from tests.model.test_run import LATTICE, PARAMS
run = make_trainable(towers=2).start(PARAMS, LATTICE[:8], 4, TWO, sys.stdin.buffer.read())
print([score.eval_loss.hex() for score in run.advance(60).scores])
"""


def test_a_state_goes_on_bit_for_bit_in_another_process():
    run = make_trainable(towers=2).start(PARAMS, LATTICE[:8], 4, TWO)
    run.advance(20)
    state = run.state()
    straight = [score.eval_loss.hex() for score in run.advance(60).scores]
    done = subprocess.run([sys.executable, "-c", CONTINUE], input=state, capture_output=True, check=False)
    assert done.stdout.decode().strip() == str(straight), done.stderr.decode()


def test_a_loss_that_is_no_number_ends_the_run_without_a_crash():
    run = make_trainable().start({"learning_rate": 1e30, "bn_placement": "none"}, LATTICE[:2], 0, ONE)
    measurement = run.advance(20)
    assert measurement.step == measurement.curve[-1].step == 20
    assert np.isnan(measurement.curve[-1].train_loss)
    assert all(np.isnan(score.eval_loss) for score in measurement.scores)


@pytest.mark.parametrize(
    "damage", [lambda s: s[:-100], lambda s: b"", lambda s: b"PK" + s[2:500], lambda s: s[:200] * 9]
)
def test_damaged_bytes_are_refused_as_a_checkpoint(damage):
    trainable = make_trainable()
    run = trainable.start(PARAMS, [{}], 0, ONE)
    run.advance(7)
    with pytest.raises(CheckpointError, match="must be a towersweep checkpoint"):
        trainable.start(PARAMS, [{}], 0, ONE, damage(run.state()))


def test_another_trials_checkpoint_is_refused():
    trainable = make_trainable()
    run = trainable.start(PARAMS, [{}], 0, ONE)
    run.advance(7)
    with pytest.raises(CheckpointError, match="must belong to"):
        trainable.start({**PARAMS, "learning_rate": 1e-3}, [{}], 0, ONE, run.state())


def test_the_evaluation_matrix_holds_what_was_measured():
    trainable = make_trainable(ema_warmup=False)
    readouts = [{"bn_momentum": 0.9, "ema_decay": 0.9}, {"bn_momentum": 0.8, "ema_decay": 0.0}]
    run = trainable.start(PARAMS, readouts, 0, ONE)
    scores = run.advance(60).scores
    state = run.state()
    rows = trainable.evaluate(PARAMS, readouts, 0, 0, ONE, state)
    table = {(row["weights"], row["statistics"], row["part"]): row["loss"] for row in rows}
    assert len(table) == 12
    assert table["averaged", "moving", "eval"] == pytest.approx(scores[0].eval_loss, rel=1e-6)
    raw = trainable.evaluate(PARAMS, readouts, 1, 0, ONE, state)
    table = {(row["weights"], row["statistics"], row["part"]): row["loss"] for row in raw}
    assert table["raw", "moving", "eval"] == pytest.approx(scores[1].eval_loss, rel=1e-6)
    assert len(table) == 6


def test_one_traced_step_serves_every_rate_momentum_and_decay():
    trainable = make_trainable()
    run = trainable.start(PARAMS, LATTICE[:1], 0, ONE)
    run.advance(5)
    program = run._program
    traces = program._train.experimental_get_tracing_count()
    for rate, readouts in ((1e-2, LATTICE[:2]), (1e-4, LATTICE[2:9])):
        other = trainable.start({**PARAMS, "learning_rate": rate}, readouts, 1, ONE)
        other.advance(5)
        assert other._program is program
    assert program._train.experimental_get_tracing_count() == traces == 1


def test_more_towers_than_devices_are_refused():
    from sweeps.trainable import Devices

    with pytest.raises(SettingError, match=r"model\.towers is 3, but must be at most the 2 CPU devices"):
        make_trainable(towers=3, train=TrainSettings(batch_size=18)).start({}, [{}], 0, Devices(num_towers=3))


@pytest.mark.parametrize(("towers", "devices"), [(1, TWO), (2, ONE)])
def test_another_number_of_devices_than_of_towers_is_refused(towers, devices):
    """Silently training on what is there would be another trial: towers split the batch and its statistics."""
    with pytest.raises(SettingError, match=f"model.towers is {towers}, .* devices given to the run, {3 - towers}"):
        make_trainable(towers=towers).start({}, [{}], 0, devices)


def test_a_run_without_a_readout_or_with_a_negative_seed_is_refused():
    with pytest.raises(SettingError, match=r"readouts is \[\], but must be at least one"):
        make_trainable().start({}, [], 0, ONE)
    with pytest.raises(SettingError, match="seed is -1, but must be at least 0"):
        make_trainable().start({}, [{}], -1, ONE)
