"""What a preset says of itself."""

from dataclasses import dataclass

from search_spaces.parameters import Parameter


@dataclass(frozen=True)
class Preset:
    """A named space. ``source`` says where its ranges come from, ``expectation`` what a sweep over it shows."""

    name: str
    description: str
    source: str
    expectation: str
    parameters: tuple[Parameter, ...]
