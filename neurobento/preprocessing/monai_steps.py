"""Report A's steps 3 to 9, which are transforms of MONAI, in NumPy and SciPy.

The tests hold each image against MONAI's own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import NotABrain
from neurobento.imaging.geometry import NETWORK_SHAPE, voxel_sizes_mm
from neurobento.preprocessing.clock import Clock

__all__ = ["run_monai_steps"]

SPACING_MM = 1.0
AFFINE_TOLERANCE = 1e-3
"""Voxels and affines that differ less are the same to MONAI."""

HISTOGRAM_BINS = 256

Array = NDArray[np.float32]
Affine = NDArray[np.float64]


def run_monai_steps(array: Array, voxel_to_ras: Affine, clock: Clock) -> tuple[Array, Affine]:
    """Return the network's image, in [0, 1], and its affine with the scan's true origin.

    Step 8 moves the origin to the first voxel. The labels have to come back to the scan, so the
    affine keeps the origin, and nothing is left to do.
    """
    with clock("spacing"):
        image, affine = _at_1_mm(array, voxel_to_ras)
    with clock("orientation"):
        image, affine = _in_ras(image, affine)
    with clock("histogram_normalize"):
        image = _equalise(image)
    with clock("scale_intensity"):
        image = _rescale(image, 1)
    with clock("crop_foreground"):
        image, affine = _crop(image, affine)
    with clock("resize"):
        return np.clip(_resize(image), 0, 1), _resized_affine(affine, image.shape)


def _at_1_mm(array: Array, voxel_to_ras: Affine) -> tuple[Array, Affine]:
    """Interpolate linearly on a grid of 1 mm along the scan's axes (Spacing)."""
    from scipy.ndimage import affine_transform

    target, shape = _grid_of_1_mm(array.shape, voxel_to_ras)
    source_from_target = np.linalg.solve(voxel_to_ras, target)
    unchanged = any(
        np.allclose(a, b, atol=AFFINE_TOLERANCE)
        for a, b in ((voxel_to_ras, target), (source_from_target, np.eye(4)))
    )
    if unchanged and shape == array.shape:
        return array, voxel_to_ras
    image = affine_transform(
        array,
        source_from_target[:3, :3],
        offset=source_from_target[:3, 3],
        output_shape=shape,
        output=np.float32,
        order=1,
        mode="nearest",
        prefilter=False,
    )
    return np.asarray(image), voxel_to_ras @ source_from_target


def _grid_of_1_mm(shape: tuple[int, ...], voxel_to_ras: Affine) -> tuple[Affine, tuple[int, ...]]:
    """Return the affine without zoom and shear, and the shape that covers the scan's voxels."""
    # Divide rotation, zoom and shear: the factor of Cholesky is zoom and shear.
    linear = voxel_to_ras[:3, :3]
    rotation = linear @ np.linalg.inv(np.linalg.cholesky(linear.T @ linear).T)
    sizes = np.array(voxel_sizes_mm(voxel_to_ras))
    sizes = np.where(np.abs(sizes - SPACING_MM) <= AFFINE_TOLERANCE, sizes, SPACING_MM)
    target = np.eye(4)
    target[:3, :3] = rotation @ np.diag(sizes)
    # Cover the centres of the scan's outermost voxels.
    ends = np.array(np.meshgrid(*((0.0, n - 1.0) for n in shape), indexing="ij")).reshape(3, -1)
    corners = np.linalg.solve(target, voxel_to_ras) @ np.vstack([ends, np.ones_like(ends[:1])])
    x, y, z = (int(n) for n in np.round(np.ptp(corners[:3], axis=1) + 1))
    # Begin at the scan's first voxel, or share its centre if a shear puts voxels before that one.
    if np.allclose((corners[:3] - corners[:3, :1]).min(axis=1), 0):
        target[:3, 3] = voxel_to_ras[:3, 3]
    else:
        centre = linear @ (np.array(shape) / 2) + voxel_to_ras[:3, 3]
        target[:3, 3] = centre - target[:3, :3] @ (np.array([x, y, z]) / 2)
    return target, (x, y, z)


def _in_ras(array: Array, voxel_to_ras: Affine) -> tuple[Array, Affine]:
    """Flip and permute the axes (Orientation)."""
    from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

    orientation = io_orientation(voxel_to_ras)
    image = np.ascontiguousarray(apply_orientation(array, orientation))
    return image, voxel_to_ras @ inv_ornt_aff(orientation, array.shape)


def _equalise(image: Array) -> Array:
    """Replace each intensity by its place in the cumulative histogram (HistogramNormalize)."""
    counts, edges = np.histogram(image, HISTOGRAM_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    cumulative = _rescale(counts.cumsum().astype(np.float32), 255)
    return np.interp(image, centres, cumulative).astype(np.float32)


def _rescale(values: Array, highest: float) -> Array:
    """Scale values linearly to 0..highest (ScaleIntensity); one value for all becomes 0."""
    low, high = values.min(), values.max()
    if low == high:
        return np.zeros_like(values)
    return np.asarray((values - low) / (high - low) * np.float32(highest))


def _crop(image: Array, voxel_to_ras: Affine) -> tuple[Array, Affine]:
    """Cut the borders without a voxel above zero (CropForeground)."""
    bright = image > 0
    if not bright.any():
        raise NotABrain(
            expected="a brain that is brighter than its background",
            found="one value in all voxels",
            remedy="Check the scan's voxels.",
        )
    first, box = np.eye(4), []
    for axis in range(3):
        places = np.flatnonzero(bright.any(axis=tuple({0, 1, 2} - {axis})))
        first[axis, 3] = places[0]
        box.append(slice(int(places[0]), int(places[-1]) + 1))
    return image[tuple(box)], voxel_to_ras @ first


def _resize(image: Array) -> Array:
    """Average the voxels that a voxel of the network grid touches, along each axis (Resize)."""
    for axis, count in enumerate(NETWORK_SHAPE):
        weights = _touching(image.shape[axis], count)
        image = np.moveaxis(np.tensordot(weights, image, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(image)


def _touching(size: int, count: int) -> Array:
    """Return the weight of each of `size` voxels in each of `count`, (count, size).

    The ends are whole voxels, as in torch's adaptive average pooling.
    """
    weights = np.zeros((count, size), np.float32)
    for place in range(count):
        first, end = place * size // count, -(-(place + 1) * size // count)
        weights[place, first:end] = 1 / (end - first)
    return weights


def _resized_affine(voxel_to_ras: Affine, shape: tuple[int, ...]) -> Affine:
    """Return the affine after step 9, which keeps the field of view: edges align, not centres."""
    factor = np.array(shape) / np.array(NETWORK_SHAPE)
    resize = np.diag([*factor, 1.0])
    resize[:3, 3] = (factor - 1) / 2
    return np.asarray(voxel_to_ras @ resize, dtype=np.float64)
