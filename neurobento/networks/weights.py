"""The network inside a checkpoint of a training run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from torch import nn

from neurobento.errors import ConfigError
from neurobento.networks import build

__all__ = ["CHECKPOINT_FORMAT", "load_network", "read_values", "write_weights"]

CHECKPOINT_FORMAT = 1

_BROKEN = (
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
    ValueError,
    EOFError,
    pickle.UnpicklingError,
    OSError,
)
"""Errors that torch raises for bytes that are not a checkpoint."""


def read_values(path: Path) -> dict[str, Any]:
    """Read the values in a checkpoint; nothing in it is executed (`weights_only`)."""
    import torch

    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        values: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if values.pop("format") != CHECKPOINT_FORMAT:
            raise KeyError("format")
    except _BROKEN as error:
        raise ConfigError(
            subject=str(path),
            expected=f"a checkpoint of format {CHECKPOINT_FORMAT}",
            found=type(error).__name__,
            remedy="Give a file that `python -m training.parcellation.train` wrote.",
        ) from None
    return values


def write_weights(values: dict[str, Any], path: Path) -> None:
    """Write the averaged weights from `read_values`, convolutions in half precision."""
    import torch

    kept = ("recipe", "step", "seconds", "best_dice", "best_step")
    average = {
        key: value.half() if _is_convolution(value) else value
        for key, value in values["average"].items()
    }
    shipped = {key: values[key] for key in kept if key in values} | {"average": average}
    torch.save({"format": CHECKPOINT_FORMAT, **shipped}, path)


def _is_convolution(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.dim() > 2


def load_network(path: Path) -> nn.Module:
    """Build the network of a checkpoint with its averaged weights, in evaluation mode."""
    values = read_values(path)
    try:
        network = build(values["recipe"]["network"])
        network.load_state_dict(values["average"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise ConfigError(
            subject=str(path),
            expected="weights of the network as it is now",
            found=f"{type(error).__name__} while loading them",
            remedy="Use the code the checkpoint was made with, or train again.",
        ) from None
    return network.eval()
