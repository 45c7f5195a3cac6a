"""Layers that several networks share, and images as blocks of 2 x 2 x 2 voxels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["POSITIONS", "Conv", "Residual", "from_blocks", "to_blocks"]

POSITIONS = tuple(itertools.product((0, 1), repeat=3))
"""The eight voxels of a block, (x, y, z) offsets."""


class Conv(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv3d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.InstanceNorm3d(outputs, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )


class Residual(nn.Module):
    """Convolutions, `depth` of them, added to their input."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*(Conv(width, width) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


def to_blocks(image: Tensor) -> Tensor:
    """Fold (N, 1, X, Y, Z) to (N, 8, X/2, Y/2, Z/2), positions in the order of `POSITIONS`."""
    return torch.cat([image[:, :, a::2, b::2, c::2] for a, b, c in POSITIONS], dim=1)


def from_blocks(parts: Sequence[Tensor]) -> Tensor:
    """Unfold eight (N, C, X/2, Y/2, Z/2) to (N, C, X, Y, Z): the inverse of `to_blocks`."""
    n, c, x, y, z = parts[0].shape
    stacked = torch.stack(list(parts), dim=-1).reshape(n, c, x, y, z, 2, 2, 2)
    return stacked.permute(0, 1, 2, 5, 3, 6, 4, 7).reshape(n, c, 2 * x, 2 * y, 2 * z)
