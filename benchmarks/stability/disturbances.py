"""Disturb a scan in ways that leave the brain as it was: grid, intensities, mask, field of view."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.native_space import space_of
from neurobento.imaging.resampling import resample
from neurobento.imaging.scan import Scan

__all__ = ["CUTS", "DISTURBANCES", "FOR_HEADS", "FOR_STRIPPED", "Disturbance"]

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
Affine = NDArray[np.float64]

Disturbance = Callable[[Scan, Mask, np.random.Generator], Scan]
"""Takes a scan, its brain as found in it, and a source of randomness."""


def _changed(scan: Scan, array: Array) -> Scan:
    return Scan(np.ascontiguousarray(array, np.float32), scan.space)


def _on_grid(scan: Scan, affine: Affine, shape: tuple[int, int, int]) -> Scan:
    array = resample(scan.array, scan.voxel_to_ras, affine, shape)
    return Scan(array, space_of(shape, affine))


def _shift_half_a_voxel(scan: Scan, _: Mask, __: np.random.Generator) -> Scan:
    affine = scan.voxel_to_ras.copy()
    affine[:3, 3] += scan.voxel_to_ras[:3, :3] @ np.full(3, 0.5)
    return _on_grid(scan, affine, scan.shape)


def _tilt(degrees: float, axis: int) -> Disturbance:
    def tilt(scan: Scan, _: Mask, __: np.random.Generator) -> Scan:
        angle = np.deg2rad(degrees)
        turn = np.eye(3)
        a, b = (i for i in range(3) if i != axis)
        turn[[a, a, b, b], [a, b, a, b]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        size = min(scan.voxel_sizes_mm)
        # the tilted grid that holds all corners of the scan
        ends = np.array(np.meshgrid(*([0.0, n - 1.0] for n in scan.shape))).reshape(3, -1)
        corners = turn.T @ (scan.voxel_to_ras[:3, :3] @ ends + scan.voxel_to_ras[:3, 3:])
        low, high = corners.min(axis=1), corners.max(axis=1)
        shape = tuple(int(n) for n in np.ceil((high - low) / size) + 1)
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = turn * size, turn @ low
        return _on_grid(scan, affine, shape)  # type: ignore[arg-type]

    return tilt


def _resampled(*sizes: float) -> Disturbance:
    """Return a disturbance that resamples to voxels of these edges; 0 keeps the scan's own."""

    def resampled(scan: Scan, _: Mask, __: np.random.Generator) -> Scan:
        old = np.array(scan.voxel_sizes_mm)
        new = np.where(np.array(sizes) > 0, sizes, old)
        factor = new / old
        shape = tuple(
            max(1, int(np.ceil(round(n / f, 6)))) for n, f in zip(scan.shape, factor, strict=True)
        )
        step = np.diag([*factor, 1.0])
        step[:3, 3] = (factor - 1) / 2
        return _on_grid(scan, scan.voxel_to_ras @ step, shape)  # type: ignore[arg-type]

    return resampled


def _other_axes(codes: str) -> Disturbance:
    def reorder(scan: Scan, _: Mask, __: np.random.Generator) -> Scan:
        own = nib.io_orientation(scan.voxel_to_ras)
        turn = nib.orientations.ornt_transform(own, nib.orientations.axcodes2ornt(codes))
        array = nib.apply_orientation(scan.array, turn)
        affine = scan.voxel_to_ras @ nib.orientations.inv_ornt_aff(turn, scan.shape)
        return Scan(np.ascontiguousarray(array), space_of(array.shape, affine))

    return reorder


def _bias_field(scan: Scan, _: Mask, random: np.random.Generator) -> Scan:
    """Multiply by a smooth field between about 0.7 and 1.4."""
    from scipy.ndimage import zoom

    nodes = random.uniform(-0.35, 0.35, (3, 3, 3))
    field = zoom(nodes, [n / 3 for n in scan.shape], order=1, grid_mode=True, mode="nearest")
    return _changed(scan, scan.array * np.exp(field))


def _noise(scan: Scan, brain: Mask, random: np.random.Generator) -> Scan:
    """Add noise whose deviation is a twentieth of the brain's 99th percentile."""
    deviation = 0.05 * float(np.percentile(scan.array[brain], 99))
    noisy = np.abs(scan.array + deviation * random.standard_normal(scan.shape, dtype=np.float32))
    # a background that a tool has set stays as it is
    return _changed(scan, np.where(scan.array == 0, 0, noisy))


