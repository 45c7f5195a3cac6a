"""Training the brain finder: what a run needs besides the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.errors import ConfigError
from neurobento.networks import build
from neurobento.networks.brain_finder import BrainFinder
from neurobento.networks.weights import load_network
from training.brain.augmentation import change_head
from training.brain.drawn_heads import draw_head
from training.brain.head_maps import HeadMap
from training.brain.heads import Head
from training.brain.recipe import BrainRecipe
from training.loop.curves import draw_dice
from training.loop.log import Row
from training.loop.schedule import warm_up_and_cosine
from training.loop.task import Metric, Optimiser

__all__ = ["BrainObjective", "BrainTask", "soft_dice"]

NO_TISSUE = -100
"""In place of tissues that are not known: cross entropy leaves them out."""


class BrainObjective(nn.Module):
    """Binary cross entropy and Dice of the brain, the same of tissues where they are known."""

    def __init__(self, network: BrainFinder) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, images: Tensor, brains: Tensor, tissues: Tensor, corner: tuple[int, int, int]
    ) -> Tensor:
        """Return the loss of images and brains (N, X, Y, Z) float32 and tissues, int64.

        Tissues are learnt from one voxel of each 2 x 2 x 2 block, the one in `corner`.
        """
        logits, tissue_logits = self.network(images[:, None])
        part = tuple(slice(side, None, 2) for side in corner)
        tissues, tissue_logits = tissues[:, *part], tissue_logits[:, :, *part]
        entropy = F.binary_cross_entropy_with_logits(logits[:, 0], brains)
        overlap = 1 - soft_dice(logits[:, 0].sigmoid().flatten(1), brains.flatten(1)).mean()
        known = (tissues != NO_TISSUE).flatten(1).all(dim=1)
        if not known.any():
            return entropy + overlap
        return entropy + overlap + 0.5 * _tissue_loss(tissue_logits[known], tissues[known])


def _tissue_loss(logits: Tensor, tissues: Tensor) -> Tensor:
    """Return cross entropy and mean Dice loss of logits (N, T, X, Y, Z)."""
    log_p = logits.float().log_softmax(dim=1)
    entropy = F.nll_loss(log_p, tissues)
    true = F.one_hot(tissues, logits.shape[1]).movedim(-1, 1).to(log_p.dtype)
    dice = soft_dice(log_p.exp().flatten(2), true.flatten(2))
    present = true.flatten(2).sum(dim=2) > 0
    return entropy + 1 - dice[present].mean()


def soft_dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Return the Dice of two shares over the last axis; 1 where both are empty."""
    both = (probability * truth).sum(dim=-1)
    return (2 * both + 1) / (probability.sum(dim=-1) + truth.sum(dim=-1) + 1)


