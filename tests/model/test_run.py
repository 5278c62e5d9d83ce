"""A run: readouts never touch the weights, states come back bit for bit, a NaN ends it in peace."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import psutil
import pytest
import tensorflow as tf

from model.checkpoint import CheckpointError
from model.checks import SettingError
from model.config import DataSettings, TrainSettings
from model.data import batch_indices
from model.network import forward, unflatten
from model.run import OF_THE_MACHINE
from model.trial import ToweredCNN
from tests.model.conftest import ONE, TWO, make_trainable

LATTICE = [
    {"bn_momentum": m, "ema_decay": d}
    for m in (0.8, 0.9, 0.97, 0.99, 0.997, 0.999)
    for d in (0.0, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)
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


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("interrupted", [False, True])
def test_each_of_42_readouts_equals_a_run_with_it_alone(warmup, interrupted):
    trainable = make_trainable(ema_warmup=warmup)
    seed = int(np.random.default_rng().integers(1 << 30))
    run = trainable.start(PARAMS, LATTICE, seed, ONE)
    run.advance(20)
    if interrupted:
        state = run.state()
        run = trainable.start(PARAMS, LATTICE, seed, ONE, state)
    together = run.advance(60).scores
    assert len({score.eval_loss for score in together}) > 10
    for readout, score in zip(LATTICE, together, strict=True):
        (alone,) = finish(trainable.start(PARAMS, [readout], seed, ONE), (20, 60))[-1].scores
        assert score.eval_loss == pytest.approx(alone.eval_loss, rel=1e-5), readout
        assert score.eval_accuracy == pytest.approx(alone.eval_accuracy, abs=1e-6), readout


@pytest.mark.parametrize(
    ("change", "statistics"),
    [
        ({"bn_placement": "input+conv+fc+logits"}, "moving"),
        ({"bn_placement": "none"}, "moving"),
        ({"bn_placement": "fc", "bn_updates": "never"}, "moving"),
        ({"bn_placement": "conv", "ema_statistics": True}, "averaged"),
        ({"bn_placement": "conv+fc"}, "batch"),
        ({"bn_placement": "conv+fc"}, "re-estimated"),
        ({"bn_placement": "conv", "network": "tutorial", "lrn": True}, "moving"),
    ],
    ids=str,
)
def test_readouts_scored_together_are_those_of_the_whole_network_one_by_one(change, statistics):
    """The evaluation matrix reads each of them by itself."""
    train = TrainSettings(batch_size=16, steps=40, eval_statistics=statistics)
    trainable = make_trainable(train=train, **change, ema_warmup=False)
    readouts = [readout for readout in LATTICE if readout["ema_decay"] in (0.9, 0.999)]
    run = trainable.start({}, readouts, 3, ONE)
    scores = run.advance(40).scores
    for index in range(len(readouts)):
        rows = run.evaluation_matrix(index)
        kind = statistics if change["bn_placement"] != "none" else "none"
        row = next(r for r in rows if (r["weights"], r["statistics"], r["part"]) == ("averaged", kind, "eval"))
        assert scores[index].eval_loss == pytest.approx(row["loss"], rel=1e-5)


def test_only_the_first_readouts_are_scored_where_that_is_asked():
    """And scoring the others or not changes neither the weights nor any score."""
    trainable = make_trainable()
    few = trainable.start(PARAMS, LATTICE, 5, ONE)
    assert len(few.advance(20, 8).scores) == 8
    last = few.advance(60)
    weights = few.weights()
    every = trainable.start(PARAMS, LATTICE, 5, ONE)
    assert len(every.advance(20).scores) == 42
    assert last.scores == every.advance(60).scores
    np.testing.assert_array_equal(every.weights(), weights)


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


@pytest.mark.parametrize(
    "change",
    [
        {"bn_momentum": 0.1},
        {"bn_tower_updates": "all"},
        {"bn_tower_updates": "first"},
        {"bn_updates": "never"},
        {"bn_zero_debias": True},
        {"bn_initial_variance": 3.0},
        {"ema_decay": 0.99},
        {"ema_decay": 0.99, "ema_warmup": False},
        {"ema_decay": 0.99, "ema_statistics": True},
    ],
    ids=str,
)
def test_negative_controls_leave_the_weights_bit_identical(change):
    """In training mode BN uses its batch alone, so nothing that is averaged can change the path."""
    plain = make_trainable(towers=2).start(PARAMS, [{}], 11, TWO)
    losses = plain.advance(30).curve
    weights = plain.weights()
    changed = make_trainable(towers=2, bn_placement="conv+fc", **change).start(PARAMS, [{}], 11, TWO)
    assert [point.train_loss for point in changed.advance(30).curve] == [point.train_loss for point in losses]
    np.testing.assert_array_equal(changed.weights(), weights)


@pytest.mark.parametrize(
    "change",
    [{"bn_placement": "conv"}, {"bn_order": "post"}, {"bn_gamma": False}, {"bn_statistics": "synchronized"}],
    ids=str,
)
def test_positive_controls_do_change_them(change):
    plain = make_trainable(towers=2, bn_placement="conv+fc").start({}, [{}], 11, TWO)
    changed = make_trainable(towers=2, **{"bn_placement": "conv+fc", **change}).start({}, [{}], 11, TWO)
    assert plain.advance(5).curve[-1].train_loss != changed.advance(5).curve[-1].train_loss


@pytest.mark.parametrize("which", ["first", "last", "mean", "all"])
@pytest.mark.parametrize("debias", [False, True])
def test_moving_statistics_over_50_steps_of_training(which, debias):
    """Batch statistics of the input are known without the network: so are the moving ones, in float64."""
    trainable = make_trainable(
        towers=2, bn_placement="input", bn_tower_updates=which, bn_zero_debias=debias, bn_momentum=0.9
    )
    run = trainable.start({}, [{}], 6, TWO)
    run.advance(50)
    train = run._data.train
    images = (train.images.astype(np.float64) - train.images.mean()) / train.images.std()
    moving, updates = np.array([0.0, 1.0]), 0
    for chosen in batch_indices(6, len(images), 16, 0, 50):
        towers = [np.array([images[share].mean(), images[share].var()]) for share in np.split(chosen, 2)]
        picked = {"first": towers[:1], "last": towers[1:], "mean": [sum(towers) / 2], "all": towers}[which]
        for batch in picked:
            moving, updates = 0.9 * moving + 0.1 * batch, updates + 1
    if debias:
        moving[0] /= 1 - 0.9**updates
    np.testing.assert_allclose(run._program.statistics_for([0], [0.9], 50)[0], moving, rtol=1e-4, atol=1e-6)


def test_updates_that_never_run_leave_the_statistics_as_they_start():
    run = make_trainable(bn_placement="conv", bn_updates="never", bn_initial_mean=0.5).start({}, [{}], 6, ONE)
    run.advance(20)
    statistics = run._program.statistics_for([0], [0.99], 20)[0].numpy()
    np.testing.assert_array_equal(statistics, np.repeat([0.5, 1.0], len(statistics) // 2))


def test_averaged_statistics_follow_the_moving_ones():
    model = {"bn_placement": "input", "bn_momentum": 0.8, "ema_decay": 0.9, "ema_statistics": True}
    trainable = make_trainable(**model, ema_warmup=False)
    run = trainable.start({}, [{}], 6, ONE)
    shadow = np.array([0.0, 1.0])
    for step in range(1, 21):
        run.advance(step)
        shadow = 0.9 * shadow + 0.1 * run._program.statistics_for([0], [0.8], step)[0].numpy().astype(np.float64)
    np.testing.assert_allclose(run._program.averaged_statistics_for(0, 0), shadow, rtol=1e-4, atol=1e-5)


def test_seeds_of_weights_and_of_order_are_apart():
    def curve(seed, **train):
        trainable = make_trainable(train=TrainSettings(batch_size=16, steps=60, **train))
        run = trainable.start(PARAMS, [{}], seed, ONE)
        initial = run.weights()
        return initial, run.advance(3).curve[-1].train_loss

    plain, both = curve(5), curve(77, init_seed=5, order_seed=5)
    np.testing.assert_array_equal(plain[0], both[0])
    assert plain[1] == both[1]
    other_order = curve(5, order_seed=6)
    np.testing.assert_array_equal(plain[0], other_order[0])
    assert plain[1] != other_order[1]
    assert not np.array_equal(plain[0], curve(5, init_seed=6)[0])


AUGMENTED = DataSettings(crop_size=7, flip=True, brightness=2.0, contrast=0.3, standardize="image")


@pytest.mark.parametrize("data", [DataSettings(), AUGMENTED], ids=["plain", "augmented"])
def test_streamed_data_gives_the_same_numbers_as_resident(data):
    curves = []
    for resident_mib in (1024.0, 0.0):
        trainable = make_trainable(data=replace(data, resident_mib=resident_mib), towers=2)
        run = trainable.start(PARAMS, [{}], 3, TWO)
        assert run._program._feed.resident is (resident_mib > 0)
        first, second = run.advance(13), run.advance(30)
        curves.append([point.train_loss for point in (*first.curve, *second.curve)])
    assert curves[0] == curves[1]


def test_programs_share_one_copy_of_the_data_a_device():
    one = make_trainable(towers=2).start({"bn_placement": "conv"}, [{}], 3, TWO)._program._feed
    other = make_trainable(towers=2).start({"bn_placement": "none"}, [{}], 3, TWO)._program._feed
    assert one is not other
    assert [a is b for a, b in zip(one._images, other._images, strict=True)] == [True, True]
    assert [image.device.rsplit("device:", 1)[-1] for image in one._images] == ["CPU:0", "CPU:1"]


def test_augmentation_does_not_depend_on_the_number_of_towers():
    one = make_trainable(data=AUGMENTED).start({}, [{}], 3, ONE).advance(1)
    two = make_trainable(data=AUGMENTED, towers=2).start({}, [{}], 3, TWO).advance(1)
    assert one.curve[0].train_loss == pytest.approx(two.curve[0].train_loss, rel=1e-5)


KINDS = {
    "plain": ({}, {}, None),
    "all of it": (
        {"bn_zero_debias": True, "ema_statistics": True, "bn_tower_updates": "all", "ema_decay": 0.9},
        {
            "optimizer": "sgd",
            "lr_schedule": "cosine",
            "lr_warmup_steps": 9,
            "clip_norm": 1.0,
            "weight_decay": 1e-3,
        },
        AUGMENTED,
    ),
    "synchronized": ({"bn_statistics": "synchronized"}, {"label_smoothing": 0.1}, DataSettings(resident_mib=0.0)),
}


def of_kind(kind):
    model, train, data = KINDS[kind]
    model = {"bn_placement": "conv+fc", **model}
    return make_trainable(data, TrainSettings(batch_size=16, steps=60, **train), towers=2, **model)


def numbers(measurements):
    """Everything that was measured, but for what the machine says of itself; floats exactly."""
    points = [point for measurement in measurements for point in measurement.curve]
    metrics = [{k: v.hex() for k, v in p.metrics.items() if k not in OF_THE_MACHINE} for p in points]
    scores = [score.eval_loss.hex() for measurement in measurements for score in measurement.scores]
    return [point.train_loss.hex() for point in points], metrics, scores


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_on_bit_for_bit(kind):
    trainable, readouts = of_kind(kind), LATTICE[1:9:2]
    run = trainable.start({"learning_rate": 3e-3}, readouts, 4, TWO)
    run.advance(20)
    state = run.state()
    straight = [run.advance(33), run.advance(60)]
    again = trainable.start({"learning_rate": 3e-3}, readouts, 4, TWO, state)
    assert numbers([again.advance(33), again.advance(60)]) == numbers(straight)


CONTINUE = """
import sys
from tests.model.conftest import TWO
from tests.model.test_run import LATTICE, numbers, of_kind
kind = sys.argv[1]
run = of_kind(kind).start({"learning_rate": 3e-3}, LATTICE[1:9:2], 4, TWO, sys.stdin.buffer.read())
print(numbers([run.advance(60)]))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_on_bit_for_bit_in_another_process(kind):
    run = of_kind(kind).start({"learning_rate": 3e-3}, LATTICE[1:9:2], 4, TWO)
    run.advance(20)
    state = run.state()
    straight = numbers([run.advance(60)])
    command = [sys.executable, "-c", CONTINUE, kind]
    done = subprocess.run(command, input=state, capture_output=True, check=False)
    assert done.stdout.decode().strip() == str(straight), done.stderr.decode()


