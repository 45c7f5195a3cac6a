"""Training a network on healthy slices: what a run needs besides the loop."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from neurobento.errors import ConfigError
from neurobento.networks import ANOMALY_PRESETS, build
from neurobento.networks.anomaly import AnomalyNetwork
from training.anomaly.figures import draw_curves
from training.anomaly.objective import AnomalyObjective
from training.anomaly.recipe import AnomalyRecipe
from training.anomaly.synthetic import augment_slices
from training.loop.log import Row
from training.loop.recipe import wrong_option
from training.loop.task import Metric, Optimiser

__all__ = ["AnomalyTask"]

VALIDATION_DRAWS = 4
"""Random changes of each validation slice, the same in every validation."""

LEAST_CUT = 1e-8
"""A smaller change of the learning rate is left out, as PyTorch's ReduceLROnPlateau does."""

Images = NDArray[np.float32]


class AnomalyTask:
    """A network that learns from slices (N, 128, 128) in [0, 1]; see `training.loop.task.Task`."""

    unit = "epoch"
    metric = Metric("loss", higher_is_better=False)
    columns = ("epoch", "seconds", "loss", "validation_loss", "learning_rate")

    def __init__(
        self, recipe: AnomalyRecipe, train: Images, validation: Images, device: torch.device
    ) -> None:
        if not len(train) or not len(validation):
            raise ConfigError(
                subject="slices",
                expected="healthy ones for training and for validation",
                found=f"{len(train)} and {len(validation)}",
                remedy="Give more pictures of healthy heads.",
            )
        self.options, self.recipe, self.device = recipe, recipe.as_dict(), device
        self.learns = recipe.objective != "none"
        self.train_images = torch.from_numpy(train)
        self.validation_images = torch.from_numpy(
            # a network that learns nothing has seen none of them
            validation if self.learns else np.concatenate([train, validation])
        )
        torch.manual_seed(recipe.seed)
        # channels last: a third faster on a CPU
        self.network = _build(recipe)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        if bool(self.trained) != self.learns:
            expected = '"none" for what has nothing to learn, and for nothing else'
            raise wrong_option("objective", expected, f'"{recipe.objective}" for {recipe.network}')
        self.optimiser = Optimiser(
            "adamw", weight_decay=recipe.weight_decay, patience=recipe.stop_after
        )
        self.objective = AnomalyObjective(self.network, recipe.objective, device)
        self.train_features = self._features(self.train_images)
        self.validation_features = self._features(self.validation_images)

    @property
    def steps(self) -> int:
        """Epochs in all."""
        return self.options.epochs if self.learns else 0

    def parameters(self) -> list[nn.Parameter]:
        """Return those that learn; an optimiser does not accept an empty list."""
        return self.trained or [nn.Parameter(torch.zeros(1))]

    def build_objective(self) -> AnomalyObjective:
        """Return the loss that the recipe names."""
        return self.objective

    def learning_rate(self, step: int, history: Sequence[Row]) -> float:
        """Return the recipe's rate, halved whenever validation has stopped improving."""
        rate, lowest, stale = self.options.learning_rate, math.inf, 0
        for row in history:
            stale += 1
            if row["validation_loss"] < lowest:
                lowest, stale = row["validation_loss"], 0
            if stale == self.options.cut_after:
                stale = 0
                if rate / 2 > LEAST_CUT:
                    rate /= 2
        return rate

    def prepare_step(self, step: int, networks: Sequence[nn.Module]) -> None:
        """Do nothing: no network for anomalies changes during training."""

    def batches(self, step: int) -> Iterator[tuple[Any, ...]]:
        """Yield the slices of an epoch in a new order, augmented if the recipe says so."""
        random = np.random.default_rng([self.options.seed, step])
        order = np.concatenate(
            [random.permutation(len(self.train_images)) for _ in range(self.options.repeats)]
        )
        for first in range(0, len(order), self.options.batch_size):
            chosen = order[first : first + self.options.batch_size]
            images, features = self.train_images[chosen], self.train_features
            if self.options.augment:
                images = augment_slices(images, random)
            yield images, random, None if features is None else features[chosen]

    def validates_after(self, step: int) -> bool:
        """Return True: every epoch is validated."""
        return True

    def validate(self, network: nn.Module) -> float:
        """Return the loss on the validation slices, with the same random draws every time."""
        draws = 1 if self.options.objective == "reconstruction" else VALIDATION_DRAWS
        random = np.random.default_rng([self.options.seed, 2**31])
        judged = cast(AnomalyNetwork, network)
        losses = [
            float(
                self.objective.loss(
                    judged, self.validation_images, random, self.validation_features
                )
            )
            for _ in range(draws)
        ]
        return float(np.mean(losses))

    def draw(self, history: Sequence[Row], path: Path) -> None:
        """Draw report B's figure 2."""
        draw_curves(history, path)

    def _features(self, images: Tensor) -> Tensor | None:
        """Return a frozen encoder's features, computed once instead of in every epoch."""
        frozen = self.network.has_encoder and self.options.encoder != "none"
        if not frozen or self.options.augment or self.options.objective != "reconstruction":
            return None
        with torch.no_grad():
            parts = torch.split(images[:, None], self.options.batch_size)
            return torch.cat([self.network.encode(part.to(self.device)) for part in parts])


def _build(recipe: AnomalyRecipe) -> AnomalyNetwork:
    if recipe.network not in ANOMALY_PRESETS:
        raise ConfigError(
            subject="network",
            expected="a network for anomalies",
            found=recipe.network,
            remedy="Train it with `python -m training.parcellation.train`.",
        )
    network = cast(AnomalyNetwork, build(recipe.network))
    if recipe.encoder != "none":
        if not network.has_encoder:
            expected = f'"none": {recipe.network} has no encoder to load'
            raise wrong_option("encoder", expected, recipe.encoder)
        network.load_encoder(recipe.encoder)
    return network
