"""A training run as a TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neurobento.errors import ConfigError
from neurobento.networks import PRESETS
from training.augmentation import Augmentation

__all__ = ["Data", "Optimisation", "Recipe", "read_recipe"]


@dataclass(frozen=True)
class Data:
    """Glob patterns of scan names; see `training.dataset.find_split`."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimisation:
    """How the weights are found.

    Attributes
    ----------
    steps
        Updates in all; the learning rate's cosine ends there.
    batch_size
        Scans a step.
    learning_rate, weight_decay, warmup_steps, clip_norm
        AdamW with a linear warm-up and a cosine to zero; gradients clipped.
    ema_decay
        Of the moving average of the weights that is validated and kept.
    precision
        Of the forward pass; "fp16" scales its gradients and needs CUDA.
    validate_epochs
        Epochs from one validation to the next.
    patience
        Validations without a better Dice until training stops.
    seed
        Of weights, order and augmentation.
    """

    steps: int
    batch_size: int = 1
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    precision: Literal["fp32", "bf16", "fp16"] = "bf16"
    validate_epochs: int = 5
    patience: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Network, data, augmentation and optimisation of one run."""

    network: str
    data: Data
    optimisation: Optimisation
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.network not in PRESETS:
            raise ConfigError(
                subject="network",
                expected=f"one of {', '.join(PRESETS)}",
                found=repr(self.network),
                remedy="Choose a preset of neurobento.networks.",
            )
        if self.optimisation.steps < 1 or self.optimisation.batch_size < 1:
            raise ConfigError(
                subject="optimisation",
                expected="at least one step and one scan a step",
                found=f"{self.optimisation.steps} and {self.optimisation.batch_size}",
                remedy="Correct the recipe.",
            )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return dataclasses.asdict(self)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises
    ------
    ConfigError
        It is not TOML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        values = tomllib.loads(path.read_text())
        return Recipe(
            network=values.pop("network"),
            data=_data(values.pop("data")),
            optimisation=Optimisation(**values.pop("optimisation")),
            augmentation=_augmentation(values.pop("augmentation", {})),
            **values,
        )
    except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
        raise ConfigError(
            subject=str(path),
            expected="a recipe: network, [data], [optimisation], [augmentation]",
            found=str(error),
            remedy="Compare it with those in training/configs.",
        ) from None


def _data(values: dict[str, Any]) -> Data:
    test = {name: tuple(patterns) for name, patterns in values.pop("test", {}).items()}
    return Data(**{key: tuple(value) for key, value in values.items()}, test=test)


def _augmentation(values: dict[str, Any]) -> Augmentation:
    if "displacement" in values:
        coarse, fine = values["displacement"]
        values["displacement"] = (coarse, fine)
    return Augmentation(**values)