def _scaled(scan: Scan, _: Mask, __: np.random.Generator) -> Scan:
    return _changed(scan, scan.array * 1000)


def _signed(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    """Standardise in the brain; a background of zero stays zero, as other tools leave it."""
    values = scan.array[brain]
    standardised = (scan.array - values.mean()) / values.std()
    background = np.mean(scan.array == 0) > 0.3
    return _changed(
        scan, np.where(scan.array == 0, 0, standardised) if background else standardised
    )


def _outlier(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    array = scan.array.copy()
    array[tuple(np.argwhere(brain)[brain.sum() // 2])] = 1e6
    return _changed(scan, array)


def _island(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    array = scan.array.copy()
    array[1:3, 1:3, 1:3] = np.median(scan.array[brain])
    return _changed(scan, array)


def _eroded(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    from scipy.ndimage import binary_erosion

    return _changed(scan, np.where(binary_erosion(brain), scan.array, 0))


def _cut_below(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    """Set the lowest 10 mm of the brain, and all below them, to zero."""
    height = _heights(scan)
    return _changed(scan, np.where(height < height[brain].min() + 10, 0, scan.array))


def _without_neck(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    height = _heights(scan)
    return _changed(scan, np.where(height < height[brain].min() - 5, 0, scan.array))


def _without_face(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
    """Set to zero what lies below and before a plane that touches the brain's front."""
    from scipy.ndimage import binary_dilation

    x, y, z = np.indices(scan.shape, sparse=True)
    matrix = scan.voxel_to_ras
    front = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] * z + matrix[1, 3]
    height = _heights(scan)
    middle = (front[brain].max() + front[brain].min()) / 2
    face = (front > middle) & (height - height[brain].mean() < 0.6 * (front - middle) - 35)
    return _changed(scan, np.where(face & ~binary_dilation(brain, iterations=3), 0, scan.array))


def _masked(iterations: int) -> Disturbance:
    """Return a disturbance that takes the skull off by a mask so many voxels larger."""

    def masked(scan: Scan, brain: Mask, _: np.random.Generator) -> Scan:
        from scipy.ndimage import binary_dilation

        return _changed(
            scan, np.where(binary_dilation(brain, iterations=iterations), scan.array, 0)
        )

    return masked


def _heights(scan: Scan) -> NDArray[np.float64]:
    x, y, z = np.indices(scan.shape, sparse=True)
    matrix = scan.voxel_to_ras
    heights = matrix[2, 0] * x + matrix[2, 1] * y + matrix[2, 2] * z + matrix[2, 3]
    return np.asarray(np.broadcast_to(heights, scan.shape))


_ALWAYS: dict[str, Disturbance] = {
    "shifted by half a voxel": _shift_half_a_voxel,
    "tilted by 15 degrees": _tilt(15, 0),
    "tilted by 30 degrees": _tilt(30, 0),
    "tilted by 45 degrees": _tilt(45, 0),
    "tilted by 20 degrees about S": _tilt(20, 2),
    "voxels of 0.7 mm": _resampled(0.7, 0.7, 0.7),
    "voxels of 1 mm": _resampled(1, 1, 1),
    "voxels of 2 mm": _resampled(2, 2, 2),
    "voxels of 3 mm": _resampled(3, 3, 3),
    "slices of 5 mm": _resampled(0, 0, 5),
    "bias field": _bias_field,
    "5 % noise": _noise,
    "10 mm cut off below": _cut_below,
    "scaled by 1000": _scaled,
    "signed": _signed,
    "one voxel of 1e6": _outlier,
    "stray island": _island,
    "axes LIA": _other_axes("LIA"),
    "axes PSR": _other_axes("PSR"),
}

CUTS = frozenset({"10 mm cut off below"})
"""Disturbances that take a part of the brain away."""

FOR_STRIPPED: Mapping[str, Disturbance] = MappingProxyType(
    {**_ALWAYS, "mask eroded by a voxel": _eroded}
)
"""For scans without skull."""

FOR_HEADS: Mapping[str, Disturbance] = MappingProxyType(
    {
        **_ALWAYS,
        "without neck": _without_neck,
        "without face": _without_face,
        "stripped tightly": _masked(1),
        "stripped loosely": _masked(4),
    }
)
"""For heads with skull."""

DISTURBANCES: Mapping[str, Mapping[str, Disturbance]] = MappingProxyType(
    {"full": FOR_HEADS, "stripped": FOR_STRIPPED}
)
"""Preprocessing -> the disturbances that suit it."""
