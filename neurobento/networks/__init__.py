"""The networks: one file each, and a preset (a named function without arguments) for each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from neurobento.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["PRESETS", "build"]

PRESETS: dict[str, str] = {
    "atlas_map": "neurobento.networks.atlas_map",
    "compact": "neurobento.networks.compact",
    "highresnet": "neurobento.networks.highresnet",
    "unet": "neurobento.networks.unet",
}
"""Preset -> the module that defines a function of that name."""


def build(preset: str) -> nn.Module:
    """The network of a preset, with fresh weights.

    Its `labels` maps (N, 1, 91, 122, 123) float32 in [0, 1] to labels
    (N, 91, 122, 123) uint8; its `forward` gives what its loss is taken of:
    logits (N, 117, 91, 122, 123), or of "atlas_map" its map, step by step.

    Raises
    ------
    ConfigError
        There is no such preset.
    """
    if preset not in PRESETS:
        raise ConfigError(
            subject="network",
            expected=f"one of {', '.join(PRESETS)}",
            found=repr(preset),
            remedy="Choose a preset of neurobento.networks.",
        )
    network: nn.Module = getattr(importlib.import_module(PRESETS[preset]), preset)()
    return network
