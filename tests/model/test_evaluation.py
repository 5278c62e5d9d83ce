"""Scores do not depend on how a part's images are shared out: chunks, halves, one at a time."""

import numpy as np
import pytest
import tensorflow as tf

from model import evaluation
from model.data import Part
from tests.model.conftest import ONE, make_trainable


@pytest.fixture
def run():
    trainable = make_trainable(bn_placement="conv+fc", bn_momentum=0.8)
    run = trainable.start({}, [{"bn_momentum": 0.8}, {"bn_momentum": 0.9}], 0, ONE)
    run.advance(20)
    return run


def scores(run, part):
    """[2, 2]: loss and accuracy with each momentum's statistics."""
    program = run._program
    found = program.evaluator.scores(
        program.weights_for(None), program.statistics_for([0, 1], run._momenta, 20), part
    )
    return np.array([(score.eval_loss, score.eval_accuracy) for score in found])


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("chunk", [2, 6, 500])
def test_a_parts_score_is_the_mean_of_its_images_scores(run, count, chunk, monkeypatch):
    assert tf.config.threading.get_inter_op_parallelism_threads() == 2  # So there are halves.
    images, labels = run._data.eval.images[:count], run._data.eval.labels[:count]
    alone = [scores(run, Part(images[i : i + 1], labels[i : i + 1])) for i in range(count)]
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    np.testing.assert_allclose(scores(run, Part(images, labels)), np.mean(alone, axis=0), rtol=1e-5)


def test_each_row_of_statistics_has_a_score_of_its_own(run):
    both = scores(run, run._data.eval)
    assert both[0, 0] != pytest.approx(both[1, 0], rel=1e-3)
