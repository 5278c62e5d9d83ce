"""Sweep files: what is refused, in which words; and that what is written back is what was read."""

import json
import tomllib

import jsonschema
import pytest

from sweeps import config
from sweeps.errors import InputError

BAD = [
    # (sweep file, what the one line must say)
    ("[train]\nsteps = ", "is not TOML: Invalid value (at line 2, column 9)"),
    ("[train\nsteps = 3", "is not TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
    ("[trian]\nsteps = 3", "trian is {'steps': 3}, but must be a known section or key (did you mean 'train'?)"),
    ("[train]\nstep = 3", "train.step is 3, but must be a known key (did you mean 'steps'?)"),
    (
        "[search]\ntrajectorys = 3",
        "search.trajectorys is 3, but must be a known key (did you mean 'trajectories'?)",
    ),
    ("[train]\nsteps = 'many'", "train.steps is 'many', but must be a whole number"),
    ("[train]\nlearning_rate = 'fast'", "train.learning_rate is 'fast', but must be a number"),
    ("[model]\nbn_gamma = 'perhaps'", "model.bn_gamma is 'perhaps', but must be true or false"),
    ("[model]\nconv_widths = 3", "model.conv_widths is 3, but must be a list"),
    ("train = 3", "train is 3, but must be a section"),
    ("search = 3", "search is 3, but must be a section"),
    ("[model]\nbn_order = 'before'", "model.bn_order is 'before', but must be one of 'pre' or 'post'"),
    (
        "[data]\ndataset = 'digit'",
        "data.dataset is 'digit', but must be one of 'digits', 'synthetic', 'cifar10', ",
    ),
    ("name = 'a b'", "name is 'a b', but must be letters, digits, dots, dashes and underscores"),
    ("[space]\npreset = 'batchnorm'", "space.preset is 'batchnorm', but must be one of"),
    ("[space]\npreset = 'batchnorm'", "(did you mean 'batch_norm'?)"),
    (
        "[space.parameters.learning_rate]\ntype = 'float'\nlow = 1.0\nhigh = 0.1",
        "space.parameters.learning_rate.low is 1.0, but must be below space.parameters.learning_rate.high=0.1",
    ),
    (
        "[space.parameters.learning_rate]\ntype = 'float'\nlow = 0\nhigh = 0.1\nlog = true",
        "space.parameters.learning_rate.low is 0.0, but must be above 0 where log = true",
    ),
    (
        "[space.parameters.learning_rate]\ntype = 'float'\nlow = 0.1",
        "must be a range with low and high",
    ),
    (
        "[space.parameters.bn_order]\ntype = 'categorical'\nchoices = []",
        "space.parameters.bn_order.choices is [], but must be at least one value",
    ),
    (
        "[space.parameters.bn_order]\ntype = 'categorical'\nchoices = ['pre', 'pre']",
        "must be without doubles ('pre' is there twice)",
    ),
    (
        "[space.parameters.bn_order]\ntype = 'categorical'\nchoices = ['pre', 'later']",
        "model.bn_order is 'later', but must be one of pre, post",
    ),
    (
        "[space.parameters.learning_rat]\ntype = 'float'\nlow = 0.1\nhigh = 1",
        "must be a parameter that the trainable knows (did you mean 'learning_rate'?)",
    ),
    (
        "[space.parameters.batch_size]\ntype = 'categorical'\nchoices = [64, 63]\n[model]\ntowers = 2",
        "train.batch_size is 63, but must be a multiple of model.towers=2",
    ),
    (
        "[model]\ntowers = 3\n[train]\nbatch_size = 100",
        "train.batch_size is 100, but must be a multiple of model.towers=3",
    ),
    (
        "[resources]\ngpus_per_tower = 1.5",
        "resources.gpus_per_tower is 1.5, but must be a whole number, or a fraction",
    ),
    (
        "[resources]\ngpus_per_tower = 0.75\n[model]\ntowers = 2",
        "resources.gpus_per_tower is 0.75, but must be such that",
    ),
    ("[resources]\ngpus_per_tower = -1", "resources.gpus_per_tower is -1, but must be at least 0"),
    ("[resources]\nworkers = 0", "resources.workers is 0, but must be one of 'auto' or at least 1"),
    ("[search]\ntrajectories = 0", "search.trajectories is 0, but must be at least 1"),
    ("[search]\ntrajectories = -3", "search.trajectories is -3, but must be at least 1"),
    ("[search]\ntime_budget = 0", "search.time_budget is 0, but must be above 0"),
    (
        "[search]\ntime_budget = '-5s'",
        "search.time_budget is '-5s', but must be a duration like 90s, 10m or 1h30m",
    ),
    (
        "[search]\ntime_budget = 'soon'",
        "search.time_budget is 'soon', but must be a duration like 90s, 10m or 1h30m",
    ),
    (
        "[resources]\nworker_memory = '4 gigs'",
        "resources.worker_memory is '4 gigs', but must be a size like 500MB or 4GiB, or a number of bytes",
    ),
    ("[resources]\nworker_memory = '1KiB'", "resources.worker_memory is '1KiB', but must be at least 1048576"),
    ("[search]\nsampler = 'tpee'", "search.sampler is 'tpee', but must be one of 'tpe', 'random', 'qmc' or 'gp'"),
    (
        "[[search.baselines]]\nlearning_rate = 9.0",
        "search.baselines.learning_rate is 9.0, but must be a value that the",
    ),
    ("[[search.baselines]]\nrate = 0.1", "search.baselines is 'rate', but must be a searched parameter"),
    ("trainable = 'nowhere:Thing'", "trainable is 'nowhere:Thing', but must be package.module:name"),
    ("trainable = 'json:Thing'", "trainable is 'json:Thing', but must be package.module:name"),
    ("trainable = 'json'", "trainable is 'json', but must be package.module:name"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_bad_input_is_one_line_with_file_field_value_and_rule(tmp_path, text, message):
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        config.load(str(path))
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert message in said
    assert "\n" not in said


def test_a_missing_file_is_named():
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read, but must be a TOML file \(No such file"):
        config.load("nowhere.toml")


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"sweep is 'digit', but must be .* \(did you mean 'digits'\?\)"):
        config.load("digit")


@pytest.mark.parametrize("name", config.builtin_sweeps())
def test_built_in_sweeps_load_and_come_back_from_what_is_written(name, tmp_path):
    sweep = config.load(name)
    path = tmp_path / "sweep.toml"
    path.write_text(config.to_toml(sweep))
    again = config.load(str(path))
    assert again.as_mapping() == sweep.as_mapping()
    assert config.digest(again) == config.digest(sweep)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("'120s'", 120),
        ("'1h30m'", 5400),
        ("'2.5m'", 150),
        ("45", 45),
        ("'45'", 45),
        ("'500ms'", 0.5),
        ("'1d'", 86400),
    ],
)
def test_durations(text, seconds):
    assert config.load("quick", [f"search.time_budget={text}"]).search.time_budget == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2000000", 2_000_000),
        ("'2000000'", 2_000_000),
        ("'500MB'", 500_000_000),
        ("'1.5 GiB'", 3 * 2**29),
        ("'2TiB'", 2**41),
        ("'3000K'", 3_000_000),
    ],
)
def test_sizes(text, size):
    assert config.load("quick", [f"resources.worker_memory={text}"]).resources.worker_memory == size


