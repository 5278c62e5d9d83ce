"""The learning rate alone: the control experiment to every other sweep."""

from search_spaces.parameters import Float
from search_spaces.presets.preset import Preset

LEARNING_RATE = Float("learning_rate", 1e-4, 1e-1, log=True)

PRESET = Preset(
    name="learning_rate",
    description="the learning rate alone, 1e-4 to 1e-1, everything else as the sweep file sets it",
    source="Adam's default of 1e-3 (Kingma & Ba, arXiv 1412.6980) with a decade below and two above",
    expectation="If no learning rate converges, the learning rate is not the cause of the stall.",
    parameters=(LEARNING_RATE,),
)
