"""Proposals: siblings that never duplicate, a lattice that is whole, models that learn from what they should."""

from itertools import product

import numpy as np
import pytest
from scipy.stats.qmc import discrepancy

from search_spaces import Categorical, Float, Int, Space
from sweeps.proposals import MAX_CELLS, STARTUP_TRAJECTORIES, Proposer, SamplerSettings, kronecker_points
from sweeps.records import TrialState

MOMENTA, DECAYS = (0.8, 0.9, 0.97, 0.99, 0.997, 0.999), (0.0, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)
KNOWN = {"rate": "trajectory", "placement": "trajectory", "m": "readout", "d": "readout"}
SPACE = Space.of(
    [
        Float("rate", 1e-4, 1e-1, log=True),
        Categorical("placement", ("none", "conv")),
        Categorical("m", MOMENTA, when={"placement": ("conv",)}),
        Categorical("d", DECAYS),
    ],
    KNOWN,
)
SHARED = {"rate": 0.01, "placement": "conv"}
FIRST = {"m": 0.9, "d": 0.99}
SAMPLERS = ("tpe", "random", "qmc")


def make(space=SPACE, **settings):
    return Proposer(space, SamplerSettings(**{"lattice": True, **settings}))


def as_set(readouts):
    found = {tuple(sorted(readout.items())) for readout in readouts}
    assert len(found) == len(readouts)
    return found


def teach(proposer, trajectories, loss_of, first=0, wanted=7):
    """Run so many trajectories with the losses that ``loss_of(params)`` says; all readouts that were proposed."""
    proposed = []
    for number in range(first, first + trajectories):
        params = proposer.propose(number)
        shared, readout = proposer.split(params)
        readouts = [readout, *proposer.siblings(number, shared, readout, wanted)]
        proposed.append((shared, readouts))
        scored = [(each, loss_of({**shared, **each})) for each in readouts]
        proposer.ended(number, TrialState.COMPLETE, 300, shared, scored)
    return proposed


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("wanted", [0, 1, 7, 41, 60])
def test_siblings_are_distinct_and_as_many_as_there_can_be(name, wanted):
    proposer = make(name=name)
    teach(proposer, STARTUP_TRAJECTORIES + 1, lambda params: params["rate"] + params["d"])
    siblings = proposer.siblings(20, SHARED, FIRST, wanted)
    assert len(as_set([FIRST, *siblings])) == 1 + min(wanted, 41)
    assert all(readout["m"] in MOMENTA and readout["d"] in DECAYS for readout in siblings)


def test_a_readout_parameter_that_is_inactive_is_left_out():
    siblings = make().siblings(0, {"rate": 0.01, "placement": "none"}, {"d": 0.99}, 20)
    assert as_set(siblings) == {(("d", d),) for d in DECAYS if d != 0.99}


def test_without_readouts_there_are_no_siblings_and_no_lattice():
    proposer = make(Space.of([Float("rate", 0.0, 1.0)], KNOWN))
    assert proposer.siblings(0, {"rate": 0.5}, {}, 7) == []
    assert proposer.lattice({"rate": 0.5}, [{}]) == ()


def test_before_there_is_anything_to_model_siblings_are_spread_evenly():
    """42 cells, 7 siblings of each of 21 trajectories; at random, many cells would be missed."""
    proposer, counts = make(name="random"), dict.fromkeys(product(MOMENTA, DECAYS), 0)
    for number in range(21):
        for readout in proposer.siblings(number, SHARED, {"m": MOMENTA[number % 6], "d": 0.9}, 7):
            counts[readout["m"], readout["d"]] += 1
    by_decay = [sum(count for (_, d), count in counts.items() if d == decay) for decay in DECAYS]
    assert sum(counts.values()) == 21 * 7
    assert min(by_decay) > 12
    assert sum(count == 0 for count in counts.values()) < 4


@pytest.mark.parametrize("dimensions", [1, 2, 3, 6])
def test_the_low_discrepancy_sequence_has_a_third_of_the_discrepancy_of_random_points(dimensions):
    """SciPy's centred discrepancy, which is a square, of points taken from the middle of the sequence."""
    found = []
    for seed in range(9):
        points = kronecker_points(range(700, 828), dimensions, seed)
        assert ((points >= 0) & (points < 1)).all()
        found.append(discrepancy(points))
    random = [discrepancy(np.random.default_rng(seed).random(points.shape)) for seed in range(9)]
    assert np.median(found) < np.median(random) / 3


