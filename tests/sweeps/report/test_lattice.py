"""Lattices as maps: the right shape, order, heads and shades, for any lattice."""

import json
import math
from dataclasses import asdict

import pytest

from sweeps.report.lattice import heads, lattice_maps, num_maps, shades
from tests.support.records import ROLES, cell, shared_sweep, sweep, trial

READOUTS = {"rate": "trajectory", "m": "readout", "d": "readout", "e": "readout"}


def only(cells, **changes):
    """The map of one trajectory's ``cells``."""
    (found,) = lattice_maps(sweep(trial(0), roles=READOUTS, lattices={0: tuple(cells)}, **changes))
    json.dumps(asdict(found), allow_nan=False)  # Raises on what a browser could not read.
    return found


def test_two_parameters_make_rows_and_columns_the_fewer_values_across():
    values = [(m, d) for m in (0.9, 0.8) for d in (0.999, "off", 0.9)]
    found = only(cell(0.1 + i, m=m, d=d) for i, (m, d) in enumerate(values))
    assert (found.names, found.rows, found.columns) == (("d", "m"), ("off", "0.9", "0.999"), ("0.8", "0.9"))
    assert found.cells[0] == [["0.999", "0.9"], 0.1, 0.9, None, 0]
    assert {tuple(c[0]) for c in found.cells} == {(r, c) for r in found.rows for c in found.columns}


def test_a_cell_that_was_not_scored_is_simply_not_there():
    found = only([cell(1.0, m=0.8, d=0.1), cell(2.0, m=0.9, d=0.2)])
    assert (len(found.rows), len(found.columns), len(found.cells)) == (2, 2, 2)


def test_one_parameter_makes_a_single_row():
    found = only(cell(m, m=m) for m in (0.9, 0.8, 0.99))
    assert (found.names, found.rows, found.columns) == (("m",), (), ("0.8", "0.9", "0.99"))


@pytest.mark.parametrize(
    "cells",
    [
        [cell(0.3, m=1, d=1, e=1), cell(0.1, m=1, d=2, e=1), cell(0.2, m=2, d=1, e=2)],
        [cell(0.3, m=1, d=1), cell(0.1, m=1), cell(0.2, d=1)],
        [cell(0.3), cell(0.1), cell(0.2, m=1)],
    ],
    ids=["three parameters", "an inactive one", "no parameter at all"],
)
def test_all_else_is_a_list_best_first(cells):
    found = only(cells)
    assert (found.rows, found.columns) == ((), ()) or len(found.names) == 1
    assert [c[1] for c in found.cells] == [0.1, 0.2, 0.3]
    assert all(len(c[0]) == len(found.names) for c in found.cells)


def test_a_parameter_that_is_nowhere_active_is_no_axis():
    """Without batch normalization there is no momentum: the trajectory's lattice is a row of decays."""
    found = {m.trajectory: m for m in lattice_maps(shared_sweep())}
    assert (found[0].names, found[5].names) == (("ema_decay", "bn_momentum"), ("ema_decay",))


def test_the_best_trials_trajectory_comes_first_then_by_loss_and_those_without_a_loss_last():
    def lattice(loss):
        return cell(loss, m=1), cell(9.0 if math.isfinite(loss) else loss, m=2)

    record = sweep(
        trial(0, value=0.5),
        trial(1, value=0.05),
        trial(2, value=0.7, params={"learning_rate": 0.25, "m": 1}, steps=120),
        roles={**ROLES, "m": "readout"},
        lattices={
            3: lattice(math.nan),
            2: lattice(0.01),
            0: lattice(0.02),
            1: lattice(0.03),
            4: (cell(0.0, m=1),),
        },
    )
    found = lattice_maps(record)
    assert [m.trajectory for m in found] == [1, 2, 0, 3], "and a single cell is no map"
    assert num_maps(record) == 4
    assert [m.label for m in found[:2]] == [
        "trajectory 1: lowest loss 0.03, holds the best trial, 1",
        "trajectory 2: lowest loss 0.01",
    ]
    assert (found[1].about, found[1].step) == ("learning_rate 0.25", 120)
    assert found[3].label == "trajectory 3: no finite loss"
    assert (found[3].low, found[3].high, found[3].cells[0][1:]) == (None, None, [None, 0.9, None, None])


def test_no_lattices_no_maps():
    assert lattice_maps(sweep()) == lattice_maps(sweep(trial(0), trial(1, trajectory=0))) == []


def test_of_equal_losses_the_trials_is_the_best():
    found = only([cell(0.1, m=1), cell(0.1, 5, m=2), cell(0.1, 4, m=3)])
    assert [c[3] for c in found.cells] == [4, 5, None]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.9, "off", 0.0, 0.9999], ["off", "0", "0.9", "0.9999"]),
        ([0.99999, 0.999999], ["0.99999", "0.999999"]),
        ([0.123456, 0.123457], ["0.123456", "0.123457"]),
        ([0.98765432], ["0.9877"]),
        ([16, 4], ["4", "16"]),
        ([True, False], ["no", "yes"]),
        ([1.0, math.inf], ["1", "inf"]),
    ],
)
def test_heads_tell_values_apart_and_decays_from_one(values, texts):
    assert list(heads(values).values()) == texts


@pytest.mark.parametrize(
    ("losses", "expected", "scale"),
    [
        ([0.01, 0.1, None, 1.0], [0, 50, None, 100], (0.01, 1.0, True)),
        ([-1.0, 0.0, 3.0], [0, 25, 100], (-1.0, 3.0, False)),
        ([2.0, 2.0], [0, 0], (2.0, 2.1, True)),
        ([2.0, 2.002], [0, 2], (2.0, 2.1, True)),
        ([0.0, 0.0], [0, 0], (0.0, 0.0, False)),
        ([None], [None], None),
    ],
    ids=["log", "linear", "equal", "nearly equal", "zero", "none"],
)
def test_shades(losses, expected, scale):
    found, ends = shades(losses)
    assert found == expected
    assert ends == (scale and (*map(pytest.approx, scale[:2]), scale[2]))