def test_a_loss_that_is_no_number_ends_the_run_without_a_crash():
    run = make_trainable().start({"learning_rate": 1e30, "bn_placement": "none"}, LATTICE[:2], 0, ONE)
    measurement = run.advance(20)
    assert measurement.step == measurement.curve[-1].step == 20
    assert np.isnan(measurement.curve[-1].train_loss)
    assert all(np.isnan(score.eval_loss) for score in measurement.scores)


def in_legs(run, rung, num_scored, every):
    """What a run measures on the way to a rung when it is advanced to each multiple of ``every``; and there."""
    return [*(run.advance(step, 1) for step in range(every, rung, every)), run.advance(rung, num_scored)]


@pytest.mark.parametrize("every", [10, 20])
@pytest.mark.parametrize("kind", KINDS)
def test_legs_on_the_way_to_a_rung_change_nothing(kind, every):
    """So that a run can be stopped between rungs: at any multiple of ``pause_every``."""
    train = replace(of_kind(kind).settings.train, eval_every=10)
    trainable = ToweredCNN(replace(of_kind(kind).settings, train=train))
    assert trainable.pause_every == 10
    run = trainable.start({}, LATTICE[1:9:2], 4, TWO)
    straight = [run.advance(33, 2), run.advance(60)]
    run = trainable.start({}, LATTICE[1:9:2], 4, TWO)
    legs = in_legs(run, 33, 2, every)
    rest = [run.advance(step, 1) for step in range(40, 60, every)] + [run.advance(60)]
    for whole, parts in zip(straight, (legs, rest), strict=True):
        points, metrics, _ = numbers(parts)
        assert (points, metrics, numbers(parts[-1:])[2]) == numbers([whole])
        scores = [(point.step, point.score) for part in parts for point in part.curve if point.score]
        assert scores == [(point.step, point.score) for point in whole.curve if point.score]
    assert rest[-1].test_scores == straight[-1].test_scores


