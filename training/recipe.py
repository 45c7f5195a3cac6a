"""A training run as a TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

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
    fade_from, fade_to
        From this share of the steps on the augmentation weakens, linearly, to
        this share of its strength at the last step: once the network has seen
        enough deformed brains it may learn the borders of real ones.
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
    fade_from: float = 1.0
    fade_to: float = 1.0
    validate_epochs: int = 5
    patience: int = 10
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
        for name in ("steps", "batch_size", "validate_epochs", "patience"):
            if (value := getattr(self.optimisation, name)) < 1:
                raise ConfigError(
                    subject="optimisation",
                    expected=f"{name} of at least 1",
                    found=str(value),
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
        return _build(Recipe, values)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(
            subject=str(path),
            expected="a recipe: network, [data], [optimisation], [augmentation]",
            found=str(error),
            remedy="Compare it with those in training/configs.",
        ) from None


def _build(kind: Any, values: Any) -> Any:
    """A dataclass from a TOML table; every value has to be of its field's type."""
    if not isinstance(values, dict):
        raise TypeError(f"{kind.__name__} is not a table")
    hints = get_type_hints(kind)
    unknown = set(values) - set(hints)
    if unknown:
        raise TypeError(f"unknown key {', '.join(sorted(unknown))}")
    return kind(**{key: _convert(key, hints[key], value) for key, value in values.items()})


def _convert(key: str, hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_convert(key, k, v) for k, v in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {name: _convert(key, arguments[1], part) for name, part in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str) and type(value) is hint:
        return value
    raise TypeError(f"{key} = {value!r} is not {hint}")
