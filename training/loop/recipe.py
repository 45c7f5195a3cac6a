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
from training.parcellation.augmentation import Augmentation

__all__ = ["Data", "Optimisation", "Recipe", "build_table", "read_recipe"]


@dataclass(frozen=True)
class Data:
    """Glob patterns of scan names; see `training.parcellation.dataset.find_split`."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimisation:
    """How the weights are found.

    Attributes
    ----------
    steps, epochs
        Updates in all, or rounds through the training scans: one of the two.
    batch_size
        Scans a step, over all processes.
    loss
        "dice_cross_entropy", "dice" (report A's) or, for atlas_map, "positions".
    optimiser
        Adam, or with decoupled weight decay AdamW.
    schedule
        Of the learning rate after a linear warm-up: half a cosine to zero at
        the last step, or constant.
    learning_rate, weight_decay, warmup_steps
        Of the optimiser.
    clip_norm
        Largest norm of the gradient; 0 for no limit.
    ema_decay
        Of the moving average of the weights that is validated and kept; 0
        keeps the weights themselves.
    precision
        Of the forward pass; "fp16" scales its gradients and needs CUDA. "auto"
        is fp16 on CUDA, bf16 on CPUs with AVX-512, fp32 elsewhere.
    patch
        Voxels of the random patch that a step sees; none for the whole image.
    mixing_from
        Report A's U-Net learns without the neighbours in its last convolution, which take
        nine tenths of the arithmetic, until this step; 0 for never without.
    checkpointing
        Compute activations again in the backward pass instead of keeping them.
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

    steps: int = 0
    epochs: int = 0
    batch_size: int = 1
    loss: Literal["dice_cross_entropy", "dice", "positions"] = "dice_cross_entropy"
    optimiser: Literal["adamw", "adam"] = "adamw"
    schedule: Literal["cosine", "constant"] = "cosine"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    clip_norm: float = 5.0
    ema_decay: float = 0.998
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    patch: tuple[int, ...] = ()
    mixing_from: int = 0
    checkpointing: bool = False
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
        options = self.optimisation
        if options.patch and options.loss == "positions":
            raise _wrong("no patch: positions need the whole brain", f"patch {options.patch}")
        if len(options.patch) not in (0, 3) or min(options.patch, default=1) < 1:
            raise _wrong("a patch of three sides of at least 1", str(options.patch))
        if (options.steps < 1) == (options.epochs < 1):
            found = f"steps {options.steps}, epochs {options.epochs}"
            raise _wrong("steps or epochs of at least 1", found)
        for name in ("batch_size", "validate_epochs", "patience"):
            if (value := getattr(options, name)) < 1:
                raise _wrong(f"{name} of at least 1", str(value))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return dataclasses.asdict(self)


def _wrong(expected: str, found: str) -> ConfigError:
    return ConfigError(
        subject="optimisation", expected=expected, found=found, remedy="Correct the recipe."
    )


def read_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file; `data` may name a file beside it that holds the table.

    Raises
    ------
    ConfigError
        It is not TOML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        values = tomllib.loads(path.read_text())
        if isinstance(values.get("data"), str):
            values["data"] = _read_data(path.parent / values["data"])
        return build_table(Recipe, values)
    except (tomllib.TOMLDecodeError, TypeError, KeyError, ValueError) as error:
        raise ConfigError(
            subject=str(path),
            expected="a recipe: network, [data], [optimisation], [augmentation]",
            found=str(error),
            remedy="Compare it with those in training/configs.",
        ) from None


def _read_data(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"no file {path}")
    return tomllib.loads(path.read_text())


def build_table(kind: Any, values: Any) -> Any:
    """A dataclass from a TOML table; every value has to be of its field's type.

    Raises
    ------
    TypeError
        A key is unknown, missing or of the wrong kind.
    """
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
        return build_table(hint, value)
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        return tuple(_convert(key, k, v) for k, v in zip(kinds, value, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return {name: _convert(key, arguments[1], part) for name, part in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise TypeError(f"{key} = {value!r} is not {hint}")
