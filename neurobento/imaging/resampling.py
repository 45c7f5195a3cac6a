"""Resample images from one grid to another without aliasing."""

from __future__ import annotations

import math
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

    Where the target is finer it is interpolated linearly; where it is coarser, the interpolated
    source is averaged. Either way a ramp stays a ramp.
    Grids that are tilted against each other are averaged along the source's axes first.
    """
    source_from_target = np.linalg.inv(voxel_to_ras) @ target_voxel_to_ras
    image, to_memory = _in_memory_order(np.asarray(array, np.float32))
    axes = matching_axes(source_from_target)
    if axes is None:
        return _resample_tilted(image, to_memory @ source_from_target, target_shape)
    # the memory's axis that a target axis runs along
    memory_axis = [int(to_memory[:3, axis].argmax()) for axis in axes]
    # first the axes that shrink most, so that the others have less to do
    for axis in sorted(range(3), key=lambda axis: target_shape[axis] / array.shape[axes[axis]]):
        row = source_from_target[axes[axis]]
        places = row[axis] * np.arange(target_shape[axis]) + row[3]
        image = _along(image, memory_axis[axis], places, abs(float(row[axis])))
    return np.ascontiguousarray(image.transpose(memory_axis))


def _in_memory_order(array: Array) -> tuple[Array, Affine]:
    """Return an image with its axes as they lie in memory, and the affine from its old voxels."""
    order = sorted(range(3), key=lambda axis: -abs(array.strides[axis]))
    to_memory = np.zeros((4, 4))
    to_memory[[0, 1, 2], order] = to_memory[3, 3] = 1
    return array.transpose(order), to_memory


def _along(image: Array, axis: int, places: NDArray[np.float64], step: float) -> Array:
    """Sample one axis at `places`, in voxels, that lie `step` apart."""
    weights = _weights(places, image.shape[axis], step)
    # products that take the image as it lies in memory, without a copy
    if axis == 0:
        flat = weights @ image.reshape(image.shape[0], -1)
        return np.asarray(flat.reshape(len(places), *image.shape[1:]))
    return np.asarray(weights @ image if axis == 1 else image @ weights.T)


def _weights(places: NDArray[np.float64], size: int, step: float) -> Array:
    """Return the weight of each of `size` voxels at each place, (P, size).

    They sum to 1 inside the image. Places outside get no weight.
    """
    distance = places[:, None] - np.arange(size)[None]
    if step <= 1:
        weights = np.maximum(0.0, 1.0 - np.abs(distance))
    else:
        # with the triangle of linear interpolation, a box this wide blurs as much as a triangle
        # of the target's voxels would
        half = math.sqrt(2 * (step**2 - 1)) / 2
        weights = _triangles_integral(distance + half) - _triangles_integral(distance - half)
    total = weights.sum(axis=1, keepdims=True)
    inside = (places >= -0.5) & (places <= size - 0.5)
    np.divide(weights, total, out=weights, where=total > 0)
    weights[~inside] = 0
    return weights.astype(np.float32)


def _triangles_integral(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the integral up to x of the triangle on -1..1 with a height of 1."""
    x = np.clip(x, -1, 1)
    return np.asarray(0.5 + x - np.sign(x) * x**2 / 2)


def _resample_tilted(
    image: Array, source_from_target: Affine, target_shape: tuple[int, int, int]
) -> Array:
    from scipy.ndimage import affine_transform

    # the target's voxel in source voxels, along each source axis
    step = np.sqrt((source_from_target[:3, :3] ** 2).sum(axis=1))
    # averaging and interpolating so far apart blur as much as on straight grids
    factor = np.maximum(1.0, step / math.sqrt(2))
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
        mode="grid-constant",
        cval=0.0,
        prefilter=False,
    )
    return np.asarray(sampled, np.float32)
