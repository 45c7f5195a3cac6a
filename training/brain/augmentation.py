"""Random changes of a real head and its brain on the finder's grid."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from training.brain.drawn_heads import change_intensities, cut_field_of_view, random_grid
from training.brain.heads import Head

__all__ = ["change_head"]

MASKED_SHARE = 0.15
"""Share of heads whose skull is taken off by their own mask."""


def change_head(head: Head, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return image and brain (X, Y, Z) after a random change of shape, field of view and values."""
    extent = FINDER_SHAPE[0] * FINDER_VOXEL_MM
    grid = (random_grid(random, extent) / (extent / 2)).flip(-1)
    both = torch.stack([head.image, head.brain])[None]
    image, brain = F.grid_sample(both, grid, mode="bilinear", align_corners=False)[0]
    if random.random() < MASKED_SHARE:
        near = F.max_pool3d(brain[None, None], 3, stride=1, padding=1)[0, 0]
        kept = (near if random.random() < 0.5 else brain) > 0.5
        image, brain = image * kept, brain * kept
    field = cut_field_of_view(torch.ones(FINDER_SHAPE), random)
    return change_intensities(image * field, random), brain * field
