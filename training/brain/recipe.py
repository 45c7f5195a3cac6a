"""The recipe of the brain finder: a TOML file, checked when it is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from training.loop.recipe import read_recipe_file, wrong_option

__all__ = ["BrainRecipe", "read_brain_recipe"]


@dataclasses.dataclass(frozen=True)
class BrainRecipe:
    """Network, data and optimisation of one run."""

    # a preset of neurobento.networks
    network: str
    # patterns of real heads' names: with skull, without it, and for validation
    heads: tuple[str, ...]
    stripped: tuple[str, ...]
    validation: tuple[str, ...]
    # maps kept for validation: the last ones by name
    validation_maps: int = 2
    steps: int = 2000
    # heads in each step: the shares of drawn ones, and of real ones without skull
    batch_size: int = 1
    drawn_share: float = 0.5
    # steps that show only this many voxels around the brain, and their share; () is the whole head
    crop: tuple[int, ...] = ()
    crop_share: float = 0.8
    stripped_share: float = 0.1
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 1e-4
    clip_norm: float = 5.0
    ema_decay: float = 0.995
    validate_every: int = 100
    # validations without progress until the end
    patience: int = 20
    # of weights, order and everything random
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validation_maps", "validate_every", "patience"):
            if (value := getattr(self, name)) < 1:
                raise wrong_option(name, f"{name} of at least 1", str(value))
        if self.crop and (len(self.crop) != 3 or any(side % 16 or not side for side in self.crop)):
            raise wrong_option("crop", "three sides that 16 divides, or none", str(self.crop))
        if not 0 <= self.crop_share <= 1:
            raise wrong_option("crop_share", "a share of 0 to 1", str(self.crop_share))
        if min(self.drawn_share, self.stripped_share) < 0:
            raise wrong_option("drawn_share, stripped_share", "shares of at least 0", "less")
        if self.drawn_share + self.stripped_share > 1:
            raise wrong_option("drawn_share, stripped_share", "at most 1 in all", "more")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as a checkpoint keeps them."""
        return dataclasses.asdict(self)


def read_brain_recipe(path: Path) -> BrainRecipe:
    """Read the recipe in a TOML file."""
    recipe: BrainRecipe = read_recipe_file(
        path,
        BrainRecipe,
        expected="a recipe with network, heads, stripped and validation",
        compare_with="training/configs/brain_finder.toml",
    )
    return recipe
