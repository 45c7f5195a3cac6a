"""What training makes small: losses of logits against labels, and of atlas positions.

Dice plus cross-entropy comes from one log-softmax: the usual one-hot tensors
of 117 classes cost as much time as a network on a CPU; gathers and index sums
give the same numbers. Report A's Dice loss is MONAI's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.atlas_map import AtlasMap, Learning, Step

__all__ = [
    "LOGIT_LOSSES",
    "dice",
    "dice_cross_entropy",
    "position_loss",
    "sampled_dice_cross_entropy",
]

DISTANCE_WEIGHT = 0.3
"""Of a voxel's distance beside the cross-entropy of the bins."""

OUTSIDE_WEIGHT = 0.05
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


def dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over voxels plus mean soft Dice loss over each scan's classes.

    Parameters
    ----------
    logits
        (N, C, X, Y, Z).
    labels
        (N, X, Y, Z) uint8.
    """
    rows = logits.movedim(1, -1).flatten(1, 3)
    scans = zip(rows, labels.flatten(1).long(), strict=True)
    return torch.stack([sampled_dice_cross_entropy(x, y) for x, y in scans]).mean()


LOGIT_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "dice": dice,
    "dice_cross_entropy": dice_cross_entropy,
}
"""Losses of logits (N, C, X, Y, Z) against labels (N, X, Y, Z), by the recipe's name."""


def position_loss(
    network: AtlasMap,
    image: Tensor,
    labels: Tensor,
    positions: Tensor,
    learning: Learning = "both",
) -> Tensor:
    """How far a network's steps are from the true atlas positions, summed over its steps.

    Each step's part is the mean distance in atlas voxels, times `DISTANCE_WEIGHT`,
    plus the cross-entropy of its bins against the true move, shared between the
    two bins it lies between; the first step's blocks have to know their label
    too. Blocks without any brain count by `OUTSIDE_WEIGHT`.

    Parameters
    ----------
    network
        What is trained.
    image, labels
        (N, 1, X, Y, Z) float32 in [0, 1] and (N, X, Y, Z) uint8.
    positions
        (N, 3, X/2, Y/2, Z/2), halves rounded up: the true ones, RAS mm in the
        atlas's world.
    learning
        Which steps count; see `AtlasMap.forward`.
    """
    true = network.to_table(positions)
    after = [m // 2 - n for n, m in zip(true.shape[2:], network.padded_shape, strict=True)]
    ends = [end for width in reversed(after) for end in (0, width)]
    moves = F.pad(true, ends, mode="replicate") - network.start()
    brain = F.max_pool3d((image > 0).float(), 2, ceil_mode=True)
    weight = OUTSIDE_WEIGHT + (1 - OUTSIDE_WEIGHT) * F.pad(brain, ends)
    parts = []
    for step in network(image, learning):
        error = DISTANCE_WEIGHT * _distance(step.displacements - moves)
        error = error + _bin_cross_entropy(step, moves - step.before)
        parts.append((error * weight).sum() / weight.sum())
        if step.classes is not None:
            # a block's first voxel speaks for it
            first = F.pad(labels[:, ::2, ::2, ::2].long(), ends)
            parts.append(F.cross_entropy(step.classes.float(), first))
    return torch.stack(parts).sum()


def _distance(difference: Tensor) -> Tensor:
    """(N, 1, ...) length of vectors (N, 3, ...); the root has no slope at zero."""
    return (difference.square().sum(dim=1, keepdim=True) + 0.01).sqrt()


def _bin_cross_entropy(step: Step, move: Tensor) -> Tensor:
    """(N, 1, ...) mean over the axes; a move beyond the outermost bin counts as that bin."""
    width = step.centres[1] - step.centres[0]
    place = ((move - step.centres[0]) / width).clamp(0, len(step.centres) - 1.001)
    lower = place.floor()
    upper_share = place - lower
    total = torch.zeros_like(place[:, :1])
    for axis, logits in enumerate(step.logits):
        log_p, chosen = logits.log_softmax(dim=1), lower[:, axis : axis + 1].long()
        share = upper_share[:, axis : axis + 1]
        total = total - (1 - share) * log_p.gather(1, chosen) - share * log_p.gather(1, chosen + 1)
    return total / len(step.logits)


def sampled_dice_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of a sample of voxels: logits (V, C), labels (V,) int64."""
    log_p = torch.log_softmax(logits.float(), dim=1)
    log_p_true = log_p.gather(1, labels[:, None])[:, 0]
    classes = logits.shape[1]
    voxels = torch.bincount(labels, minlength=classes).to(log_p.dtype)
    zeros = log_p.new_zeros(classes)
    overlap = zeros.index_add(0, labels, log_p_true.exp())
    predicted = log_p.exp().sum(dim=0)
    dice = (2 * overlap + SMOOTH) / (predicted + voxels + SMOOTH)
    return -log_p_true.mean() + 1 - dice[voxels > 0].mean()
