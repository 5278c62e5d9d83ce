"""The built-in search spaces, a file each: what is searched, where the ranges come from, what to expect."""

from __future__ import annotations

from search_spaces.presets import batch_norm, full, learning_rate
from search_spaces.presets.preset import Preset


def presets() -> dict[str, Preset]:
    """All presets by name."""
    found = (batch_norm.PRESET, learning_rate.PRESET, full.PRESET)
    return {preset.name: preset for preset in found}


__all__ = ["Preset", "presets"]
