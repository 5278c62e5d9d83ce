"""Checkpoints: what is not whole, or not this trial's, is refused by name; what is accepted is what was saved."""

import io
import json
from dataclasses import asdict

import numpy as np
import pytest

from model.checkpoint import CheckpointError, dump, load
from model.trajectory import Snapshot

SHAPES = {
    "weights": (7,),
    "first_moment": (7,),
    "second_moment": (7,),
    "shadows": (2, 7),
    "moving": (3, 4),
    "moving_shadows": (2, 3, 4),
}
KEY = json.dumps({"seed": 3, "settings": {"train": {"learning_rate": 0.1}}})


@pytest.fixture
def snapshot():
    rng = np.random.default_rng()
    return Snapshot(**{name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()})


def rewritten(state, header=None, **arrays):
    """The archive with some arrays or header entries replaced, or, where the new value is None, left out."""
    with np.load(io.BytesIO(state)) as archive:
        held = {name: archive[name] for name in archive.files}
    changed = {**json.loads(held["header"].tobytes()), **(header or {})}
    kept = {name: value for name, value in changed.items() if value is not None}
    held["header"] = np.frombuffer(json.dumps(kept).encode(), np.uint8)
    stream = io.BytesIO()
    np.savez(stream, **{name: array for name, array in {**held, **arrays}.items() if array is not None})
    return stream.getvalue()


def equal(one, other):
    return all(np.array_equal(asdict(one)[name], asdict(other)[name]) for name in SHAPES)


def test_what_was_saved_comes_back(snapshot):
    found, step = load(dump(snapshot, 41, KEY), KEY, SHAPES)
    assert step == 41
    assert equal(found, snapshot)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weights": np.zeros(3, np.float32)},
            r"weights is float32 of \(3,\), but must be float32 of shape \(7,\)",
        ),
        ({"weights": np.zeros(7)}, r"weights is float64 of \(7,\), but must be float32"),
        ({"moving": np.zeros((5, 4), np.float32)}, r"moving is float32 of \(5, 4\), but must be .* \(3, 4\)"),
        ({"moving": None}, r"holds \['first_moment', 'moving_shadows', 'second_moment', .*\], but must hold"),
        ({"more": np.zeros(1, np.float32)}, "'more'.*, but must hold"),
        ({"weights": np.array([{}], object)}, "is damaged, but must be a towersweep checkpoint"),
        ({"header": {"format": 9}}, "format 9, but must have 2"),
        ({"header": {"format": None}}, "format None, but must have 2"),
        ({"header": {"step": None}}, "step is None, but must be a whole number"),
        ({"header": {"step": -5}}, "step is -5, but must be"),
        ({"header": {"step": 1.5}}, "step is 1.5, but must be"),
        ({"header": {"key": None}}, "must belong to"),
        (
            {"header": {"key": KEY.replace("0.1", "0.2")}},
            r"learning_rate=0.2, .* settings.train.learning_rate=0.1$",
        ),
        ({"header": {"key": KEY.replace("3", "4")}}, "seed=4, but must belong to one with seed=3$"),
    ],
)
def test_a_wrong_part_is_named(snapshot, change, message):
    with pytest.raises(CheckpointError, match=message):
        load(rewritten(dump(snapshot, 41, KEY), **change), KEY, SHAPES)


def test_no_flipped_bit_changes_what_is_read(snapshot):
    """Some bits of an archive mean nothing (dates, say); all others are caught by its checksums."""
    state = dump(snapshot, 41, KEY)
    refused = 0
    for position in range(len(state)):
        damaged = bytearray(state)
        damaged[position] ^= 1 << (position % 8)
        try:
            found, step = load(bytes(damaged), KEY, SHAPES)
        except CheckpointError:
            refused += 1
        else:
            assert (step, equal(found, snapshot)) == (41, True), position
    assert refused > 0.7 * len(state)


def test_every_truncation_is_refused(snapshot):
    state = dump(snapshot, 41, KEY)
    for length in range(len(state)):
        with pytest.raises(CheckpointError):
            load(state[:length], KEY, SHAPES)