@pytest.mark.parametrize("rung", [10, 25])
def test_a_leg_whose_loss_is_no_number_tells_what_the_whole_would_have(rung):
    train = TrainSettings(batch_size=16, steps=60, report_every=5, eval_every=10)
    trainable = make_trainable(train=train)

    def begin():
        return trainable.start({"learning_rate": 1e30, "bn_placement": "none"}, LATTICE[:2], 0, ONE)

    whole, leg = begin().advance(rung), begin().advance(10, 1)
    steps = [point.step for point in leg.curve]
    assert steps == [5, 10]
    assert [point.step for point in whole.curve] == [*steps, rung][: 2 + (rung > 10)]
    for of_leg, of_whole in zip(leg.curve, whole.curve, strict=False):
        assert str(of_leg.train_loss) == str(of_whole.train_loss)
        assert of_leg.metrics.keys() == of_whole.metrics.keys() != set()
    assert np.isnan(whole.curve[-1].train_loss)
    assert np.isnan(leg.curve[-1].score.eval_loss)


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


def test_diagnostics_are_what_their_names_say():
    """One step of two towers, from weights, shadows and statistics that are read out before and after."""
    train = TrainSettings(batch_size=16, steps=60, report_every=1, weight_decay=0.01)
    model = {"bn_placement": "input", "bn_momentum": 0.7, "ema_decay": 0.9, "ema_warmup": False}
    run = make_trainable(train=train, towers=2, **model).start({}, [{}], 8, TWO)
    run.advance(5)
    before = run._program.save()
    metrics = run.advance(6).curve[-1].metrics
    after, layout = run._program.save(), run._program.layout
    bounds = np.cumsum([0, *layout.sizes])
    for variable, low, high in zip(layout.variables, bounds, bounds[1:], strict=False):
        if variable.name.endswith("/kernel"):
            change = np.linalg.norm(after.weights[low:high] - before.weights[low:high])
            expected = change / np.linalg.norm(after.weights[low:high])
            assert metrics[f"update_ratio/{variable.name.removesuffix('/kernel')}"] == pytest.approx(
                expected, rel=1e-4
            )
    distance = np.linalg.norm(after.shadows[0] - after.weights) / np.linalg.norm(after.weights)
    assert metrics["ema_distance"] == pytest.approx(distance, rel=1e-4)
    images = run._data.train.images.astype(np.float64)
    images = (images - images.mean()) / images.std()
    chosen = batch_indices(8, len(images), 16, 5, 6)[0]
    towers = [images[share] for share in np.split(chosen, 2)]
    mean, variance = np.mean([t.mean() for t in towers]), np.mean([t.var() for t in towers])
    moving = after.moving[0]
    assert metrics["bn_mean_distance"] == pytest.approx(abs(moving[0] - mean) / np.sqrt(variance + 1e-3), rel=1e-3)
    ratio = np.log((moving[1] + 1e-3) / (variance + 1e-3))
    assert metrics["bn_variance_distance"] == pytest.approx(abs(ratio), rel=1e-3)
    assert metrics["images_per_second"] > 0
    assert metrics["memory_mib"] == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.5)


