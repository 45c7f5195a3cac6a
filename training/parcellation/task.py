"""Training a parcellation network: what a run needs besides the loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.networks import build
from neurobento.networks.layers import POSITIONS
from neurobento.networks.parcellation import ParcellationNetwork
from neurobento.networks.weights import load_network
from training.loop.curves import draw_dice
from training.loop.log import Row
from training.loop.processes import ALONE, Processes
from training.loop.schedule import warm_up_and_cosine
from training.loop.task import Metric, Optimiser
from training.parcellation.batches import Batches
from training.parcellation.dataset import Pair
from training.parcellation.objective import Objective
from training.parcellation.recipe import Recipe
from training.parcellation.registration import Atlas

__all__ = ["ParcellationTask"]


class ParcellationTask:
    """A network that learns labels from pairs; see `training.loop.task.Task`."""

    unit = "step"
    metric = Metric("dice", higher_is_better=True)
    columns = ("step", "seconds", "loss", "learning_rate", "validation_dice")

    def __init__(
        self,
        recipe: Recipe,
        train: Sequence[Pair],
        validation: Sequence[Pair],
        device: torch.device,
        atlas: Atlas | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.name, self.options, self.recipe = recipe.network, recipe.optimisation, recipe.as_dict()
        self.batch_source = Batches(recipe, train, device, processes)
        self.validation_pairs, self.device = validation, device
        self.optimiser = Optimiser(
            self.options.optimiser,
            weight_decay=self.options.weight_decay,
            patience=self.options.patience,
            clip_norm=self.options.clip_norm,
            ema_decay=self.options.ema_decay,
            precision=self.options.precision,
        )
        torch.manual_seed(self.options.seed)
        self.network = cast(ParcellationNetwork, build(recipe.network))
        self._check_options(train)
        if self.network.needs_atlas:
            _give_atlas(self.network, self.name, atlas)
        if self.options.mixing_from:
            self.network.hold_mixing()
        self.network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def _check_options(self, train: Sequence[Pair]) -> None:
        if self.options.loss == "positions" and any(p.positions.isnan().any() for p in train):
            raise ConfigError(
                subject="pairs",
                expected=f"pairs with atlas positions, by which {self.name} learns",
                found="pairs without",
                remedy="Make them with `python -m training.parcellation.label`.",
            )
        if self.network.needs_whole_image and self.options.patch:
            raise ConfigError(
                subject="patch",
                expected=f"none: {self.name} needs to see the whole brain",
                found=str(self.options.patch),
                remedy="Leave the patch out.",
            )
        if self.options.mixing_from and not self.network.can_hold_mixing:
            raise ConfigError(
                subject="mixing_from",
                expected=f"0: {self.name} has no layer that it applies to",
                found=str(self.options.mixing_from),
                remedy="Leave mixing_from out.",
            )

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.batch_source.steps

    def parameters(self) -> list[nn.Parameter]:
        """Return all of the network's; frozen ones have no gradient."""
        return list(self.network.parameters())

    def build_objective(self) -> Objective:
        """Build the loss that the recipe names."""
        self.objective = Objective(
            self.network, self.options.loss, checkpointing=self.options.checkpointing
        )
        return self.objective

    def learning_rate(self, step: int, history: Sequence[Row]) -> float:
        """Return a linear warm-up, then half a cosine to zero at the last step, or no change."""
        rate, warmup = self.options.learning_rate, self.options.warmup_steps
        if self.options.schedule == "constant" and step >= warmup:
            return rate
        return warm_up_and_cosine(step, self.steps, rate, warmup)

    def prepare_step(self, step: int, networks: Sequence[nn.Module]) -> None:
        """Turn on mixing from the recipe's step on, and choose the voxels to learn from."""
        for network in networks:
            cast(ParcellationNetwork, network).mixing = step >= self.options.mixing_from
        random = np.random.default_rng([self.options.seed, 2, step])
        self.objective.order = random.permutation(len(POSITIONS)).tolist()

    def batches(self, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the one batch of a step, as `Objective` takes it."""
        yield self.batch_source.batch(step)

    def validates_after(self, step: int) -> bool:
        """Return True after the recipe's number of epochs, and after the last step."""
        every = self.batch_source.steps_per_epoch * self.options.validate_epochs
        return step % every == 0 or step == self.steps

    def validate(self, network: nn.Module) -> float:
        """Return the mean Dice over the validation scans."""
        scores = []
        for pair in self.validation_pairs:
            image = pair.float_image()[None].to(self.device)
            labels = cast(ParcellationNetwork, network).labels(image)
            scores.append(mean_dice(labels[0].cpu().numpy(), pair.labels.numpy()))
        return float(np.mean(scores))

    def start_from(self, path: Path) -> None:
        """Take over the averaged weights of another run's checkpoint, and nothing else of it."""
        try:
            self.network.take_weights(load_network(path))
        except RuntimeError:
            raise ConfigError(
                subject=str(path),
                expected=f"a checkpoint of {self.name}",
                found="a checkpoint of another network",
                remedy="Name a checkpoint of the recipe's network.",
            ) from None
        if self.options.mixing_from:
            self.network.hold_mixing()

    def draw(self, history: Sequence[Row], path: Path) -> None:
        """Draw the training loss and the validation Dice against the step."""
        draw_dice(history, path)


def _give_atlas(network: ParcellationNetwork, name: str, atlas: Atlas | None) -> None:
    if atlas is None:
        raise ConfigError(
            subject=name,
            expected="an atlas to read labels from",
            found="none",
            remedy="Give --atlas FOLDER.",
        )
    try:
        network.take_atlas(
            torch.from_numpy(atlas.labels.copy()),
            torch.from_numpy(atlas.brain.copy()),
            torch.from_numpy(atlas.voxel_to_ras.copy()),
        )
    except ValueError as error:
        raise ConfigError(
            subject="atlas",
            expected=f"the atlas that {name} was made for",
            found=str(error),
            remedy="Take AAL on Colin27 from mricron-data.",
        ) from None
