"""A space: parameters in an order that respects their conditions, and each one's role."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from search_spaces.parameters import Parameter, ParamValue, SpaceError


@dataclass(frozen=True)
class Space:
    """Parameters, parents before children. Make it with ``Space.of``, which checks everything."""

    parameters: tuple[Parameter, ...]
    roles: Mapping[str, str]

    @classmethod
    def of(cls, parameters: Iterable[Parameter], known: Mapping[str, str]) -> Space:
        """A checked space. ``known`` maps every parameter that the trainable knows to its role.

        Raises SpaceError for a parameter that the trainable does not know, one that is there twice, a condition on
        an unknown parameter or an impossible value, a cycle, and a trajectory parameter that depends on a readout.
        """
        given = tuple(parameters)
        if not given:
            raise SpaceError("space.parameters", [], "at least one parameter")
        by_name: dict[str, Parameter] = {}
        for parameter in given:
            _check_known(parameter.name, known)
            if parameter.name in by_name:
                raise SpaceError("space.parameters", parameter.name, "there once")
            by_name[parameter.name] = parameter
        for parameter in given:
            _check_conditions(parameter, by_name, known)
        return cls(_in_order(given, by_name), {name: known[name] for name in by_name})

    def is_active(self, parameter: Parameter, params: Mapping[str, ParamValue]) -> bool:
        """Whether all of a parameter's conditions hold; a condition on an inactive parameter does not."""
        return all(parent in params and params[parent] in values for parent, values in parameter.when.items())

    def sample(self, suggest: Callable[[Parameter], ParamValue]) -> dict[str, ParamValue]:
        """Walk through the space, asking ``suggest`` for each active parameter, parents first."""
        params: dict[str, ParamValue] = {}
        for parameter in self.parameters:
            if self.is_active(parameter, params):
                params[parameter.name] = suggest(parameter)
        return params

    def assignments(
        self, fixed: Mapping[str, ParamValue], values: Mapping[str, tuple[ParamValue, ...]]
    ) -> list[dict[str, ParamValue]]:
        """Every combination of ``values`` beside ``fixed``, each of the parameters that are active in it."""
        found: list[dict[str, ParamValue]] = [{}]
        for parameter in self.parameters:
            name, longer = parameter.name, []
            for params in found:
                choices = (fixed[name],) if name in fixed else values.get(name, ())
                active = self.is_active(parameter, params)
                longer += [{**params, name: choice} for choice in choices] if active else [params]
            found = longer
        return found

    def probes(self) -> list[dict[str, ParamValue]]:
        """Assignments that between them visit every choice and both ends of every range, wherever active."""
        found: list[dict[str, ParamValue]] = []
        for target in self.parameters:
            for value in target.extremes:
                params = self._assign({target.name: value, **self._path_to(target)})
                if params not in found:
                    found.append(params)
        return found

    def _assign(self, wanted: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
        """An assignment with the ``wanted`` values where active, and the first possible value elsewhere."""
        return self.sample(lambda parameter: wanted.get(parameter.name, parameter.extremes[0]))

    def _path_to(self, target: Parameter) -> dict[str, ParamValue]:
        """Values of the ancestors that make ``target`` active."""
        by_name = {parameter.name: parameter for parameter in self.parameters}
        path: dict[str, ParamValue] = {}
        for parent, values in target.when.items():
            path = {**self._path_to(by_name[parent]), **path, parent: values[0]}
        return path


def _check_known(name: str, known: Mapping[str, str]) -> None:
    if name in known:
        return
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"it knows {', '.join(sorted(known))}"
    raise SpaceError("space.parameters", name, f"a parameter that the trainable knows ({hint})")


def _check_conditions(parameter: Parameter, by_name: Mapping[str, Parameter], known: Mapping[str, str]) -> None:
    where = f"space.parameters.{parameter.name}.when"
    for parent, values in parameter.when.items():
        if parent not in by_name:
            raise SpaceError(where, parent, f"another parameter of this space ({', '.join(sorted(by_name))})")
        if not values:
            raise SpaceError(f"{where}.{parent}", [], "at least one value")
        for value in values:
            if not by_name[parent].contains(value):
                raise SpaceError(f"{where}.{parent}", value, f"a value that {parent} can take")
        if known[parameter.name] == "trajectory" and known[parent] == "readout":
            raise SpaceError(where, parent, "a trajectory parameter, as the weights cannot depend on a readout")


def _in_order(parameters: tuple[Parameter, ...], by_name: Mapping[str, Parameter]) -> tuple[Parameter, ...]:
    """Parents before children, else as given. Raises SpaceError naming a cycle."""
    done: dict[str, Parameter] = {}

    def visit(parameter: Parameter, path: tuple[str, ...]) -> None:
        if parameter.name in path:
            cycle = " -> ".join([*path[path.index(parameter.name) :], parameter.name])
            raise SpaceError(f"space.parameters.{parameter.name}.when", cycle, "free of cycles")
        if parameter.name not in done:
            for parent in parameter.when:
                visit(by_name[parent], (*path, parameter.name))
            done[parameter.name] = parameter

    for parameter in parameters:
        visit(parameter, ())
    return tuple(done.values())
