"""Map labels between a scan's grid and the network grid: every step is an invertible affine map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FINDER_SHAPE",
    "FINDER_VOXEL_MM",
    "MAP_BLOCK",
    "MAP_SHAPE",
    "NETWORK_SHAPE",
    "SLICE_SHAPE",
    "Grid",
    "axis_codes",
    "matching_axes",
    "voxel_sizes_mm",
]

NETWORK_SHAPE: tuple[int, int, int] = (91, 122, 123)
"""Voxels of the network grid, RAS order (report A, section 3.4)."""

MAP_BLOCK = 4
MAP_SHAPE: tuple[int, int, int] = (24, 32, 32)
"""Edge of the blocks of the network grid, in voxels, for which a map into an atlas is known, and
their number along each axis; the last ones lie beyond the grid."""

FINDER_SHAPE: tuple[int, int, int] = (96, 96, 96)
FINDER_VOXEL_MM = 2.7
"""The grid on which the brain is found, RAS: 259 mm along each axis hold a head and its neck."""

SLICE_SHAPE: tuple[int, int] = (128, 128)
"""Rows and columns of the network grid of a 2D slice."""

LabelMap = NDArray[np.uint8]
Affine = NDArray[np.float64]


def voxel_sizes_mm(voxel_to_ras: Affine) -> tuple[float, float, float]:
    """Return the edge lengths of a voxel in mm: the norms of the affine's columns.

    >>> voxel_sizes_mm(np.diag([-2.0, 1.0, 0.5, 1.0]))
    (2.0, 1.0, 0.5)
    """
    x, y, z = np.sqrt((np.asarray(voxel_to_ras)[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def axis_codes(voxel_to_ras: Affine) -> str:
    """Return the direction in which each voxel axis grows, such as "RAS" or "LPS".

    >>> axis_codes(np.diag([-1.0, 1.0, 1.0, 1.0]))
    'LAS'
    """
    from nibabel.orientations import aff2axcodes

    return "".join(aff2axcodes(voxel_to_ras))


@dataclass(frozen=True, eq=False)
class Grid:
    """A scan's native voxel grid and the network grid over the same brain.

    Both affines are (4, 4) float64, voxel index -> world RAS in mm, with the image's true origin.
    """

    native_shape: tuple[int, int, int]
    native_voxel_to_ras: Affine
    network_voxel_to_ras: Affine
    network_shape: tuple[int, int, int] = NETWORK_SHAPE

    @property
    def network_from_native(self) -> Affine:
        """The affine, (4, 4) float64, native voxel index -> network voxel index."""
        return np.linalg.inv(self.network_voxel_to_ras) @ self.native_voxel_to_ras

    @property
    def native_from_network(self) -> Affine:
        """The affine, (4, 4) float64, network voxel index -> native voxel index."""
        return np.linalg.inv(self.native_voxel_to_ras) @ self.network_voxel_to_ras

    def restore(self, network_labels: LabelMap) -> LabelMap:
        """Return the labels on the native grid, with smooth borders, background outside."""
        from neurobento.imaging.label_vote import vote

        _require_shape(network_labels, self.network_shape)
        return vote(network_labels, self.network_from_native, self.native_shape)

    def apply(self, native_labels: LabelMap) -> LabelMap:
        """Return the labels on the network grid, by nearest neighbour."""
        _require_shape(native_labels, self.native_shape)
        return _nearest(native_labels, self.native_from_network, self.network_shape)


def _require_shape(labels: LabelMap, shape: tuple[int, int, int]) -> None:
    if labels.shape != shape:
        raise ValueError(f"expected labels of shape {shape}, found {labels.shape}")


def _nearest(source: LabelMap, source_from_target: Affine, shape: tuple[int, int, int]) -> LabelMap:
    """Sample `source` at the voxel nearest to every voxel of a target grid, zero outside."""
    source_axis = matching_axes(source_from_target)
    if source_axis is not None:
        return _nearest_along_axes(source, source_from_target, shape, source_axis)
    from scipy.ndimage import affine_transform

    sampled = affine_transform(
        source,
        source_from_target[:3, :3],
        offset=source_from_target[:3, 3],
        output_shape=shape,
        order=0,
        mode="grid-constant",
        cval=0,
        prefilter=False,
    )
    return np.asarray(sampled, dtype=np.uint8)


def matching_axes(source_from_target: Affine) -> tuple[int, int, int] | None:
    """Return the source axis along each target axis, or None if the grids are tilted."""
    linear = np.abs(source_from_target[:3, :3])
    source_axis = linear.argmax(axis=0)
    rest = linear.copy()
    rest[source_axis, np.arange(3)] = 0
    # Allow a thousandth of a voxel over the longest axis that a scan may have.
    if len(set(source_axis)) < 3 or rest.max() * 512 >= 1e-3:
        return None
    return int(source_axis[0]), int(source_axis[1]), int(source_axis[2])


def _nearest_along_axes(
    source: LabelMap,
    source_from_target: Affine,
    shape: tuple[int, int, int],
    source_axis: tuple[int, int, int],
) -> LabelMap:
    """Sample by three lists of indices, for grids that differ by flips and scales only."""
    aligned = source.transpose(source_axis)
    target = np.zeros(shape, dtype=np.uint8)
    source_index, target_index = [], []
    for axis in range(3):
        row = source_from_target[source_axis[axis]]
        position = row[axis] * np.arange(shape[axis]) + row[3]
        index = np.floor(position + 0.5).astype(np.intp)
        inside = (index >= 0) & (index < aligned.shape[axis])
        source_index.append(index[inside])
        target_index.append(np.flatnonzero(inside))
    target[np.ix_(*target_index)] = aligned[np.ix_(*source_index)]
    return target