def test_overrides_reach_any_setting():
    sweep = config.load(
        "digits", ["train.steps=60", "model.bn_order=post", "search.seed = 7", "model.conv_widths=[4, 8]"]
    )
    assert (sweep.steps, sweep.settings.model.bn_order, sweep.search.seed) == (60, "post", 7)
    assert sweep.settings.model.conv_widths == (4, 8)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.steps", "--set is 'train.steps', but must be section.key=value"),
        ("=3", "--set is '=3', but must be section.key=value"),
        ("train.stepz=3", "train.stepz is 3, but must be a known key (did you mean 'steps'?)"),
        ("train.steps.more=3", "must be below a section (steps is a value)"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(InputError) as caught:
        config.load("digits", [override])
    assert message in str(caught.value)


def test_a_preset_can_be_extended_and_replaced():
    sweep = config.from_mapping(
        {
            "space": {
                "preset": "learning_rate",
                "parameters": {
                    "learning_rate": {"type": "float", "low": 0.01, "high": 0.1},
                    "weight_decay": {"type": "float", "low": 1e-5, "high": 1e-2, "log": True},
                },
            }
        },
        "settings",
    )
    assert {p.name: p.low for p in sweep.space.parameters} == {"learning_rate": 0.01, "weight_decay": 1e-5}


def test_conditions_come_from_the_file():
    parameters = {
        "bn_placement": {"type": "categorical", "choices": ["none", "conv"]},
        "bn_order": {"type": "categorical", "choices": ["pre", "post"], "when": {"bn_placement": "conv"}},
    }
    sweep = config.from_mapping({"space": {"parameters": parameters}}, "settings")
    assert sweep.space.sample(lambda p: p.extremes[0]) == {"bn_placement": "none"}


def test_a_password_is_never_written():
    url = "postgresql+psycopg://me:s3cret@db.example:5432/studies"
    sweep = config.from_mapping({"storage": {"url": url}}, "settings")
    assert sweep.storage.url == url
    assert "s3cret" not in config.to_toml(sweep)
    assert "postgresql+psycopg://me@db.example:5432/studies" in config.to_toml(sweep)


def test_the_digest_is_of_what_changes_trials():
    base = config.load("digits")
    same = config.load("digits", ["search.trajectories=5", "resources.workers=1", "name=other"])
    other = config.load("digits", ["train.steps=301"])
    assert config.digest(same) == config.digest(base) != config.digest(other)


def test_the_schema_accepts_what_loads_and_refuses_what_does_not():
    schema = config.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name in config.builtin_sweeps():
        validator.validate(json.loads(json.dumps(config.load(name).as_mapping())))
    assert not validator.is_valid({"train": {"stepz": 3}})
    assert not validator.is_valid({"search": {"trajectories": 0}})
    assert schema["$defs"]["SearchSettings"]["properties"]["readouts_per_trajectory"]["description"]


def test_settings_of_a_trainable_of_ones_own():
    text = """
    trainable = "tests.support.trainables:Quadratic"
    run.steps = 30
    [space.parameters.rate]
    type = "float"
    low = 0.1
    high = 0.5
    """
    sweep = config.from_mapping(tomllib.loads(text), "settings")
    assert (sweep.steps, sweep.settings.run.steps) == (30, 30)
    with pytest.raises(InputError, match=r"rate is 2.0, but must be below 1"):
        config.from_mapping(tomllib.loads(text), "settings", ["space.parameters.rate.high=1.6"])


def test_a_preset_is_resolved_and_what_the_file_says_goes_before_it():
    text = "[model]\npreset = 'r0.11'\nbn_gamma = true\n[train]\nweight_decay = 0.1"
    sweep = config.from_mapping(tomllib.loads(text), "here")
    model = sweep.settings.model
    assert (model.bn_momentum, model.bn_tower_updates, model.bn_gamma) == (0.999, "all", True)
    assert "preset" not in sweep.as_mapping()["model"]
    assert config.from_mapping({}, "here", ["model.preset=r0.11"]).settings.model.ema_decay == 0.9999


def test_an_unknown_preset_is_one_line():
    with pytest.raises(InputError, match=r"^here: model\.preset is 'r0\.1', .* \(did you mean 'r0\.11'\?\)$"):
        config.from_mapping({"model": {"preset": "r0.1"}}, "here")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": {"bn_order": "post"}}, "model.bn_order is 'post', but must be"),
        ({"train": {"eval_statistics": "re-estimated"}}, "train.eval_statistics is 're-estimated', but"),
        ({"train": {"eval_weights": "averaged"}}, "train.eval_weights is 'averaged', but"),
    ],
)
def test_settings_that_contradict_each_other_are_bad_input(section, message):
    rates = {"learning_rate": {"type": "float", "low": 0.1, "high": 1.0}}
    with pytest.raises(InputError) as caught:
        config.from_mapping({**section, "space": {"parameters": rates}}, "here")
    assert str(caught.value).startswith(f"here: {message}")


def test_the_schema_knows_the_presets():
    validator = jsonschema.Draft202012Validator(config.json_schema())
    assert validator.is_valid({"model": {"preset": "r0.11"}, "data": {"preset": "tutorial"}})
    assert not validator.is_valid({"model": {"preset": "r0.12"}})
    assert not validator.is_valid({"search": {"preset": "r0.11"}})
