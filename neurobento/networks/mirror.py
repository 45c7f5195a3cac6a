"""A detector without training: the difference of a slice from its mirror image.

Heads are never quite symmetric nor upright, so the most similar pixel around the mirror counts.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.anomaly import AnomalyNetwork

__all__ = ["Mirror", "asymmetry", "mean_around", "mirror"]

SMOOTHING = 5
"""Edge in pixels of the squares over which intensities and differences are averaged."""

SHIFTS = (-6, -3, 0, 3, 6)
"""Offsets in pixels, down and to the right, at which a mirror pixel is looked for."""


def mirror() -> Mirror:
    return Mirror()


class Mirror(AnomalyNetwork):
    def forward(self, image: Tensor) -> Tensor:
        return image.flip(-1)

    def error_map(self, image: Tensor) -> Tensor:
        return asymmetry(image)[:, 0]


def asymmetry(image: Tensor) -> Tensor:
    """Return the least difference, in [0, 1], from the pixels around each mirror pixel."""
    smooth = mean_around(image, SMOOTHING)
    most = max(SHIFTS)
    mirrored = F.pad(smooth.flip(-1), (most,) * 4)
    rows, columns = image.shape[-2:]
    least: Tensor | None = None
    for down, right in itertools.product(SHIFTS, SHIFTS):
        top, left = most + down, most + right
        difference = (smooth - mirrored[..., top : top + rows, left : left + columns]).abs()
        least = difference if least is None else torch.minimum(least, difference)
    assert least is not None
    return mean_around(least, SMOOTHING)


def mean_around(image: Tensor, edge: int) -> Tensor:
    """Average over squares of an odd edge, with zeros beyond the image."""
    # one axis after the other: the same result for less work
    rows = F.avg_pool2d(image, (edge, 1), 1, (edge // 2, 0))
    return F.avg_pool2d(rows, (1, edge), 1, (0, edge // 2))
