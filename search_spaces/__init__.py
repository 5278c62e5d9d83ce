"""Search spaces: parameters, conditions, roles, and one documented preset a file."""

from search_spaces.parameters import Categorical, Float, Int, Parameter, ParamValue, SpaceError
from search_spaces.presets import Preset, presets
from search_spaces.space import Space

__all__ = ["Categorical", "Float", "Int", "ParamValue", "Parameter", "Preset", "Space", "SpaceError", "presets"]
