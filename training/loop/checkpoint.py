"""Checkpoints: everything a run needs to go on, in one file that loads weights-only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from neurobento.networks.weights import CHECKPOINT_FORMAT, read_values

__all__ = ["Checkpoint", "read_checkpoint", "write_checkpoint", "write_values"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A run after some step.

    Attributes
    ----------
    recipe
        The recipe as plain values.
    step
        Updates done.
    seconds
        Wall-clock time spent training so far.
    best_dice, best_step, stale
        Best validation Dice, where it was, and validations since.
    network, average, optimiser, scaler
        State dictionaries; `average` holds the weights to use.
    history
        One row for each validation.
    """

    recipe: dict[str, Any]
    step: int
    seconds: float
    best_dice: float
    best_step: int
    stale: int
    network: dict[str, Any]
    average: dict[str, Any]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    history: list[dict[str, float]]


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all."""
    write_values(path, checkpoint.__dict__)


def write_values(path: Path, values: dict[str, Any]) -> None:
    """Write what `neurobento.networks.weights.read_values` reads, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    torch.save({"format": CHECKPOINT_FORMAT, **values}, part)
    part.replace(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises
    ------
    ConfigError
        The file is not a checkpoint of this format.
    """
    return Checkpoint(**read_values(path))
