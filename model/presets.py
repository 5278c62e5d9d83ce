"""Settings that belong together, by name: ``preset = "r0.11"`` in a section of a sweep file.

What the section itself says goes before what its preset says. Sources: tensorflow/models, tutorials/image/cifar10
(cifar10.py, cifar10_input.py), and tf.contrib.layers.batch_norm, both of TensorFlow r0.11.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from model.checks import SettingError

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "data": {
        # random_crop, random_flip_left_right, random_brightness(63), random_contrast(.2, 1.8), standardization.
        "tutorial": {
            "crop_size": 24,
            "flip": True,
            "brightness": 63.0,
            "contrast": 0.8,
            "standardize": "image",
        }
    },
    "model": {
        # The original problem: contrib's defaults, every tower's updates run, averages with the global step.
        "r0.11": {
            "initializer": "tutorial",
            "bn_placement": "input+conv+fc",
            "bn_gamma": False,
            "bn_beta": True,
            "bn_epsilon": 1e-3,
            "bn_statistics": "tower",
            "bn_momentum": 0.999,
            "bn_updates": "always",
            "bn_tower_updates": "all",
            "bn_initial_mean": 0.0,
            "bn_initial_variance": 1.0,
            "bn_zero_debias": False,
            "ema_decay": 0.9999,
            "ema_warmup": True,
            "ema_statistics": False,
        },
        "tutorial": {
            "network": "tutorial",
            "initializer": "tutorial",
            "lrn": True,
            "ema_decay": 0.9999,
            "ema_warmup": True,
        },
    },
    "train": {
        # INITIAL_LEARNING_RATE .1, a tenth every 350 epochs of 50,000 images.
        "tutorial": {
            "optimizer": "sgd",
            "sgd_momentum": 0.0,
            "learning_rate": 0.1,
            "lr_schedule": "exponential",
            "lr_decay_steps": 136_718,
            "lr_decay_factor": 0.1,
            "lr_staircase": True,
            "weight_decay": 0.004,
        }
    },
}


def expand(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of a sweep file with their presets put in, and the data's path made absolute.

    Raises SettingError for a preset that is not known.
    """
    found = {name: _expanded(name, section) for name, section in sections.items()}
    data = found.get("data")
    if isinstance(data, dict) and isinstance(path := data.get("path"), str) and path:
        # A sweep is resumed, and its workers run, in other folders than the one it was launched in.
        found["data"] = {**data, "path": str(Path(path).expanduser().absolute())}
    return found


def _expanded(section: str, given: Any) -> Any:
    if not isinstance(given, Mapping) or "preset" not in given:
        return given
    rest = {name: value for name, value in given.items() if name != "preset"}
    known, wanted = PRESETS.get(section, {}), given["preset"]
    if not isinstance(wanted, str) or wanted not in known:
        close = get_close_matches(str(wanted), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise SettingError(f"{section}.preset", wanted, f"one of {', '.join(known) or 'none'}{hint}")
    return {**known[wanted], **rest}
