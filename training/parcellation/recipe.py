"""The recipe of a parcellation network: a TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from neurobento.networks import PRESETS
from neurobento.spec import REPORT_A_VERSION, SCAN_PREPROCESSING
from training.loop.recipe import read_recipe_file, wrong_option
from training.parcellation.augmentation import Augmentation
from training.parcellation.loss import LOSSES

__all__ = ["Data", "Optimisation", "Recipe", "read_recipe"]


@dataclass(frozen=True)
class Data:
    """Glob patterns of scan names; see `training.parcellation.dataset.find_split`."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Optimisation:
    """Options of the optimiser, its schedule and the loss."""

    # updates in all, or rounds through the training scans: one of the two
    steps: int = 0
    epochs: int = 0
    # scans in a step, over all processes
    batch_size: int = 1
    # of training.parcellation.loss.LOSSES, and one that the network names; "dice" is report A's
    loss: str = "dice_cross_entropy"
    optimiser: Literal["adamw", "adam"] = "adamw"
    # after a linear warm-up: half a cosine to zero at the last step, or constant
    schedule: Literal["cosine", "constant"] = "cosine"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    # largest norm of the gradient; 0 for no limit
    clip_norm: float = 5.0
    # of the moving average that is validated and kept; 0 keeps the weights themselves
    ema_decay: float = 0.998
    # of the forward pass; "auto" is fp16 on CUDA, bf16 on CPUs with AVX-512, else fp32
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # voxels of the random patch that a step sees; empty for the whole image
    patch: tuple[int, ...] = ()
    # step until which the network learns with `hold_mixing`, at a tenth of the cost; 0 for never
    mixing_from: int = 0
    # compute activations again in the backward pass instead of keeping them
    checkpointing: bool = False
    # from this share of the steps on, augmentation weakens linearly to a share of its strength:
    # a network that has seen enough deformed brains may learn the borders of real ones
    fade_from: float = 1.0
    fade_to: float = 1.0
    # epochs from one validation to the next, and validations without progress until the end
    validate_epochs: int = 5
    patience: int = 10
    # of weights, order and augmentation
    seed: int = 0


@dataclass(frozen=True)
class Recipe:
    """Network, data, augmentation and optimisation of one run."""

    network: str
    data: Data
    optimisation: Optimisation
    augmentation: Augmentation = field(default_factory=Augmentation)
    # of the pairs' images, a key of `neurobento.spec.SCAN_PREPROCESSING`
    preprocessing_version: int = REPORT_A_VERSION

    def __post_init__(self) -> None:
        if self.preprocessing_version not in SCAN_PREPROCESSING:
            known = " or ".join(map(str, SCAN_PREPROCESSING))
            found = str(self.preprocessing_version)
            raise wrong_option("preprocessing_version", f"version {known}", found)
        if self.network not in PRESETS:
            raise wrong_option("network", f"one of {', '.join(PRESETS)}", repr(self.network))
        options = self.optimisation
        if options.loss not in LOSSES:
            raise _wrong(f"a loss among {', '.join(LOSSES)}", repr(options.loss))
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
        """Return plain values, as a checkpoint keeps them."""
        return dataclasses.asdict(self)


def _wrong(expected: str, found: str) -> Exception:
    return wrong_option("optimisation", expected, found)


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in a TOML file; `data` may name a file beside it that holds the table."""
    recipe: Recipe = read_recipe_file(
        path,
        Recipe,
        expected="a recipe: network, [data], [optimisation], [augmentation]",
        compare_with="those in training/configs",
    )
    return recipe
