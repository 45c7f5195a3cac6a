"""The network that finds the brain in a head: a residual U-Net at 2.7 mm with a sub-pixel head.

The image enters as 2 x 2 x 2 blocks, and leaves them at the end, where a few convolutions of single
voxels correct the brain's border. Two answers come out for every voxel: whether it lies inside
the skull, with the brain, and which tissue it is. The tissue is learnt from drawn heads alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurobento.imaging.geometry import FINDER_SHAPE
from neurobento.networks.layers import POSITIONS, Conv, Residual, from_blocks, to_blocks
from neurobento.preprocessing.tissues import TISSUES

__all__ = ["BrainFinder", "brain_finder"]

BORDER_WIDTH = 8
"""Channels of the convolutions that see single voxels."""


def brain_finder() -> BrainFinder:
    """Build the network with widths 24-48-96-128."""
    return BrainFinder(widths=(24, 48, 96, 128))


class BrainFinder(nn.Module):
    """Brain and tissue of a head; `widths` are channels at 1/2, 1/4, 1/8 ..."""

    def __init__(
        self,
        widths: Sequence[int],
        tissues: int = len(TISSUES),
        shape: tuple[int, int, int] = FINDER_SHAPE,
    ) -> None:
        super().__init__()
        self.shape, self.tissues = shape, tissues
        if any(side % 2 ** len(widths) for side in shape):
            raise ValueError(f"expected sides that {2 ** len(widths)} divides, found {shape}")
        self.stem = Conv(len(POSITIONS), widths[0])
        self.encoder = nn.ModuleList(
            Residual(width, 1 if level == 0 else 2) for level, width in enumerate(widths)
        )
        self.down = nn.ModuleList(Conv(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(nn.Conv3d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(Residual(width, 1) for width in widths[:-1])
        # for each of a block's voxels: one value for the brain, then one for each tissue
        self.out = nn.Conv3d(widths[0] + len(POSITIONS), (1 + tissues) * len(POSITIONS), 1)
        corrected = nn.Conv3d(BORDER_WIDTH, 1, 3, padding=1)
        # untrained, it corrects nothing
        nn.init.zeros_(corrected.weight)
        nn.init.zeros_(cast(Tensor, corrected.bias))
        self.border = nn.Sequential(
            nn.Conv3d(2, BORDER_WIDTH, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(BORDER_WIDTH, BORDER_WIDTH, 3, padding=1),
            nn.ReLU(),
            corrected,
        )

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of brain (N, 1, X, Y, Z) and tissues (N, T, X, Y, Z).

        The image is (N, 1, X, Y, Z) in [0, 1], with sides that 2 to the number of widths divides.
        """
        blocks = to_blocks(image)
        x = self.stem(blocks)
        skips = []
        for level, stage in enumerate(self.encoder):
            x = stage(x if level == 0 else self.down[level - 1](x))
            skips.append(x)
        for level in reversed(range(len(self.decoder))):
            x = F.interpolate(self.up[level](x), scale_factor=2.0, mode="trilinear")
            x = self.decoder[level](x + skips[level])
        logits = self.out(torch.cat([x, blocks], dim=1))
        voxels = from_blocks(torch.split(logits, 1 + self.tissues, dim=1))
        brain = voxels[:, :1]
        brain = brain + self.border(torch.cat([image, brain.sigmoid()], dim=1))
        return brain, voxels[:, 1:]

    def find(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the brain's probability (N, X, Y, Z) float32 and the tissue (N, X, Y, Z) uint8."""
        brain, tissues = self(image)
        return brain[:, 0].sigmoid(), tissues.argmax(dim=1).to(torch.uint8)