@pytest.mark.parametrize("towers", [1, 2])
def test_bn_without_gamma_makes_the_deviation_of_the_logits_one(towers):
    model = {"bn_placement": "logits", "bn_gamma": False, "bn_epsilon": 2e-5, "towers": towers}
    metrics = make_trainable(**model).start({}, [{}], 0, (ONE, TWO)[towers - 1]).advance(20).curve[-1].metrics
    # But for epsilon, which has its share of the small variances at the start.
    assert metrics["logits_stddev"] == pytest.approx(1.0, abs=0.05)


def test_the_update_ratio_of_sgd_follows_the_schedule():
    """Plain SGD: dW is rate times gradient, so its norm over all kernels is below rate times the gradient's."""
    train = TrainSettings(
        batch_size=16, steps=60, report_every=1, optimizer="sgd", sgd_momentum=0.0, lr_schedule="cosine"
    )
    run = make_trainable(train=train).start({"learning_rate": 0.1}, [{}], 0, ONE)
    for step in (1, 30, 59):
        before = run.advance(step - 1) and run.weights() if step > 1 else run.weights()
        point = run.advance(step).curve[-1]
        layout, low = run._program.layout, 0
        for variable in layout.variables:
            cut = slice(low, low := low + variable.size)
            if variable.name == "fc1/kernel":
                after = run.weights()[cut]
                expected = np.linalg.norm(after - before[cut]) / np.linalg.norm(after)
        assert point.metrics["update_ratio/fc1"] == pytest.approx(expected, rel=1e-2)


