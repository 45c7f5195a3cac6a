"""Axial slices of a scan in any orientation, as pictures of a head seen from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["AxialSlices", "axial_slices"]


@dataclass(frozen=True, eq=False)
class AxialSlices:
    """The slices of a scan's own grid that are most nearly axial."""

    axis: int  # voxel axis between feet and head
    count: int
    thickness_mm: float  # distance from one slice to the next
    pixel_mm: tuple[float, float]  # height and width
    order: tuple[int, int, int]  # voxel axes that run right, anterior and superior
    signs: tuple[int, int, int]  # 1 if such an axis grows in that direction, else -1

    def view(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a view (slices, rows, columns) of the array: lowest first, nose up, left left."""
        right, anterior, superior = (slice(None, None, sign) for sign in self.signs)
        turned = array.transpose(self.order)[right, anterior, superior]
        return turned.transpose(2, 1, 0)[:, ::-1]

    def native_index(self, number: int) -> int:
        """Return the index along the scan's axis of a slice counted from the lowest, or back."""
        return number if self.signs[2] > 0 else self.count - 1 - number


def axial_slices(shape: tuple[int, int, int], voxel_to_ras: NDArray[np.float64]) -> AxialSlices:
    """Return the axial slices of a grid (X, Y, Z) with its affine from voxels to RAS mm."""
    from nibabel.orientations import io_orientation

    orientation = io_orientation(voxel_to_ras).astype(int)
    right, anterior, superior = (int(axis) for axis in np.argsort(orientation[:, 0]))
    sizes = voxel_sizes_mm(voxel_to_ras)
    return AxialSlices(
        axis=superior,
        count=shape[superior],
        thickness_mm=sizes[superior],
        pixel_mm=(sizes[anterior], sizes[right]),
        order=(right, anterior, superior),
        signs=(
            int(orientation[right, 1]),
            int(orientation[anterior, 1]),
            int(orientation[superior, 1]),
        ),
    )
