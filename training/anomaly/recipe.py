"""The recipe of a network for anomalies: a TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from training.loop.recipe import read_recipe_file, wrong_option

__all__ = ["AnomalyRecipe", "read_anomaly_recipe"]


@dataclasses.dataclass(frozen=True)
class AnomalyRecipe:
    """Network, objective and optimisation of one run."""

    # a preset of neurobento.networks.ANOMALY_PRESETS
    network: str
    # "reconstruction": the mean absolute difference between slice and output;
    # "denoising": the same, with coarse noise added to the input;
    # "synthetic": cross entropy and Dice of where something was put into a slice;
    # "none": for a network that has nothing to learn
    objective: Literal["reconstruction", "denoising", "synthetic", "none"]
    # "imagenet", or a file with its weights, is loaded and frozen; "none" trains the encoder too
    encoder: str = "none"
    # rotate, bend, mirror and change the contrast of training slices
    augment: bool = True
    # epochs at most, and rounds through the slices in each
    epochs: int = 100
    repeats: int = 1
    batch_size: int = 16
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    # epochs without a lower validation loss until the learning rate is halved, and until the end
    cut_after: int = 5
    stop_after: int = 10
    # of weights, order and everything random
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "repeats", "batch_size", "cut_after", "stop_after"):
            if (value := getattr(self, name)) < 1:
                raise wrong_option(name, f"{name} of at least 1", str(value))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint keeps them."""
        return dataclasses.asdict(self)


def read_anomaly_recipe(path: Path) -> AnomalyRecipe:
    """Read the recipe in a TOML file."""
    recipe: AnomalyRecipe = read_recipe_file(
        path,
        AnomalyRecipe,
        expected="a recipe with network and objective",
        compare_with="training/configs/report_autoencoder.toml",
    )
    return recipe
