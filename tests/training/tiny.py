"""Tiny networks, named as the presets they stand in for, and tiny runs of them.

The fixture `tiny_networks` makes `neurobento.networks.build` take the presets from here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.networks.anomaly_unet import AnomalyUNet
from neurobento.networks.atlas_map import AtlasMap
from neurobento.networks.brain_finder import BrainFinder
from neurobento.networks.compact import Compact
from neurobento.networks.denoising_autoencoder import DenoisingAutoencoder
from neurobento.networks.mirror import Mirror
from neurobento.networks.parcellation import ParcellationNetwork
from neurobento.networks.unet import ReportUNet
from neurobento.networks.vgg16_autoencoder import VGG16Autoencoder
from tests.training.heads import head_images
from training.anomaly.recipe import AnomalyRecipe
from training.anomaly.task import AnomalyTask
from training.loop.processes import ALONE, Processes
from training.loop.run import Run
from training.parcellation.dataset import Pair
from training.parcellation.recipe import Data, Optimisation, Recipe
from training.parcellation.registration import Atlas
from training.parcellation.task import ParcellationTask

FINDER = (32, 32, 32)
SHAPE, BLOCKS, BRAIN = (21, 26, 23), (11, 13, 12), (20, 24, 22)
WIDTHS = (8, 8, 8)
SLICE_WIDTHS = (4, 4, 4, 4, 4, 4)
CPU = torch.device("cpu")
PNG = b"\x89PNG\r\n\x1a\n"

RECIPE = Recipe(
    "unet",
    Data(("s*",), ("v*",)),
    Optimisation(steps=4, warmup_steps=2, precision="fp32", validate_epochs=1),
)
COMPACT = replace(RECIPE, network="compact")
ATLAS_MAP = replace(
    RECIPE, network="atlas_map", optimisation=replace(RECIPE.optimisation, loss="positions")
)
EACH_RECIPE = pytest.mark.parametrize(
    "recipe", [RECIPE, COMPACT, ATLAS_MAP], ids=lambda r: r.network
)


class Classifier(ParcellationNetwork):
    """Logits of four classes from two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(1, 8, 3, padding=1, bias=False),
            nn.InstanceNorm3d(8),
            nn.ReLU(),
            nn.Conv3d(8, 4, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.body(image)
        return logits

    def sampled_logits(
        self, image: Tensor, labels: Tensor, order: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        return self(image).movedim(1, -1).flatten(0, 3), labels.flatten().long()


class Places(Compact):
    """Sees regions by where they are, as if every brain were as wide as the image."""

    def block_shares(self, features: Tensor, blocks: Tensor) -> Tensor:
        ends = [m - n for n, m in zip(BLOCKS, blocks.shape[2:], strict=True)]
        seen = np.pad(cells(BLOCKS), [(0, end) for end in ends])
        shares = F.one_hot(torch.from_numpy(seen).long(), 117).movedim(-1, 0).float()
        return shares.expand(len(blocks), -1, -1, -1, -1)


def unet() -> ParcellationNetwork:
    """No U-Net, but the least that learns; the fixture `report_unet` makes it one."""
    return Classifier()


def report_unet() -> ReportUNet:
    return ReportUNet(UNet(3, 1, 4, channels=(4, 8), strides=(2,), num_res_units=2))


def compact() -> Compact:
    return Compact(WIDTHS, head_width=8, shape=SHAPE)


def atlas_map() -> AtlasMap:
    regions = Places(WIDTHS, head_width=8, shape=SHAPE)
    return AtlasMap(regions, (8, 8), brain_shape=BRAIN, shape=SHAPE)


def brain_finder() -> BrainFinder:
    return BrainFinder((6, 8), shape=FINDER)


def mirror() -> Mirror:
    return Mirror()


def anomaly_unet() -> AnomalyUNet:
    return AnomalyUNet(SLICE_WIDTHS)


def denoising_autoencoder() -> DenoisingAutoencoder:
    return DenoisingAutoencoder(SLICE_WIDTHS)


def vgg16_autoencoder() -> VGG16Autoencoder:
    return VGG16Autoencoder()


def cells(shape: tuple[int, int, int]) -> Any:
    """Classes 1 to 112 in a grid's boxes."""
    x, y, z = np.indices(shape, sparse=True)
    a, b, c = shape
    return (1 + (x * 4 // a * 4 + y * 4 // b) * 7 + z * 7 // c).astype(np.uint8)


def labels_of(shape: tuple[int, int, int], seed: int = 0, width: int = 8) -> Any:
    """Slabs of four classes along a slanted axis, elsewhere for each seed."""
    x, y, z = np.indices(shape, sparse=True)
    return ((x + y // 2 + z // 3 + 2 * seed) // width % 4).astype(np.uint8)


def pair(seed: int) -> Pair:
    """Grey values 60 apart for labels; positions some voxels off where atlas_map begins."""
    labels = torch.from_numpy(labels_of(SHAPE, seed))
    noise = torch.randint(40, labels.shape, generator=torch.Generator().manual_seed(seed))
    positions = torch.from_numpy(2.0 * np.indices(BLOCKS) + 3 + seed).float()
    return Pair(f"s{seed}", (labels * 60 + noise)[None].byte(), labels, np.eye(4), positions)


def small_atlas(shape: tuple[int, int, int] = BRAIN) -> Atlas:
    """A textured box in an empty grid; regions without a cell have a voxel beside it."""
    random = np.random.default_rng(0)
    brain, labels = np.zeros((2, *(n + 12 for n in shape)), np.float32)
    inside = (slice(6, -6),) * 3
    brain[inside] = random.uniform(0.1, 1, shape)
    labels[inside] = cells(shape)
    labels[3, 3, 3:7] = range(113, 117)
    return Atlas(brain, labels.astype(np.uint8), np.eye(4))


def with_options(recipe: Recipe = RECIPE, **options: Any) -> Recipe:
    return replace(recipe, optimisation=replace(recipe.optimisation, **options))


def parcellation_run(
    folder: Path | None, recipe: Recipe = RECIPE, scans: int = 2, processes: Processes = ALONE
) -> Run:
    """A run on so many training scans and one for validation."""
    atlas = small_atlas() if recipe.network == "atlas_map" else None
    train, validation = [pair(i) for i in range(scans)], [pair(scans)]
    return Run(
        ParcellationTask(recipe, train, validation, CPU, atlas, processes), folder, CPU, processes
    )


def weights(network: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in network.state_dict().items() if isinstance(v, Tensor)}


def all_weights(run: Run) -> dict[str, Tensor]:
    """Of the network and of its average, one by one."""
    average = {f"average.{k}": v for k, v in weights(run.average.module).items()}
    return {**weights(run.network), **average}


def assert_bit_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


def stop_after(run: Run, step: int) -> None:
    """Train until a step by letting the clock jump past the time limit."""
    real = time.perf_counter
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: real() + (1e6 if run.step >= step else 0))
        run.train(minutes=1000)


def anomaly_run(
    recipe: AnomalyRecipe, folder: Path | None = None, device: torch.device = CPU
) -> tuple[Run, AnomalyTask]:
    """A run on six healthy slices and three for validation."""
    task = AnomalyTask(recipe, head_images(*range(6)), head_images(6, 7, 8), device)
    return Run(task, folder, device), task
