"""The networks: one file each, and a preset (a named function without arguments) for each."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, get_type_hints

from neurobento.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ANOMALY_PRESETS",
    "BRAIN_PRESETS",
    "PRESETS",
    "build",
    "network_class",
    "task_function",
    "task_of",
]

PRESETS: dict[str, str] = {
    "atlas_map": "neurobento.networks.atlas_map",
    "compact": "neurobento.networks.compact",
    "highresnet": "neurobento.networks.highresnet",
    "unet": "neurobento.networks.unet",
}
"""Preset -> the module that defines a function of that name, for networks that label regions."""

ANOMALY_PRESETS: dict[str, str] = {
    "anomaly_unet": "neurobento.networks.anomaly_unet",
    "denoising_autoencoder": "neurobento.networks.denoising_autoencoder",
    "mirror": "neurobento.networks.mirror",
    "vgg16_autoencoder": "neurobento.networks.vgg16_autoencoder",
}
"""The same for networks that find anomalies in slices."""

BRAIN_PRESETS: dict[str, str] = {"brain_finder": "neurobento.networks.brain_finder"}
"""The same for networks that find the brain in a head."""


TASK_FUNCTIONS = {"anomaly": "detect", "brain": "find", "parcellation": "outputs"}
"""Task -> the method of its networks that gives its outputs."""


def build(preset: str) -> nn.Module:
    """Build the network of a preset, with fresh weights."""
    network: nn.Module = _function(preset)()
    return network


def network_class(preset: str) -> Any:
    """Return the class of a preset's network, which says what training has to give it."""
    return get_type_hints(_function(preset))["return"]


def _function(preset: str) -> Callable[[], nn.Module]:
    modules = PRESETS | ANOMALY_PRESETS | BRAIN_PRESETS
    if preset not in modules:
        raise ConfigError(
            subject="network",
            expected=f"one of {', '.join(modules)}",
            found=repr(preset),
            remedy="Choose a preset of neurobento.networks.",
        )
    function: Callable[[], nn.Module] = getattr(importlib.import_module(modules[preset]), preset)
    return function


def task_of(network: nn.Module) -> str:
    """Return a key of `neurobento.spec.MODEL_TASKS`."""
    tasks = (task for task, name in TASK_FUNCTIONS.items() if hasattr(network, name))
    return next(tasks, "parcellation")


def task_function(network: nn.Module) -> Callable[..., Any]:
    """Return the method that gives the outputs of the network's task."""
    function: Callable[..., Any] = getattr(network, TASK_FUNCTIONS[task_of(network)])
    return function
