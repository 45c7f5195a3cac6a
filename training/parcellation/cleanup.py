"""The clean-up of registered labels before a network learns from them.

`report` is report A's opening with a 3 x 3 x 3 element, which removes thin regions whole. `gentle`
gives islands to the nearest region. `none` leaves the labels as registration made them.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["CLEANUPS", "Cleanup", "clean_up"]

Cleanup = Literal["gentle", "report", "none"]
CLEANUPS: tuple[Cleanup, ...] = get_args(Cleanup)

ISLAND_SHARE = 0.1
"""A piece smaller than this share of its region's largest piece is an island."""

CUBE = np.ones((3, 3, 3), dtype=bool)

Labels = NDArray[np.uint8]


def clean_up(labels: Labels, how: Cleanup) -> Labels:
    """Return labels (X, Y, Z) uint8 after a clean-up; 0 is background."""
    if how == "none":
        return labels.copy()
    return open_each_label(labels) if how == "report" else drop_islands(labels)


def open_each_label(labels: Labels) -> Labels:
    """Erode every label, then dilate it by the same cube; lost voxels become background."""
    opened = np.zeros_like(labels)
    for index, box in _boxes(labels):
        kept = ndimage.binary_opening(labels[box] == index, structure=CUBE)
        opened[box][kept] = index
    return opened


def drop_islands(labels: Labels) -> Labels:
    """Assign all pieces of a region but the largest to the nearest other label."""
    islands = np.zeros(labels.shape, dtype=bool)
    for index, box in _boxes(labels):
        pieces, count = ndimage.label(labels[box] == index, structure=CUBE)
        if count > 1:
            sizes = np.bincount(pieces.ravel())[1:]
            small = np.flatnonzero(sizes < ISLAND_SHARE * sizes.max()) + 1
            islands[box] |= np.isin(pieces, small)
    if not islands.any():
        return labels.copy()
    nearest = ndimage.distance_transform_edt(islands, return_distances=False, return_indices=True)
    return np.asarray(labels[tuple(nearest)], dtype=np.uint8)


def _boxes(labels: Labels) -> list[tuple[int, tuple[slice, ...]]]:
    """Return each label present and its bounding box, with a margin of a voxel inside the grid."""
    boxes = []
    for index, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is not None:
            boxes.append((index, tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)))
    return boxes
