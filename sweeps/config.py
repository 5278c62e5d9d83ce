"""The sweep file as types: TOML in, a checked ``Sweep`` out.

Core sections (space, search, resources, storage, convergence) are pydantic models; every other section belongs to
the trainable, whose ``Settings`` dataclass says what it may hold. All problems leave as one-line SettingsErrors.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from search_spaces import Categorical, Float, Int, Parameter, ParamValue, Space, SpaceError, presets
from sweeps.errors import InputError, SettingsError, nearest
from sweeps.passwords import url_without_password
from sweeps.trainable import Trainable, load_trainable
from sweeps.validation import explain, rule_broken

BUILT_IN_TRAINABLE = "model.trial:ToweredCNN"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(value: object) -> object:
    """``"1h30m"``, ``"120s"`` or a number -> seconds; anything else is left for the type check to refuse."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value)
    if parts and "".join(number + unit for number, unit in parts) == value.replace(" ", ""):
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    try:
        return float(value)
    except ValueError as error:
        raise ValueError("a duration like 90s, 10m or 1h30m, or a number of seconds") from error


def parse_size(value: object) -> object:
    """``"4GiB"``, ``"500MB"`` or a number -> bytes; anything else is left for the type check to refuse."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", value.strip())
    if match is None:
        raise ValueError("a size like 500MB or 4GiB, or a number of bytes")
    prefix = match[2] or ""
    power = " KMGT".index(prefix[0]) if prefix else 0
    return int(float(match[1]) * (1024 if prefix.endswith("i") else 1000) ** power)


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
Seconds = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=float | str)]
Value = bool | int | float | str


class Section(BaseModel):
    """A section of the sweep file: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, strict=False)


class ParameterSettings(Section):
    """One searched parameter."""

    type: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    choices: list[Value] | None = None
    when: dict[str, Value | list[Value]] = Field(default_factory=dict)
    """Other parameters' values that make this one active."""

    @model_validator(mode="after")
    def _complete(self) -> ParameterSettings:
        if self.type == "categorical" and (self.choices is None or self.low is not None or self.high is not None):
            raise ValueError("a categorical with choices, and neither low nor high")
        if self.type != "categorical" and (self.choices is not None or self.low is None or self.high is None):
            raise ValueError("a range with low and high, and without choices")
        if self.type == "int" and not (float(self.low or 0).is_integer() and float(self.high or 0).is_integer()):
            raise ValueError("an int range with whole low and high")
        return self

    def parameter(self, name: str) -> Parameter:
        """The search space's own type."""
        when = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in self.when.items()}
        if self.type == "categorical":
            return Categorical(name, tuple(self.choices or ()), when)
        low, high = self.low or 0.0, self.high or 0.0
        if self.type == "int":
            return Int(name, int(low), int(high), self.log, when)
        return Float(name, low, high, self.log, when)


class SpaceSettings(Section):
    """What is searched: a preset, parameters of one's own, or a preset with some of its parameters replaced."""

    preset: str | None = None
    parameters: dict[str, ParameterSettings] = Field(default_factory=dict)


class SearchSettings(Section):
    """How the space is searched, and how much is spent on it."""

    sampler: Literal["tpe", "random", "qmc", "gp"] = "tpe"
    pruner: Literal["asha", "hyperband", "none"] = "asha"
    reduction_factor: int = Field(3, ge=2)
    """About one in so many trajectories passes a rung."""
    rung_window: int = Field(15, ge=2)
    """At a rung a trajectory is compared with the latest so many; a large number: with all that ever came."""
    num_rungs: int = Field(3, ge=1, le=20)
    """How many steps trajectories are measured at, geometrically spaced; the last one is train.steps."""
    trajectories: int = Field(48, ge=1)
    """How many training runs."""
    time_budget: Annotated[Seconds, Field(gt=0)] | None = None
    """How long, in seconds or like 90s, 10m, 1h30m; whichever budget is spent first ends the sweep."""
    trials: int | None = Field(None, ge=1)
    """How many trials, all readouts of all training runs together."""
    device_budget: Annotated[Seconds, Field(gt=0)] | None = None
    """How many device-seconds: the time that training runs held their slots, once for each tower."""
    readouts_per_trajectory: int = Field(8, ge=1)
    """How many (BN momentum, EMA decay) pairs are scored on each training run."""
    lattice: bool = True
    """Score every combination of readout values at a training run's last step."""
    seed: int = Field(0, ge=0)
    deterministic: bool = False
    """Ask in generations and tell in number order: neither the number of workers nor their timing matters."""
    generation: int = Field(8, ge=1)
    """How many trajectories a deterministic sweep asks for at a time."""
    stop_after_failures: int = Field(5, ge=1)
    """Give up where the first so many trajectories all fail in the same way."""
    baselines: list[dict[str, Value]] = Field(default_factory=list)
    """Parameters to be tried before the sampler proposes any."""


