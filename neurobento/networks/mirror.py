"""How much a slice differs from its mirror image; it learns nothing.

A healthy head, cut across, is nearly its own mirror image, and few tumours lie in the
middle. Heads are never quite symmetric nor quite upright: every place is compared with
the places around its mirror place, and the most alike of them counts.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor
from torch.nn import functional as F

from neurobento.networks.anomaly import AnomalyNetwork

__all__ = ["Mirror", "asymmetry", "mean_around", "mirror"]

SMOOTHING = 5
"""Edge in pixels of the mean that is compared, and of the mean of the differences."""

SHIFTS = (-6, -3, 0, 3, 6)
"""Pixels, down and to the right: how far from its mirror place one may be found."""


def mirror() -> Mirror:
    """The only one."""
    return Mirror()


class Mirror(AnomalyNetwork):
    """Its error map is the asymmetry."""

    def forward(self, image: Tensor) -> Tensor:
        """What the slice is compared with: its mirror image, (N, 1, 128, 128)."""
        return image.flip(-1)

    def error_map(self, image: Tensor) -> Tensor:
        """The asymmetry, (N, 128, 128)."""
        return asymmetry(image)[:, 0]


def asymmetry(image: Tensor) -> Tensor:
    """The least difference, in [0, 1], to the surroundings of the mirror place.

    Parameters
    ----------
    image
        (N, 1, 128, 128), upright, the head in the middle.

    Returns
    -------
    difference
        (N, 1, 128, 128).
    """
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
    """The mean over squares of an odd edge, zeros beyond the image, (N, C, rows, columns)."""
    # one axis after the other: the same, and less work
    rows = F.avg_pool2d(image, (edge, 1), 1, (edge // 2, 0))
    return F.avg_pool2d(rows, (1, edge), 1, (0, edge // 2))
