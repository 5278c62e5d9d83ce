"""Learning rate, BN placement and order, BN momentum, EMA decay: the questions of the original problem."""

from search_spaces.parameters import Categorical
from search_spaces.presets.learning_rate import LEARNING_RATE
from search_spaces.presets.preset import Preset

PLACEMENTS = ("none", "conv", "conv+fc", "input+conv+fc", "input+conv+fc+logits")
WITH_BN = PLACEMENTS[1:]

PLACEMENT = Categorical("bn_placement", PLACEMENTS)
ORDER = Categorical("bn_order", ("pre", "post"), when={"bn_placement": WITH_BN})

# Readouts. In training mode BN uses the batch's own statistics, so neither can change the weights' path.
MOMENTUM = Categorical("bn_momentum", (0.8, 0.9, 0.97, 0.99, 0.997, 0.999), when={"bn_placement": WITH_BN})
DECAY = Categorical("ema_decay", (0.0, 0.9, 0.98, 0.99, 0.995, 0.999, 0.9999))

PRESET = Preset(
    name="batch_norm",
    description="learning rate, BN placement and order, BN momentum, EMA decay (0 = off)",
    source=(
        "Placements and order: the questions of the original problem; Ioffe & Szegedy (arXiv 1502.03167) "
        "normalize before the activation. Momentum: .99 is Keras' default, .999 that of tf.contrib.layers; "
        "decay: .9999 is the CIFAR-10 tutorial's."
    ),
    expectation=(
        "BN on the logits without gamma puts a floor under the cross-entropy that no learning rate removes. "
        "BN momentum and EMA decay change the evaluation only: in a short run .999 and .9999 read the initial "
        "values, and the evaluation stalls while training goes on."
    ),
    parameters=(LEARNING_RATE, PLACEMENT, ORDER, MOMENTUM, DECAY),
)