class ResourceSettings(Section):
    """What one running trajectory may use, and how many run at a time."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """How many trajectories at a time; auto: as many as fit."""
    cpus_per_tower: float = Field(1.0, gt=0)
    gpus_per_tower: float = Field(0.0, ge=0)
    """A whole number, or a fraction below 1 to let trials share a GPU."""
    worker_memory: Annotated[Size, Field(ge=2**20)] | None = None
    """How much memory one worker's process may hold, in bytes or like 4GiB, 500MB; a run that takes more fails, a
    worker that is near it between two runs is replaced. By default: its share of its node's memory."""
    retries: int = Field(1, ge=0)
    """How often a trajectory is run again whose worker was lost or that ran out of time."""
    trial_timeout: Annotated[Seconds, Field(gt=0)] | None = None
    """How long one attempt at a trajectory may take."""
    rung_timeout: Annotated[Seconds, Field(gt=0)] | None = None
    """How long a worker may take from one rung to the next; the first one includes its start."""
    checkpoint_every: Annotated[Seconds, Field(ge=0)] = 60.0
    """The state of a running trajectory is saved about so often, to go on from after a failure."""
    keep_checkpoints: int = Field(3, ge=1)
    """The states of the best so many completed trajectories are kept."""


class StorageSettings(Section):
    """Where the Optuna study lives."""

    url: str = ""
    """Empty: a file in the run folder. Else an Optuna storage URL; the password may come from the environment
    variable TOWERSWEEP_STORAGE_PASSWORD."""
    patience: Annotated[Seconds, Field(gt=0)] = 600.0
    """How long a database at ``url`` that goes away is waited for, in seconds or like 90s, 10m."""


class ConvergenceSettings(Section):
    """When a learning curve counts as converged, stalled or diverged. Losses are cross-entropy in nats."""

    target_loss: float = Field(0.05, gt=0)
    """Training cross-entropy that counts as converged, if held over the last window."""
    window_fraction: float = Field(0.25, gt=0, le=1)
    """The last window's share of the steps run."""
    delta: float = Field(0.02, gt=0)
    """The smallest gain over one more window that matters."""
    margin: float = Field(0.5, gt=0)
    """How far above its start a loss must be to count as diverged."""
    confidence: float = Field(0.95, gt=0.5, lt=1)


