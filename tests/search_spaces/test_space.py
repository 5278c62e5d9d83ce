"""Parameters and spaces: what they refuse, and how they are walked."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces import Categorical, Float, Int, Space, SpaceError, presets

KNOWN = {
    "rate": "trajectory",
    "placement": "trajectory",
    "order": "trajectory",
    "depth": "trajectory",
    "m": "readout",
}
PLACEMENT = Categorical("placement", ("none", "conv", "fc"))
ORDER = Categorical("order", ("pre", "post"), when={"placement": ("conv", "fc")})
MOMENTUM = Categorical("m", (0.9, 0.99), when={"order": ("post",)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Float("rate", 1.0, 0.1), "space.parameters.rate.low is 1.0, but must be below"),
        (lambda: Float("rate", 1.0, 1.0), "space.parameters.rate.low is 1.0, but must be below"),
        (lambda: Float("rate", 0.0, 1.0, log=True), "space.parameters.rate.low is 0.0, but must be above 0"),
        (lambda: Float("rate", float("nan"), 1.0), "but must be finite numbers"),
        (lambda: Float("rate", 0.0, float("inf")), "but must be finite numbers"),
        (lambda: Int("depth", 3, 2), "space.parameters.depth.low is 3, but must be below"),
        (lambda: Int("depth", 0, 2, log=True), "space.parameters.depth.low is 0, but must be above 0"),
        (lambda: Categorical("order", ()), "space.parameters.order.choices is [], but must be at least one value"),
        (lambda: Categorical("order", ("a", "a")), "but must be without doubles ('a' is there twice)"),
        (lambda: Categorical("order", (1, 1.0)), "but must be without doubles"),
        (lambda: Categorical("order", (float("nan"),)), "but must be finite numbers"),
    ],
)
def test_a_parameter_is_valid_from_birth(make, message):
    with pytest.raises(SpaceError) as caught:
        make()
    assert message in str(caught.value)


def test_true_and_one_are_different_choices():
    assert Categorical("order", (True, 1)).choices == (True, 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "space.parameters is [], but must be at least one parameter"),
        ([Float("rat", 0, 1)], "'rat', but must be a parameter that the trainable knows (did you mean 'rate'?)"),
        ([Float("rate", 0, 1), Float("rate", 0, 2)], "'rate', but must be there once"),
        ([ORDER], "space.parameters.order.when is 'placement', but must be another parameter of this space"),
        (
            [PLACEMENT, Categorical("order", ("pre",), when={"placement": ("conf",)})],
            "space.parameters.order.when.placement is 'conf', but must be a value that placement can take",
        ),
        (
            [Float("rate", 0, 1, when={"depth": (1,)}), Int("depth", 1, 2, when={"rate": (0.5,)})],
            "is 'rate -> depth -> rate', but must be free of cycles",
        ),
        ([Float("rate", 0, 1, when={"rate": (0.5,)})], "is 'rate -> rate', but must be free of cycles"),
        (
            [Categorical("m", (0.9, 0.99)), Float("rate", 0, 1, when={"m": (0.9,)})],
            "must be a trajectory parameter, as the weights cannot depend on a readout",
        ),
    ],
)
def test_a_space_is_checked_as_a_whole(parameters, message):
    with pytest.raises(SpaceError) as caught:
        Space.of(parameters, KNOWN)
    assert message in str(caught.value)


def test_parents_come_before_children_whatever_the_order_given():
    space = Space.of([MOMENTUM, ORDER, PLACEMENT], KNOWN)
    assert [parameter.name for parameter in space.parameters] == ["placement", "order", "m"]
    assert space.roles == {"placement": "trajectory", "order": "trajectory", "m": "readout"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"placement": "none", "order": "post", "m": 0.9}, {"placement": "none"}),
        ({"placement": "conv", "order": "pre", "m": 0.9}, {"placement": "conv", "order": "pre"}),
        ({"placement": "fc", "order": "post", "m": 0.9}, {"placement": "fc", "order": "post", "m": 0.9}),
    ],
)
def test_only_active_parameters_are_asked_for(values, expected):
    space = Space.of([PLACEMENT, ORDER, MOMENTUM], KNOWN)
    assert space.sample(lambda parameter: values[parameter.name]) == expected


def test_probes_visit_every_choice_and_both_ends():
    space = Space.of([PLACEMENT, ORDER, MOMENTUM, Float("rate", 0.1, 0.5)], KNOWN)
    probes = space.probes()
    for parameter in space.parameters:
        assert {probe[parameter.name] for probe in probes if parameter.name in probe} >= set(parameter.extremes)
    assert all(space.sample(lambda p, probe=probe: probe[p.name]) == probe for probe in probes)


def test_distributions_are_optunas():
    assert Float("rate", 0.1, 1.0, log=True).distribution() == FloatDistribution(0.1, 1.0, log=True)
    assert Int("depth", 1, 4).distribution() == IntDistribution(1, 4)
    assert PLACEMENT.distribution() == CategoricalDistribution(("none", "conv", "fc"))


@pytest.mark.parametrize("preset", presets().values(), ids=lambda preset: preset.name)
def test_presets_are_documented_and_known_to_the_built_in_trainable(preset):
    from model.trial import ToweredCNN, TrialSettings

    trainable = ToweredCNN(TrialSettings())
    space = Space.of(preset.parameters, trainable.parameters)
    for probe in space.probes():
        trainable.check(probe)
    assert preset.description
    assert preset.source
    assert preset.expectation


def test_batch_norm_searches_what_the_design_says():
    by_name = {parameter.name: parameter for parameter in presets()["batch_norm"].parameters}
    rate = by_name["learning_rate"]
    assert (rate.low, rate.high, rate.log) == (1e-4, 1e-1, True)
    assert by_name["bn_placement"].choices == ("none", "conv", "conv+fc", "input+conv+fc", "input+conv+fc+logits")
    assert by_name["bn_momentum"].choices == (0.8, 0.9, 0.97, 0.99, 0.997, 0.999)
    assert by_name["ema_decay"].choices == (0.0, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999)