def _crop(
    head: tuple[Tensor, Tensor, Tensor], sides: Sequence[int], random: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a part of image, brain and tissues with the brain somewhere in it.

    The brain's border is learnt from it as well as from the whole head, in a third of the time.
    """
    image, brain, tissues = head
    places = torch.nonzero(brain > 0.5).float()
    middle = places.mean(dim=0) if len(places) else torch.tensor(brain.shape) / 2
    middle = middle + torch.from_numpy(random.uniform(-12, 12, 3)).float()
    corner = [
        min(max(0, int(at) - side // 2), whole - side)
        for at, side, whole in zip(middle, sides, brain.shape, strict=True)
    ]
    part = tuple(slice(low, low + side) for low, side in zip(corner, sides, strict=True))
    return image[part], brain[part], tissues[part]


class BrainTask:
    """A network that learns to find the brain; see `training.loop.task.Task`."""

    unit = "step"
    metric = Metric("dice", higher_is_better=True)
    columns = ("step", "seconds", "loss", "learning_rate", "validation_dice")

    def __init__(
        self,
        recipe: BrainRecipe,
        maps: Sequence[HeadMap],
        heads: Sequence[Head],
        stripped: Sequence[Head],
        validation: Sequence[Head],
        device: torch.device,
    ) -> None:
        if len(maps) <= recipe.validation_maps:
            raise ConfigError(
                subject="maps",
                expected=f"more than the {recipe.validation_maps} that are kept for validation",
                found=str(len(maps)),
                remedy="Give more maps, or lower validation_maps in the recipe.",
            )
        self.options, self.recipe, self.device = recipe, recipe.as_dict(), device
        self.maps, self.heads, self.stripped = maps[: -recipe.validation_maps], heads, stripped
        self.optimiser = Optimiser(
            "adamw",
            weight_decay=recipe.weight_decay,
            patience=recipe.patience,
            clip_norm=recipe.clip_norm,
            ema_decay=recipe.ema_decay,
        )
        torch.manual_seed(recipe.seed)
        self.network = cast(BrainFinder, build(recipe.network))
        self.network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        drawn = [
            draw_head(head, np.random.default_rng([recipe.seed, 7, i]))
            for i, head in enumerate(maps[-recipe.validation_maps :])
        ]
        self.judged = [(head.image, head.brain > 0.5) for head in validation]
        self.judged += [(head.image, head.brain > 0.5) for head in drawn]

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.options.steps

    def parameters(self) -> list[nn.Parameter]:
        """Return all of the network's."""
        return list(self.network.parameters())

    def build_objective(self) -> BrainObjective:
        """Return the loss."""
        return BrainObjective(self.network)

    def learning_rate(self, step: int, history: Sequence[Row]) -> float:
        """Return a linear warm-up, then half a cosine to zero at the last step."""
        rate, warmup = self.options.learning_rate, self.options.warmup_steps
        return warm_up_and_cosine(step, self.steps, rate, warmup)

    def prepare_step(self, step: int, networks: Sequence[nn.Module]) -> None:
        """Do nothing: the network does not change during training."""

    def batches(self, step: int) -> Iterator[tuple[Any, ...]]:
        """Yield the one batch of a step, as a function of seed and step alone."""
        random = np.random.default_rng([self.options.seed, step])
        heads = [self._random_head(random) for _ in range(self.options.batch_size)]
        if self.options.crop and random.random() < self.options.crop_share:
            heads = [_crop(head, self.options.crop, random) for head in heads]
        corner = tuple(random.integers(2, size=3).tolist())
        yield *(torch.stack(part).to(self.device) for part in zip(*heads, strict=True)), corner

    def _random_head(self, random: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return image, brain and tissues of a drawn or a real head."""
        kind = random.random()
        if kind < self.options.drawn_share:
            head = draw_head(self.maps[int(random.integers(len(self.maps)))], random)
            return head.image, head.brain, head.tissues
        source = self.stripped if kind > 1 - self.options.stripped_share else self.heads
        image, brain = change_head(source[int(random.integers(len(source)))], random)
        return image, brain, torch.full(image.shape, NO_TISSUE)

    def validates_after(self, step: int) -> bool:
        """Return True after the recipe's number of steps, and after the last one."""
        return step % self.options.validate_every == 0 or step == self.steps

    def validate(self, network: nn.Module) -> float:
        """Return the mean Dice of the brain over real and drawn heads that training never sees."""
        scores = []
        for image, brain in self.judged:
            found, _ = cast(BrainFinder, network).find(image[None, None].to(self.device))
            both = ((found[0].cpu() > 0.5) & brain).sum()
            scores.append(float(2 * both / ((found > 0.5).sum().cpu() + brain.sum())))
        return float(np.mean(scores))

    def start_from(self, path: Path) -> None:
        """Take over the averaged weights of another run's checkpoint."""
        self.network.load_state_dict(load_network(path).state_dict())

    def draw(self, history: Sequence[Row], path: Path) -> None:
        """Draw the loss and the validation Dice against the step."""
        draw_dice(history, path)
