"""The augmented scans of each training step, as a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from neurobento.errors import ConfigError
from training.loop.processes import Processes
from training.parcellation.augmentation import Augmentation, augment
from training.parcellation.dataset import Pair
from training.parcellation.recipe import Recipe

__all__ = ["Batches"]

Scan = tuple[Tensor, Tensor, Tensor]
"""Image (1, X, Y, Z) float32, labels (X, Y, Z) uint8 and positions (3, X/2, Y/2, Z/2) float32."""


class Batches:
    """The batches of a run; several processes share out the scans of a step."""

    def __init__(
        self, recipe: Recipe, pairs: Sequence[Pair], device: torch.device, processes: Processes
    ) -> None:
        self.options, self.strength = recipe.optimisation, recipe.augmentation
        _check_batch_size(self.options.batch_size, processes.count, len(pairs))
        self.pairs, self.device, self.processes = pairs, device, processes

    @property
    def steps_per_epoch(self) -> int:
        """Updates until every training scan was seen once."""
        return len(self.pairs) // self.options.batch_size

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.options.steps or self.options.epochs * self.steps_per_epoch

    def augmentation(self, step: int) -> Augmentation:
        """Return a step's augmentation: the recipe's, faded towards the end."""
        start = self.options.fade_from * self.steps
        left = max(1.0, self.steps - start)
        done = min(1.0, max(0.0, (step - start) / left))
        return self.strength.scaled(1 - done * (1 - self.options.fade_to))

    def batch(self, step: int) -> Scan:
        """Return this process's share of a step's scans, stacked."""
        size = self.options.batch_size
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.options.seed, epoch]).permutation(len(self.pairs))
        chosen = order[place * size : (place + 1) * size]
        seeds = np.random.default_rng([self.options.seed, 1, step]).integers(2**31, size=size)
        share = slice(self.processes.rank, None, self.processes.count)
        strength = self.augmentation(step)
        scans = [
            self._crop(self._augment(self.pairs[i], strength, int(seed)), int(seed))
            for i, seed in zip(chosen[share], seeds[: len(chosen)][share], strict=True)
        ]
        images, labels, positions = (torch.stack(part) for part in zip(*scans, strict=True))
        return images.contiguous(memory_format=torch.channels_last_3d), labels, positions

    def _augment(self, pair: Pair, strength: Augmentation, seed: int) -> Scan:
        image, labels, positions = (
            part.to(self.device) for part in (pair.image, pair.labels, pair.positions)
        )
        return augment(strength, seed, image.float() / 255, labels, positions)

    def _crop(self, scan: Scan, seed: int) -> Scan:
        """Return a random patch of image and labels if the recipe wants patches."""
        image, labels, positions = scan
        if not self.options.patch:
            return scan
        sides = [min(n, side) for n, side in zip(labels.shape, self.options.patch, strict=True)]
        random = np.random.default_rng([self.options.seed, 3, seed])
        starts = [int(random.integers(n - m + 1)) for n, m in zip(labels.shape, sides, strict=True)]
        box = tuple(slice(s, s + m) for s, m in zip(starts, sides, strict=True))
        return image[(slice(None), *box)], labels[box], positions


def _check_batch_size(size: int, processes: int, scans: int) -> None:
    if size % processes:
        raise ConfigError(
            subject="batch_size",
            expected=f"a multiple of the {processes} processes",
            found=str(size),
            remedy="Correct the recipe, or start another number of processes.",
        )
    if size > scans:
        raise ConfigError(
            subject="batch_size",
            expected=f"at most the {scans} training scans",
            found=str(size),
            remedy="Correct the recipe, or make more pairs.",
        )
