"""The networks: one file each, and a preset (a named function without arguments) for each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from neurobento.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ANOMALY_PRESETS", "PRESETS", "build", "task_of"]

PRESETS: dict[str, str] = {
    "atlas_map": "neurobento.networks.atlas_map",
    "compact": "neurobento.networks.compact",
    "highresnet": "neurobento.networks.highresnet",
    "unet": "neurobento.networks.unet",
}
"""Preset -> the module that defines a function of that name; these name a brain's regions."""

ANOMALY_PRESETS: dict[str, str] = {
    "anomaly_unet": "neurobento.networks.anomaly_unet",
    "denoising_autoencoder": "neurobento.networks.denoising_autoencoder",
    "mirror": "neurobento.networks.mirror",
    "vgg16_autoencoder": "neurobento.networks.vgg16_autoencoder",
}
"""The same of the networks that find anomalies in slices."""


def build(preset: str) -> nn.Module:
    """The network of a preset, with fresh weights.

    Of one of `PRESETS`, its `labels` maps (N, 1, 91, 122, 123) float32 in [0, 1] to labels
    (N, 91, 122, 123) uint8; its `forward` gives what its loss is taken of:
    logits (N, 117, 91, 122, 123), or of "atlas_map" its map, step by step. A network for
    anomalies has `detect` instead; see `neurobento.networks.anomaly`.

    Raises
    ------
    ConfigError
        There is no such preset.
    """
    modules = PRESETS | ANOMALY_PRESETS
    if preset not in modules:
        raise ConfigError(
            subject="network",
            expected=f"one of {', '.join(modules)}",
            found=repr(preset),
            remedy="Choose a preset of neurobento.networks.",
        )
    network: nn.Module = getattr(importlib.import_module(modules[preset]), preset)()
    return network


def task_of(network: nn.Module) -> str:
    """What a network is for, a key of `neurobento.spec.MODEL_TASKS`."""
    return "anomaly" if hasattr(network, "detect") else "parcellation"
