"""Readouts that keep out of training, and those that do not. The quadratic's loss is known exactly."""

import json
from math import inf, nan

import pytest

from search_spaces import Categorical, Float, Int, Space
from sweeps import config
from sweeps.doctor import devices_here
from sweeps.readout_check import Difference, ReadoutCheck, check_readouts, first_difference, plan
from sweeps.trainable import Devices
from tests.support.trainables import Reader, ReaderRun, RunSettings, Settings

RATE = {"type": "float", "low": 0.125, "high": 0.375}  # In the middle: 0.25.
OFFSET = {"type": "categorical", "choices": [0.0, 0.5, 0.25]}
SCALE = {"type": "float", "low": 0.0, "high": 1.0}
BOTH = {"rate": RATE, "offset": OFFSET, "scale": SCALE}


def sweep(behaviour="well", parameters=BOTH, steps=90, name="Reader", **resources):
    return config.from_mapping(
        {
            "trainable": f"tests.support.trainables:{name}",
            "run": {"steps": steps, "behaviour": behaviour},
            "space": {"parameters": parameters},
            "resources": resources,
        },
        "test",
    )


def found(*args, **options):
    return check_readouts(sweep(*args, **options), Devices())


def culprits(check):
    return [culprit.parameter for culprit in check.culprits]


@pytest.mark.parametrize(("steps", "run"), [(90, 20), (20, 20), (7, 7), (2, 2), (1, 1)])
def test_readouts_that_keep_out_of_training_are_sound(steps, run):
    check = found(steps=steps)
    assert check == ReadoutCheck(run, ("offset", "scale"))
    assert check.identical


def test_a_sound_trainable_is_run_three_times_only():
    before = ReaderRun.started
    found()
    assert ReaderRun.started == before + 3


def test_a_readout_that_leaks_is_named_with_where_and_what_differs():
    check = found("leak offset", {"rate": RATE, "offset": OFFSET})
    losses = (1 - 0.25) ** 2 / 2, (1 - 0.25 * 1.25) ** 2 / 2
    (culprit,) = check.culprits
    assert (culprit.parameter, culprit.difference) == ("offset", Difference(1, *losses))
    assert (check.checked, check.problem, check.identical) == (("offset",), None, False)


@pytest.mark.parametrize(
    ("behaviour", "named"),
    [
        ("leak scale", ["scale"]),
        ("leak offset", ["offset"]),
        ("leak product", ["offset", "scale"]),  # Neither shows while the other one is 0.
        ("scoring", ["offset"]),
    ],
)
def test_only_those_that_leak_are_named(behaviour, named):
    check = found(behaviour)
    assert culprits(check) == named
    assert (check.checked, check.problem) == (("offset", "scale"), None)


def test_a_leak_by_scoring_shows_after_the_first_rung():
    (culprit,) = found("scoring").culprits
    assert culprit.difference.step == 11


def test_losses_are_told_with_the_first_value_first():
    """Also where the leak shows only while the others have their last values."""
    check = found("leak product")
    assert [culprit.difference.first for culprit in check.culprits] == [(1 - 0.25) ** 2 / 2] * 2
    assert [culprit.difference.second for culprit in check.culprits] == [(1 - 0.25 * 1.25) ** 2 / 2] * 2


def test_a_leak_that_multiplies_a_rate_is_seen_though_the_rate_may_be_0():
    rate = {"type": "float", "low": 0.0, "high": 0.5}
    assert culprits(found("leak offset", {"rate": rate, "offset": OFFSET})) == ["offset"]


@pytest.mark.parametrize("behaviour", ["random", "drift"])
def test_a_trainable_that_is_not_deterministic_blames_no_readout(behaviour):
    check = found(behaviour)
    assert (check.culprits, check.checked, check.unchecked) == ((), (), ("offset", "scale"))
    assert not check.identical
    assert check.problem.startswith(
        "the trainable is not deterministic, so that nothing can be said of its readout"
    )


