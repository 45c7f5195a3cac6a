"""What training makes small: losses of logits against labels, and of atlas positions.

Dice plus cross-entropy comes from one log-softmax: the usual one-hot tensors
of 117 classes cost as much time as a network on a CPU; gathers and index sums
give the same numbers. Report A's Dice loss is MONAI's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.atlas_map import AtlasMap

__all__ = [
    "dice",
    "dice_cross_entropy",
    "position_loss",
]

OUTSIDE_WEIGHT = 0.02
"""Of blocks without brain: they have to be somewhere, but not to the millimetre."""

SMOOTH = 1.0
"""Voxels added to both sides of each fraction, so that a tiny region does not shout."""


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Report A's Dice loss (its equation 3.2) as MONAI has it: softmax, all classes.

    Parameters
    ----------
    logits
        (N, C, X, Y, Z).
    labels
        (N, X, Y, Z) uint8.
    """
    from monai.losses import DiceLoss

    loss: Tensor = DiceLoss(softmax=True, to_onehot_y=True)(logits.float(), labels[:, None])
    return loss


def position_loss(network: AtlasMap, image: Tensor, positions: Tensor) -> Tensor:
    """How far a network's corrected maps are from the true one: the sum of their mean distances.

    Distances are in atlas voxels; blocks without brain count by `OUTSIDE_WEIGHT`.

    Parameters
    ----------
    network
        What is trained.
    image
        (N, 1, X, Y, Z) float32 in [0, 1].
    positions
        (N, 3, X/2, Y/2, Z/2), halves rounded up: the true ones, RAS mm in the
        atlas's world.
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
    """(N, 1, ...) length of vectors (N, 3, ...); the root has no slope at zero."""
    return (difference.square().sum(dim=1, keepdim=True) + 0.01).sqrt()


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy plus mean soft Dice loss over the classes, of a sample of voxels.

    Parameters
    ----------
    logits, labels
        (V, C) and (V,) int64, of a network's `sampled_logits`.
    """
    log_p = torch.log_softmax(logits.float(), dim=1)
    log_p_true = log_p.gather(1, labels[:, None])[:, 0]
    classes = logits.shape[1]
    voxels = torch.bincount(labels, minlength=classes).to(log_p.dtype)
    zeros = log_p.new_zeros(classes)
    overlap = zeros.index_add(0, labels, log_p_true.exp())
    predicted = log_p.exp().sum(dim=0)
    dice = (2 * overlap + SMOOTH) / (predicted + voxels + SMOOTH)
    return -log_p_true.mean() + 1 - dice[voxels > 0].mean()
