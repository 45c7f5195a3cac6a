"""Bring a head onto the grid on which the brain is found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from neurobento.imaging.resampling import resample

__all__ = ["finder_grid", "finder_image"]

COARSE_MM = 6.0
"""Voxels in which the head is looked for."""

HEAD_SHARE = 0.15
"""A voxel belongs to the head if it has this share of the 98th percentile."""

ABOVE_HEAD_MM = 12.0
"""Room above the crown if the scan is taller than the grid."""

Array = NDArray[np.float32]
Affine = NDArray[np.float64]


def finder_image(signal: Array, voxel_to_ras: Affine) -> tuple[Array, Affine]:
    """Return a head (see `positive_signal`) in [0, 1] on the finder's grid, and the grid's affine.

    The grid has `FINDER_SHAPE` voxels along the world's axes, with the head in it.
    """
    grid = finder_grid(signal, voxel_to_ras)
    return scaled(resample(signal, voxel_to_ras, grid, FINDER_SHAPE)), grid


def finder_grid(signal: Array, voxel_to_ras: Affine) -> Affine:
    """Return the affine of the finder's grid around a head."""
    half = np.array(FINDER_SHAPE) * FINDER_VOXEL_MM / 2
    grid = np.diag([FINDER_VOXEL_MM] * 3 + [1.0])
    grid[:3, 3] = _centre_of_head(signal, voxel_to_ras) - half + FINDER_VOXEL_MM / 2
    return grid


def scaled(image: Array) -> Array:
    """Return an image of a head in [0, 1]: the 99.5th percentile of what is not zero becomes 1."""
    inside = image[image > 0]
    if not len(inside):
        return image
    return np.clip(image / max(float(np.percentile(inside, 99.5)), 1e-12), 0, 1)


def _centre_of_head(signal: Array, voxel_to_ras: Affine) -> NDArray[np.float64]:
    """Return the middle of the head in mm, or a point below the crown if much neck is in it."""
    low, high = _extent(signal.shape, voxel_to_ras)
    count = np.maximum(1, np.ceil((high - low) / COARSE_MM)).astype(int)
    grid = np.diag([COARSE_MM] * 3 + [1.0])
    grid[:3, 3] = (low + high) / 2 - (count - 1) / 2 * COARSE_MM
    x, y, z = (int(n) for n in count)
    coarse = resample(signal, voxel_to_ras, grid, (x, y, z))
    head = _largest_part(coarse)
    if not head.any():
        return np.asarray((low + high) / 2)
    points = np.argwhere(head) * COARSE_MM + grid[:3, 3]
    first, last = np.percentile(points, (0.5, 99.5), axis=0)
    centre = (first + last) / 2
    tallest = FINDER_SHAPE[2] * FINDER_VOXEL_MM - 2 * ABOVE_HEAD_MM
    if last[2] - first[2] > tallest:
        centre[2] = last[2] - tallest / 2
    return np.asarray(centre)


def _largest_part(coarse: Array) -> NDArray[np.bool_]:
    from scipy import ndimage

    inside = coarse[coarse > 0]
    if not len(inside):
        return np.zeros(coarse.shape, bool)
    parts, count = ndimage.label(coarse > HEAD_SHARE * np.percentile(inside, 98))
    if not count:
        return np.zeros(coarse.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _extent(
    shape: tuple[int, ...], voxel_to_ras: Affine
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lowest and the highest corner of a scan in mm."""
    ends = np.array(np.meshgrid(*([-0.5, n - 0.5] for n in shape))).reshape(3, -1)
    corners = voxel_to_ras[:3, :3] @ ends + voxel_to_ras[:3, 3:]
    return corners.min(axis=1), corners.max(axis=1)