def test_training_that_depends_on_how_many_readouts_there_are_is_a_problem():
    check = found("count")
    assert check.culprits == ()
    assert check.problem.startswith("training depends on how many readouts a run has: one and two of them gave")
    assert check.problem.endswith(" at step 11")


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("raise", "RuntimeError: boom"),
        ("nonsense", "advance(10) gave no measurement: 'dict' object has no attribute 'scores'"),
        ("wrong_step", "measurement.step is 11, but must be 10, as asked"),
    ],
)
def test_an_error_in_the_trial_is_a_problem_in_one_line(behaviour, problem):
    check = found(behaviour)
    assert check.problem == f"{problem} (with rate=0.25 offset=0 scale=0)"
    assert check.unchecked == ("offset", "scale")
    assert (check.culprits, check.identical) == ((), False)


def test_an_interrupt_is_not_swallowed(monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(ReaderRun, "advance", interrupt)
    with pytest.raises(KeyboardInterrupt):
        found()


def test_runs_that_diverge_alike_are_the_same_and_go_no_further():
    check = found("nan")
    assert check == ReadoutCheck(20, ("offset", "scale"))


@pytest.mark.parametrize(
    "parameters",
    [{"rate": RATE}, {"rate": RATE, "offset": {"type": "categorical", "choices": [0.5]}}],
    ids=["no readout", "one value"],
)
def test_nothing_is_run_where_there_is_nothing_to_vary(parameters):
    before = ReaderRun.started
    check = found("raise", parameters)
    assert check == ReadoutCheck()
    assert ReaderRun.started == before


def conditional(name, when):
    return {**{"offset": OFFSET, "scale": SCALE, "decay": SCALE}[name], "when": when}


BRANCHES = {
    "rate": RATE,
    "kind": {"type": "categorical", "choices": ["a", "b"]},
    "offset": OFFSET,
    "scale": conditional("scale", {"kind": "a"}),
    "decay": conditional("decay", {"kind": "b"}),
}


@pytest.mark.parametrize(
    ("behaviour", "named"), [("well", []), ("leak decay", ["decay"]), ("leak scale", ["scale"])]
)
def test_a_readout_of_another_branch_has_a_pair_of_its_own(behaviour, named):
    check = found(behaviour, BRANCHES)
    assert check.checked == ("offset", "scale", "decay")
    assert culprits(check) == named


def planned(parameters, behaviour="well"):
    settings = sweep(behaviour, parameters)
    return plan(settings.space, Reader(settings.settings))


def test_the_plan_takes_as_many_as_are_active_together():
    first, second = planned(BRANCHES)
    assert first.varied == ("offset", "scale")
    assert first.first == {"rate": 0.25, "kind": "a", "offset": 0.0, "scale": 0.0}
    assert first.last == {"rate": 0.25, "kind": "a", "offset": 0.25, "scale": 1.0}
    assert second.varied == ("decay",)
    assert second.first == {"rate": 0.25, "kind": "b", "offset": 0.0, "decay": 0.0}
    assert second.last == {"rate": 0.25, "kind": "b", "offset": 0.0, "decay": 1.0}


def test_branches_that_can_be_taken_together_are():
    switches = {"rate": {"type": "categorical", "choices": [0.1, 0.2]}, "kind": BRANCHES["kind"]}
    conditions = {
        "offset": conditional("offset", {"rate": 0.2}),
        "scale": conditional("scale", {"kind": "b"}),
    }
    (pair,) = planned({**switches, **conditions})
    assert pair.varied == ("offset", "scale")


AVERAGE = {"type": "categorical", "choices": ["none", "ema", "swa"]}


@pytest.mark.parametrize(
    ("when", "varied"),
    [
        # Active at both ends of its switch or at none: all at once. Else one with the other held.
        (["none", "swa"], [("average", "decay")]),
        (["ema", "swa"], [("average",), ("decay",)]),
        (["ema"], [("average",), ("decay",)]),
    ],
)
def test_a_readout_that_switches_another_one_is_told_apart_from_it(when, varied):
    pairs = planned({"average": AVERAGE, "decay": conditional("decay", {"average": when})})
    assert [pair.varied for pair in pairs] == varied
    (pair,) = (pair for pair in pairs if "decay" in pair.varied)
    assert (pair.first["decay"], pair.last["decay"]) == (0.0, 1.0)


def test_a_switch_that_always_turns_something_off_is_varied_all_the_same():
    on_left, on_right = (
        conditional("decay", {"average": "none"}),
        conditional("scale", {"average": ["ema", "swa"]}),
    )
    pairs = planned({"average": AVERAGE, "decay": on_left, "scale": on_right})
    assert sorted(name for pair in pairs for name in pair.varied) == ["average", "decay", "scale"]


def test_what_cannot_be_run_together_is_checked_alone():
    assert [pair.varied for pair in planned(BOTH, "picky")] == [("offset",), ("scale",)]
    assert found("picky") == ReadoutCheck(20, ("offset", "scale"))


def test_what_never_becomes_active_is_unchecked():
    average = {**AVERAGE, "when": {"kind": "b"}}
    never = conditional("decay", {"kind": "a", "average": "ema"})
    check = found(parameters={"kind": BRANCHES["kind"], "offset": OFFSET, "average": average, "decay": never})
    assert set(check.checked) == {"offset", "average"}
    assert check.unchecked == ("decay",)
    assert check.problem is None


def test_ranges_in_the_middle_are_given_up_where_they_cannot_be_run():
    space = Space.of([Float("rate", 0.5, 3.5), Int("offset", 0, 3)], Reader(Settings()).parameters)
    (pair,) = plan(space, Reader(Settings(RunSettings())))
    assert pair.first == {"rate": 0.5, "offset": 0}
    assert pair.last == {"rate": 0.5, "offset": 3}


def test_a_plan_varies_readouts_alone():
    names = {"rate": "trajectory", "kind": "trajectory", "offset": "readout", "scale": "readout"}
    space = Space.of([Categorical("kind", ("a", "b")), Int("offset", 1, 2), Float("scale", 0.5, 1.0)], names)
    (pair,) = plan(space, Reader(Settings()))
    assert {name for name in pair.first if pair.first[name] != pair.last[name]} == {"offset", "scale"}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ({1: 0.5}, {1: 0.5}, None),
        ({1: 0.5, 2: nan}, {1: 0.5, 2: nan}, None),
        ({1: inf}, {1: inf}, None),
        ({1: 0.5, 2: 0.25}, {1: 0.5, 2: 0.25 + 2**-54}, Difference(2, 0.25, 0.25 + 2**-54)),
        ({1: 0.5, 2: 0.25}, {2: 0.25}, Difference(1, 0.5, None)),
        ({2: 0.25}, {1: 0.5, 2: 0.25}, Difference(1, None, 0.5)),
    ],
)
def test_curves_are_compared_bit_by_bit(first, second, expected):
    assert first_difference(first, second) == expected


