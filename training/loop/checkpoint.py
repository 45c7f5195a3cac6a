"""Checkpoints: everything a run needs to continue, in one file that loads weights-only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurobento.errors import ConfigError
from neurobento.files import replacing
from neurobento.networks.weights import CHECKPOINT_FORMAT, read_values
from training.loop.log import Row

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint", "write_values"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after some step."""

    # the recipe as plain values
    recipe: dict[str, Any]
    # steps done, and wall-clock seconds spent on them
    step: int
    seconds: float
    # the best value of the metric, the step it was reached at, and validations since
    best: float
    best_step: int
    stale: int
    # state dictionaries; `average` holds the weights to use
    network: dict[str, Any]
    average: dict[str, Any]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    # a row for each validation
    history: list[Row]


def write_checkpoint(path: Path, checkpoint: Checkpoint, metric: str = "dice") -> None:
    """Write a checkpoint, whole or not at all; the best value's key is best_METRIC."""
    names = {"best": f"best_{metric}"}
    values = {names.get(key, key): value for key, value in checkpoint.__dict__.items()}
    write_values(path, values)


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write what `neurobento.networks.weights.read_values` reads, whole or not at all."""
    with replacing(path) as part:
        torch.save({"format": CHECKPOINT_FORMAT, **values}, part)


def read_checkpoint(path: Path, metric: str = "dice") -> Checkpoint:
    """Read a checkpoint that a run can continue from."""
    values = read_values(path)
    try:
        return Checkpoint(best=values.pop(f"best_{metric}"), **values)
    except (KeyError, TypeError):
        raise ConfigError(
            subject=str(path),
            expected="the last checkpoint of a run of this task",
            found="other values",
            remedy="Give the last.pt of the run.",
        ) from None