def test_loss_and_gradient_norm_are_means_over_the_window():
    each = make_trainable(train=TrainSettings(batch_size=16, steps=60, report_every=1, weight_decay=0.01))
    windows = make_trainable(train=TrainSettings(batch_size=16, steps=60, report_every=5, weight_decay=0.01))
    fine = each.start(PARAMS, [{}], 8, ONE).advance(10).curve
    coarse = windows.start(PARAMS, [{}], 8, ONE).advance(10).curve
    assert [point.step for point in coarse] == [5, 10]
    for point, window in zip(coarse, (fine[:5], fine[5:]), strict=True):
        assert point.train_loss == pytest.approx(np.mean([each.train_loss for each in window]), rel=1e-6)
        for name in ("l2_loss", "gradient_norm"):
            assert point.metrics[name] == pytest.approx(np.mean([e.metrics[name] for e in window]), rel=1e-6)


def evaluation_loss(run, kind, statistics):
    """The loss on the eval part, by the network's own pass but statistics computed here, in NumPy where given."""
    part, model, layout = run._data.eval, run._settings.model, run._program.layout
    train = run._data.train.images.astype(np.float64)
    saved = run._program.save()
    weights = tf.constant(saved.weights if kind == "raw" else saved.shadows[0])

    def pixels(images):
        return tf.constant(((images - train.mean()) / train.std()).astype(np.float32))

    def loss_of(images, labels, normalize):
        logits = forward(layout, model, unflatten(layout, weights), pixels(images), normalize)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits).numpy()

    def own(name, x, bias, gamma, beta):
        x = x if bias is None else x + bias
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, model.bn_epsilon)

    if statistics == "batch":
        mixed = np.random.default_rng(0).permutation(len(part.labels))
        batches = [mixed[start : start + 16] for start in range(0, len(mixed), 16)]
        return np.concatenate([loss_of(part.images[b], part.labels[b], own) for b in batches]).mean()
    found = {}
    for start in range(0, len(train) - 15, 16):

        def noted(name, x, bias, gamma, beta):
            x = x if bias is None else x + bias
            found.setdefault(name, []).append(tf.nn.moments(x, list(range(x.shape.rank - 1))))
            return own(name, x, None, gamma, beta)

        loss_of(train[start : start + 16], run._data.train.labels[start : start + 16], noted)

    def given(name, x, bias, gamma, beta):
        x = x if bias is None else x + bias
        mean, variance = (np.mean([np.asarray(m[i]) for m in found[name]], axis=0) for i in (0, 1))
        return tf.nn.batch_normalization(x, mean, variance, beta, gamma, model.bn_epsilon)

    return loss_of(part.images, part.labels, given).mean()