class CoreSettings(Section):
    """The sections that every sweep file may have."""

    name: str = Field("sweep", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The sweep's and the study's name: letters, digits, dot, dash and underscore."""
    description: str = ""
    trainable: str = BUILT_IN_TRAINABLE
    """What is trained, as package.module:name."""
    space: SpaceSettings = Field(default_factory=lambda: SpaceSettings(preset="batch_norm"))
    search: SearchSettings = Field(default_factory=SearchSettings)
    resources: ResourceSettings = Field(default_factory=ResourceSettings)
    storage: StorageSettings = Field(default_factory=StorageSettings)
    convergence: ConvergenceSettings = Field(default_factory=ConvergenceSettings)


@dataclass(frozen=True, eq=False)
class Sweep:
    """A checked sweep: the core settings, the trainable's own (its ``Settings``), and the space.

    ``steps`` is the length of a whole trajectory, ``num_towers`` the devices that one uses at a time.
    """

    core: CoreSettings
    settings: Any
    space: Space
    steps: int
    num_towers: int

    @property
    def name(self) -> str:
        """The sweep's and the study's name."""
        return self.core.name

    @property
    def trainable(self) -> str:
        """What is trained, as package.module:name."""
        return self.core.trainable

    @property
    def search(self) -> SearchSettings:
        """How the space is searched."""
        return self.core.search

    @property
    def resources(self) -> ResourceSettings:
        """What one trajectory may use."""
        return self.core.resources

    @property
    def storage(self) -> StorageSettings:
        """Where the study lives."""
        return self.core.storage

    @property
    def convergence(self) -> ConvergenceSettings:
        """What counts as converged, stalled or diverged."""
        return self.core.convergence

    def as_mapping(self) -> dict[str, Any]:
        """The resolved settings, as a sweep file would hold them; a storage password is left out."""
        core = self.core.model_dump(mode="json", exclude_none=True)
        core["storage"]["url"] = url_without_password(core["storage"]["url"])
        own = TypeAdapter(type(self.settings)).dump_python(self.settings, mode="json", exclude_none=True)
        return {**core, **own}


def load(source: str, overrides: Sequence[str] = ()) -> Sweep:
    """The sweep in a TOML file, or a built-in one by name. ``overrides`` are ``section.key=value`` strings.

    Raises InputError with one line naming file, field, value and rule.
    """
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise InputError(f"{source}: cannot be read, but must be a TOML file ({cause})") from error
    else:
        known = builtin_sweeps()
        if source not in known:
            rule = f"a TOML file or one of {', '.join(known)}{nearest(source, known)}"
            raise SettingsError("sweep", source, rule, source)
        text = (files("sweeps") / "builtin" / f"{source}.toml").read_text(encoding="utf-8")
    try:
        mapping = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        lines = text.split("\n")  # tomllib itself gives no place where the file ends too early.
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}"
        raise InputError(f"{source}: is not TOML: {str(error).replace('at end of document', end)}") from error
    return from_mapping(mapping, source, overrides)


def from_mapping(mapping: Mapping[str, Any], source: str, overrides: Sequence[str] = ()) -> Sweep:
    """A sweep from settings as a sweep file would hold them. Raises SettingsError."""
    merged = json.loads(json.dumps(mapping, default=str))
    for override in overrides:
        _apply_override(merged, override)
    try:
        return _build(merged)
    except SettingsError as error:
        raise error.within(error.source or source) from error.__cause__


def _build(mapping: dict[str, Any]) -> Sweep:
    trainable_class = load_trainable(str(mapping.get("trainable", BUILT_IN_TRAINABLE)))
    own_sections = {field.name for field in fields(trainable_class.Settings)}
    sections = set(CoreSettings.model_fields) | own_sections
    for key in mapping:
        if key not in sections:
            raise SettingsError(key, mapping[key], f"a known section or key{nearest(key, sections)}")
    core = _validated(CoreSettings, {k: v for k, v in mapping.items() if k not in own_sections})
    own = _expanded(trainable_class, {k: v for k, v in mapping.items() if k in own_sections})
    settings = _validated(trainable_class.Settings, own)
    trainable = trainable_class(settings)
    if core.search.sampler == "gp" and find_spec("torch") is None:
        rule = "one whose packages are there (gp needs torch: pip install 'towersweep[gp]')"
        raise SettingsError("search.sampler", "gp", rule)
    _check_gpus(core.resources.gpus_per_tower, trainable.num_towers)
    space = _space(core.space, trainable)
    for baseline in core.search.baselines:
        _check_baseline(baseline, space)
    return Sweep(core, settings, space, trainable.steps, trainable.num_towers)


def check_data(sweep: Sweep, source: str) -> str:
    """Let the trainable read and check the data that its settings name, if it can: a line that sums it up, or "".

    ``source`` is where the settings are from, as errors tell it. Raises SettingsError.
    """
    trainable = load_trainable(sweep.trainable)(sweep.settings)
    if not hasattr(trainable, "check_data"):
        return ""
    try:
        return str(trainable.check_data())
    except ValueError as error:
        raise rule_broken(error).within(source) from error


def _expanded(trainable_class: type[Trainable], sections: dict[str, Any]) -> dict[str, Any]:
    """The trainable's own sections with its presets put in, where it has any."""
    expand = getattr(trainable_class, "expand", None)
    try:
        return dict(expand(sections)) if expand else sections
    except ValueError as error:
        raise rule_broken(error) from error


def _validated(kind: type[Any], mapping: dict[str, Any]) -> Any:
    try:
        return TypeAdapter(kind).validate_python(mapping)
    except ValidationError as error:
        raise explain(error, kind) from error


def _space(settings: SpaceSettings, trainable: Trainable) -> Space:
    named: dict[str, Parameter] = {}
    if settings.preset is not None:
        known = presets()
        if settings.preset not in known:
            rule = f"one of {', '.join(known)}{nearest(settings.preset, known)}"
            raise SettingsError("space.preset", settings.preset, rule)
        named = {parameter.name: parameter for parameter in known[settings.preset].parameters}
    try:
        named |= {name: given.parameter(name) for name, given in settings.parameters.items()}
        space = Space.of(named.values(), trainable.parameters)
    except SpaceError as error:
        raise SettingsError(error.field, error.value, error.rule) from error
    for probe in space.probes():
        try:
            trainable.check(probe)
        except ValueError as error:
            raise rule_broken(error) from error
    return space


def _check_baseline(baseline: Mapping[str, ParamValue], space: Space) -> None:
    by_name = {parameter.name: parameter for parameter in space.parameters}
    for name, value in baseline.items():
        if name not in by_name:
            raise SettingsError("search.baselines", name, f"a searched parameter{nearest(name, by_name)}")
        if not by_name[name].contains(value):
            raise SettingsError(f"search.baselines.{name}", value, "a value that the space holds")


def _check_gpus(per_tower: float, num_towers: int) -> None:
    total = per_tower * num_towers
    if per_tower > 1 and not per_tower.is_integer():
        raise SettingsError("resources.gpus_per_tower", per_tower, "a whole number, or a fraction below 1")
    if total > 1 and not float(total).is_integer():
        rule = f"such that model.towers={num_towers} times it is whole or at most 1"
        raise SettingsError("resources.gpus_per_tower", per_tower, rule)


def _apply_override(mapping: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    path = key.strip().split(".")
    if not separator or not all(path):
        raise SettingsError("--set", override, "section.key=value", "--set")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target = mapping
    for part in path[:-1]:
        target = target.setdefault(part, {})
        if not isinstance(target, dict):
            raise SettingsError("--set", override, f"below a section ({part} is a value)", "--set")
    target[path[-1]] = value


def to_toml(sweep: Sweep) -> str:
    """The resolved settings as a sweep file; loading it gives an equal sweep. Holds no password."""
    import tomli_w

    return tomli_w.dumps(sweep.as_mapping())


def digest(sweep: Sweep) -> str:
    """16 hex digits that are equal for sweeps that would run the same trials.

    Budgets, name, description, storage and the number of workers are left out: they do not change a trial.
    """
    mapping = sweep.as_mapping()
    for key in ("name", "description", "storage", "resources"):
        mapping.pop(key)
    for key in ("trajectories", "time_budget", "trials", "device_budget"):
        mapping["search"].pop(key, None)
    canonical = json.dumps(mapping, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a sweep file that uses the built-in trainable."""
    core = CoreSettings.model_json_schema()
    trainable = load_trainable(BUILT_IN_TRAINABLE)
    own = TypeAdapter(trainable.Settings).json_schema()
    for section, known in getattr(trainable, "presets", {}).items():
        name = own["properties"][section]["$ref"].rpartition("/")[2]
        description = "Settings that belong together; what the section itself says goes before them."
        own["$defs"][name]["properties"]["preset"] = {"enum": sorted(known), "description": description}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "towersweep sweep file",
        "type": "object",
        "additionalProperties": False,
        "properties": {**core["properties"], **own["properties"]},
        "$defs": {**core["$defs"], **own["$defs"]},
    }


@cache
def builtin_sweeps() -> dict[str, str]:
    """The built-in sweeps: name to a line of explanation."""
    found = {}
    for entry in sorted((files("sweeps") / "builtin").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            mapping = tomllib.loads(entry.read_text(encoding="utf-8"))
            found[entry.name.removesuffix(".toml")] = mapping["description"]
    return found
