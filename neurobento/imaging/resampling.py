"""Resample images from one grid to another without aliasing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import matching_axes

__all__ = ["resample"]

Array = NDArray[np.float32]
Affine = NDArray[np.float64]


def resample(
    array: NDArray[Any],
    voxel_to_ras: Affine,
    target_voxel_to_ras: Affine,
    target_shape: tuple[int, int, int],
) -> Array:
    """Return an image (X, Y, Z) on another grid, zero outside.

    A voxel of the target is the mean of the source weighted by a triangle as wide as the larger of
    the two voxels: linear interpolation where the target is finer, an average where it is coarser.
    Grids that are tilted against each other are averaged along the source's axes first.
    """
    source_from_target = np.linalg.inv(voxel_to_ras) @ target_voxel_to_ras
    axes = matching_axes(source_from_target)
    if axes is None:
        return _resample_tilted(array, source_from_target, target_shape)
    image = np.asarray(array, np.float32).transpose(axes)
    rows = source_from_target[list(axes)]
    # the axis that shrinks most first, so that the next ones have less to do
    order = sorted(range(3), key=lambda axis: target_shape[axis] / image.shape[axis])
    for axis in order:
        places = rows[axis, axis] * np.arange(target_shape[axis]) + rows[axis, 3]
        image = _along(image, axis, places, abs(float(rows[axis, axis])))
    return np.ascontiguousarray(image)


def _along(image: Array, axis: int, places: NDArray[np.float64], step: float) -> Array:
    """Sample one axis at `places`, in voxels, that lie `step` apart."""
    weights = _weights(places, image.shape[axis], max(1.0, step))
    # leave out what no place sees
    seen = np.flatnonzero(weights.any(axis=0))
    if not len(seen):
        return np.zeros((*image.shape[:axis], len(places), *image.shape[axis + 1 :]), np.float32)
    part = slice(int(seen[0]), int(seen[-1]) + 1)
    before = image[(slice(None),) * axis + (part,)]
    sampled = np.tensordot(weights[:, part], before, axes=(1, axis))
    return np.moveaxis(sampled, 0, axis)


def _weights(places: NDArray[np.float64], size: int, width: float) -> Array:
    """Return the triangle's weight of each of `size` voxels at each place, (P, size).

    They sum to 1 inside the image. Places outside get no weight.
    """
    distance = np.abs(places[:, None] - np.arange(size)[None])
    weights = np.maximum(0.0, 1.0 - distance / width)
    total = weights.sum(axis=1, keepdims=True)
    inside = (places >= -0.5) & (places <= size - 0.5)
    np.divide(weights, total, out=weights, where=total > 0)
    weights[~inside] = 0
    return weights.astype(np.float32)


def _resample_tilted(
    array: NDArray[Any], source_from_target: Affine, target_shape: tuple[int, int, int]
) -> Array:
    from scipy.ndimage import affine_transform

    # the target's voxel in source voxels, along each source axis
    step = np.sqrt((source_from_target[:3, :3] ** 2).sum(axis=1))
    factor = np.maximum(1.0, step / 2)
    image = np.asarray(array, np.float32)
    for axis in range(3):
        if factor[axis] > 1:
            size = image.shape[axis]
            count = int(np.ceil(size / factor[axis]))
            places = (np.arange(count) + 0.5) * factor[axis] - 0.5
            image = _along(image, axis, np.minimum(places, size - 0.5), float(factor[axis]))
    # a voxel of the averaged image starts where its first source voxel starts
    averaged_from_source = np.diag([*(1 / factor), 1.0])
    averaged_from_source[:3, 3] = 0.5 / factor - 0.5
    matrix = averaged_from_source @ source_from_target
    sampled = affine_transform(
        image,
        matrix[:3, :3],
        offset=matrix[:3, 3],
        output_shape=target_shape,
        order=1,
        mode="constant",
        cval=0.0,
        prefilter=False,
    )
    return np.asarray(sampled, np.float32)
