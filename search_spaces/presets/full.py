"""Everything in batch_norm, and the settings that interact with it."""

from search_spaces.parameters import Categorical, Float
from search_spaces.presets import batch_norm
from search_spaces.presets.preset import Preset

PRESET = Preset(
    name="full",
    description="batch_norm, and gamma, epsilon, which towers update the moving statistics, weight decay",
    source=(
        "Epsilon: 1e-3 is the default of Keras and tf.contrib.layers; weight decay: the CIFAR-10 tutorial's 4e-3 "
        "is within. With BN, weight decay sets the effective learning rate (van Laarhoven, arXiv 1706.05350)."
    ),
    expectation="Gamma matters where the logits are normalized; tower updates matter for evaluation only.",
    parameters=(
        *batch_norm.PRESET.parameters,
        Categorical("bn_gamma", (True, False), when={"bn_placement": batch_norm.WITH_BN}),
        Float("bn_epsilon", 1e-4, 1e-1, log=True, when={"bn_placement": batch_norm.WITH_BN}),
        Categorical(
            "bn_tower_updates", ("mean", "first", "last", "all"), when={"bn_placement": batch_norm.WITH_BN}
        ),
        Float("weight_decay", 1e-6, 1e-2, log=True),
    ),
)
