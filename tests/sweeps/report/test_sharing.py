"""What sharing was worth, in words: only what happened, and no number that is not known."""

import math

import pytest

from sweeps.report.sharing import sharing, sharing_line, sharing_sentences
from sweeps.summaries import status_text
from tests.support.records import cell, mixed_sweep, shared_sweep, sweep, trial


def siblings(count, **changes):
    """One training run of 2 s with ``count`` trials."""
    return sweep(*(trial(i, trajectory=0) for i in range(count)), **changes)


LATTICE = tuple(cell(0.1 * m, m=m) for m in (1, 2, 3))

SENTENCES = [
    (siblings(8), "1 training run scored 8 trials."),
    (siblings(8, device_seconds=1000.0),
     "1 training run scored 8 trials; "
     "training each trial alone would have taken about 7,000 more device-seconds."),
    (siblings(1, lattices={0: LATTICE}, device_seconds=9.0),
     "1 training run scored 1 trial. At its last step, 3 readouts were scored."),
    (sweep(trial(0), trial(1), trial(2, trajectory=1, from_lattice=True), lattices={0: LATTICE, 1: LATTICE}),
     "2 training runs scored 3 trials. At their last step, 6 readouts were scored in 2 lattices; "
     "1 beat every sibling and became a trial."),
]  # fmt: skip


@pytest.mark.parametrize(("record", "says"), SENTENCES)
def test_sentences(record, says):
    assert sharing_sentences(sharing(record)) == says


def test_one_line_for_the_terminal():
    assert (
        sharing_line(sharing(shared_sweep()))
        == "sharing: 8.5 trials a training run, 216 readouts scored at last steps, about 450 device-seconds saved"
    )
    assert "\nsharing: 8.5 trials a training run" in status_text(shared_sweep(), live=False)
    assert "sharing" not in status_text(sweep(trial(0), trial(1)), live=False)
    assert "sharing" not in status_text(sweep(), live=False)


def test_a_run_that_was_not_measured_saves_nothing_and_breaks_nothing():
    record = sweep(
        trial(0, seconds=math.nan), trial(1, trajectory=0, seconds=math.nan), trial(2), device_seconds=5.0
    )
    assert sharing(record).saved == 0.0
    assert sharing(sweep(*mixed_sweep().trials, device_seconds=math.inf)).saved == 0.0
