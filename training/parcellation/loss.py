"""The losses that a recipe may name: of logits against labels, and of atlas positions.

Dice plus cross-entropy comes from gathers on one log-softmax, since one-hot tensors of 117 classes
cost as much time as a network on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.parcellation import ParcellationNetwork

__all__ = ["LOSSES", "dice", "dice_cross_entropy", "position_loss"]

OUTSIDE_WEIGHT = 0.02
"""Weight of blocks without brain: their positions need not be exact to the millimetre."""

SMOOTH = 1.0
"""Voxels added to both sides of each fraction, so that a tiny region does not dominate."""


class PositionNetwork(Protocol):
    """A network that predicts where blocks of 4 x 4 x 4 voxels lie in an atlas table."""

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        """Voxels of the image, padded to whole blocks."""

    def to_table(self, positions: Tensor) -> Tensor:
        """Map positions in the atlas's world to voxels of the table."""

    def start(self) -> Tensor:
        """Return the table position of each block before any displacement."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Return displacements before and after each correction."""


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return report A's Dice loss (3.2) of logits (N, C, X, Y, Z), labels (N, X, Y, Z)."""
    from monai.losses import DiceLoss

    loss: Tensor = DiceLoss(softmax=True, to_onehot_y=True)(logits.float(), labels[:, None])
    return loss


def position_loss(network: PositionNetwork, image: Tensor, positions: Tensor) -> Tensor:
    """Return the mean distance between the true map and each corrected one, summed, in voxels.

    True `positions` are (N, 3, X/2, Y/2, Z/2), RAS mm in the atlas's world.
    """
    true = network.to_table(positions)
    after = [m // 2 - n for n, m in zip(true.shape[2:], network.padded_shape, strict=True)]
    ends = [end for width in reversed(after) for end in (0, width)]
    true = F.avg_pool3d(F.pad(true, ends, mode="replicate"), 2)
    brain = F.avg_pool3d(F.pad(F.max_pool3d((image > 0).float(), 2, ceil_mode=True), ends), 2)
    weight = OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * brain
    moves = true - network.start()
    _, *corrected = network(image)
    parts = [(_distance(found - moves) * weight).sum() / weight.sum() for found in corrected]
    return torch.stack(parts).sum()


def _distance(difference: Tensor) -> Tensor:
    """Return the length (N, 1, ...) of vectors (N, 3, ...); the root has no slope at zero."""
    return (difference.square().sum(dim=1, keepdim=True) + 0.01).sqrt()


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return mean cross-entropy plus mean soft Dice loss of logits (V, C) and labels (V,) int64."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    log_p_true = log_p.gather(1, labels[:, None])[:, 0]
    classes = logits.shape[1]
    voxels = torch.bincount(labels, minlength=classes).to(log_p.dtype)
    zeros = log_p.new_zeros(classes)
    overlap = zeros.index_add(0, labels, log_p_true.exp())
    predicted = log_p.exp().sum(dim=0)
    dice = (2 * overlap + SMOOTH) / (predicted + voxels + SMOOTH)
    return -log_p_true.mean() + 1 - dice[voxels > 0].mean()


def _dice_of_scan(
    network: ParcellationNetwork, image: Tensor, labels: Tensor, *_: object
) -> Tensor:
    return dice(network(image), labels)


def _dice_cross_entropy_of_scan(
    network: ParcellationNetwork, image: Tensor, labels: Tensor, _: Tensor, order: Sequence[int]
) -> Tensor:
    # a part of the voxels teaches as well as all of them, at a part of the price
    return dice_cross_entropy(*network.sampled_logits(image, labels, order))


def _position_loss_of_scan(
    network: Any, image: Tensor, _: Tensor, true: Tensor, *__: Any
) -> Tensor:
    return position_loss(network, image, true)


LOSSES: Mapping[str, Callable[..., Tensor]] = MappingProxyType(
    {
        "dice": _dice_of_scan,
        "dice_cross_entropy": _dice_cross_entropy_of_scan,
        "positions": _position_loss_of_scan,
    }
)
"""Name -> loss of one scan from network, image, labels, positions and the order of voxels."""