def test_nan_against_a_number_is_a_difference_and_json_has_no_nan():
    difference = first_difference({1: nan}, {1: 0.5})
    assert (difference.step, difference.second) == (1, 0.5)
    check = found("leak offset", {"rate": RATE, "offset": OFFSET})
    (culprit,) = check.facts()["culprits"]
    assert list(culprit) == ["parameter", "step", "first", "second"]
    diverged = ReadoutCheck(20, culprits=(type(check.culprits[0])("offset", difference),))
    assert json.loads(json.dumps(diverged.facts(), allow_nan=False))["culprits"][0]["first"] is None


@pytest.mark.parametrize(
    ("towers", "resources", "gpus", "expected"),
    [
        (1, {}, 8, Devices(1, 0.0, 1)),
        (2, {"gpus_per_tower": 1}, 2, Devices(2, 1.0, 2)),
        (2, {"gpus_per_tower": 1}, 1, Devices(2, 0.0, 2)),
        (2, {"gpus_per_tower": 0.5}, 1, Devices(2, 0.5, 2)),
        (1, {"gpus_per_tower": 0.5}, 0, Devices(1, 0.0, 1)),
        (2, {"cpus_per_tower": 0.25}, 0, Devices(2, 0.0, 1)),
        (2, {"cpus_per_tower": 64}, 0, Devices(2, 0.0, 4)),
    ],
)
def test_the_check_uses_what_this_machine_has(towers, resources, gpus, expected):
    settings = config.from_mapping(
        {
            "trainable": "tests.support.trainables:Reader",
            "run": {"towers": towers},
            "space": {"parameters": BOTH},
            "resources": resources,
        },
        "test",
    )
    assert devices_here(settings, cpus=4, gpus=gpus) == expected