@pytest.mark.parametrize("kind", ["raw", "averaged"])
@pytest.mark.parametrize("statistics", ["batch", "re-estimated"])
def test_what_is_evaluated_is_a_setting(kind, statistics):
    train = TrainSettings(batch_size=16, steps=60, eval_weights=kind, eval_statistics=statistics)
    trainable = make_trainable(train=train, bn_placement="conv+fc", ema_decay=0.9, ema_warmup=False)
    run = trainable.start({}, [{}], 1, ONE)
    score = run.advance(30).scores[0]
    assert score.eval_loss == pytest.approx(evaluation_loss(run, kind, statistics), rel=1e-4)


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


def test_the_test_part_is_scored_at_the_last_step_only_with_the_best_readout():
    trainable = make_trainable(bn_placement="conv", ema_decay=0.9)
    readouts = [{}, {"ema_decay": 0.0}, {"ema_decay": 0.9999}]
    run = trainable.start({}, readouts, 0, ONE)
    assert run.advance(20).test_scores == ()
    measurement = run.advance(60)
    losses = [score.eval_loss for score in measurement.scores]
    best = losses.index(min(losses))
    rows = trainable.evaluate({}, readouts, best, 0, ONE, run.state())
    weights = "raw" if best == 1 else "averaged"
    (row,) = (r for r in rows if (r["weights"], r["statistics"], r["part"]) == (weights, "moving", "test"))
    assert [score is None for score in measurement.test_scores] == [index != best for index in range(3)]
    assert measurement.test_scores[best].eval_loss == pytest.approx(row["loss"], rel=1e-6)


def test_the_matrix_has_averaged_statistics_where_they_are_kept():
    trainable = make_trainable(bn_placement="conv", ema_decay=0.9, ema_statistics=True)
    run = trainable.start({}, [{}], 0, ONE)
    run.advance(9)
    rows = trainable.evaluate({}, [{}], 0, 0, ONE, run.state())
    assert {row["statistics"] for row in rows} == {"batch", "moving", "averaged", "re-estimated"}
    assert len(rows) == 16


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


GROW = """
import psutil
from model.config import TrainSettings
from tests.model.conftest import TWO, make_trainable
trainable = make_trainable(train=TrainSettings(batch_size=16, steps=9), towers=2, bn_momentum=0.9)
def trajectory(number):
    params = {"bn_placement": ("conv", "conv+fc")[number % 2], "learning_rate": 1e-3 * (1 + number % 7)}
    decays = [{"ema_decay": decay} for decay in (0.0, 0.9, 0.99)[: 1 + number % 3]]
    run = trainable.start(params, decays, number, TWO)
    for rung in (3, 9):
        run.advance(rung)
        run.state()
for number in range(20):
    trajectory(number)
before = psutil.Process().memory_info().rss
for number in range(200):
    trajectory(number)
print((psutil.Process().memory_info().rss - before) / 2**20)
"""


def test_a_warm_worker_does_not_grow_over_200_trajectories():
    done = subprocess.run([sys.executable, "-c", GROW], capture_output=True, text=True, check=False)
    assert float(done.stdout or "nan") < 100, done.stderr