def test_the_readouts_model_learns_the_rank_and_not_the_trajectory():
    """m = .999 with d = .9 is best by little, in trajectories whose losses differ by orders of magnitude."""

    def loss(params):
        return 1000 * params["rate"] + 1e-3 * (abs(params.get("m", 1) - 0.999) + abs(params["d"] - 0.9))

    hits = 0
    for seed in range(4):
        proposer = make(name="tpe", seed=seed)
        teach(proposer, 5 * STARTUP_TRAJECTORIES, loss)
        found = [proposer.siblings(100 + i, SHARED, {"m": 0.8, "d": 0.0}, 3) for i in range(10)]
        hits += sum({"m": 0.999, "d": 0.9} in siblings for siblings in found)
    assert hits > 24  # Of 40; three of 41 cells at random would be 3.


def test_the_trajectories_model_sees_each_trajectory_once_at_its_best():
    proposer = make(name="tpe")
    teach(proposer, 6, lambda params: params["d"] + params["rate"])
    ended = [trial for trial in proposer._whole.get_trials() if trial.state.name == "COMPLETE"]
    assert len(ended) == 6
    assert all(trial.value == pytest.approx(trial.params["d"] + trial.params["rate"]) for trial in ended)


def test_tpe_goes_where_it_is_good():
    """A third of the range of rates is within a factor of 3 of the best: at random 16 of 50, and 25 with conv."""

    def loss(params):
        return abs(params["rate"] - 0.01) + (params["placement"] == "none")

    late = []
    for seed in range(5):
        proposer = make(name="tpe", seed=seed)
        teach(proposer, 30, loss)
        late += [shared for shared, _ in teach(proposer, 10, loss, first=30)]
    assert sum(shared["placement"] == "conv" for shared in late) >= 29
    assert sum(0.0033 < shared["rate"] < 0.03 for shared in late) >= 25


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_seed_and_history_propose_the_same(name):
    def proposed(seed):
        return teach(make(name=name, seed=seed), 12, lambda params: params["rate"])

    assert proposed(3) == proposed(3)
    assert proposed(3) != proposed(4)


def test_the_lattice_is_every_other_combination():
    proposer = make()
    lattice = proposer.lattice(SHARED, [FIRST, {"m": 0.8, "d": 0.0}])
    whole = {(("d", d), ("m", m)) for m, d in product(MOMENTA, DECAYS)}
    assert as_set([FIRST, {"m": 0.8, "d": 0.0}, *lattice]) == whole
    without_bn = proposer.lattice({"rate": 0.1, "placement": "none"}, [{"d": 0.0}])
    assert as_set(without_bn) == {(("d", d),) for d in DECAYS if d}
    assert make(lattice=False).lattice(SHARED, [FIRST]) == ()


def test_the_lattice_of_a_range_has_the_values_that_siblings_have():
    space = Space.of([Float("m", 0.0, 1.0), Int("d", 1, 3)], KNOWN)
    proposer = make(space)
    cells = proposer.lattice({}, [{"m": 0.25, "d": 1}, {"m": 0.5, "d": 1}])
    assert as_set(cells) == {(("d", d), ("m", m)) for d in (2, 3) for m in (0.25, 0.5)}
    many = [{"m": i / 100, "d": 1} for i in range(MAX_CELLS // 3 + 1)]
    assert proposer.lattice({}, many) == ()


def test_a_failed_trajectory_teaches_nothing_and_frees_its_place():
    proposer = make()
    proposer.propose(0)
    proposer.ended(0, TrialState.FAILED, 0, SHARED, [])
    assert [trial.state.name for trial in proposer._whole.get_trials()] == ["FAIL"]


def test_readouts_that_are_not_numbers_are_worse_than_none():
    proposer = make()
    proposer.propose(0)
    scored = [(FIRST, float("nan")), ({"m": 0.8, "d": 0.0}, float("inf"))]
    proposer.ended(0, TrialState.PRUNED, 33, SHARED, scored)
    assert [trial.state.name for trial in proposer._whole.get_trials()] == ["FAIL", "PRUNED"]
