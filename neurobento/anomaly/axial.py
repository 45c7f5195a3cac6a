"""A scan cut into axial slices, as pictures of a head seen from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["AxialSlices", "axial_slices"]


@dataclass(frozen=True, eq=False)
class AxialSlices:
    """The way between a scan's own array and its slices from feet to head.

    The slices are those of the scan's own grid, so an oblique scan's are as oblique.

    Attributes
    ----------
    axis
        The voxel axis that runs between feet and head, most nearly.
    count
        Slices, 0 the lowest.
    thickness_mm
        From one slice to the next.
    pixel_mm
        Height and width of a pixel.
    order
        The voxel axes that run right, anterior and superior, most nearly.
    signs
        Whether each of these grows that way, 1, or the other, -1.
    """

    axis: int
    count: int
    thickness_mm: float
    pixel_mm: tuple[float, float]
    order: tuple[int, int, int]
    signs: tuple[int, int, int]

    def view(self, array: NDArray[np.float32]) -> NDArray[np.float32]:
        """An array of the scan's shape as (count, rows, columns) from the lowest slice on.

        The nose is up and the subject's left is on the left. It is a view: what is written
        to it is written to the array.
        """
        right, anterior, superior = (slice(None, None, sign) for sign in self.signs)
        turned = array.transpose(self.order)[right, anterior, superior]
        return turned.transpose(2, 1, 0)[:, ::-1]

    def native_index(self, number: int) -> int:
        """Where along the scan's own axis the slice of a number lies; its own inverse."""
        return number if self.signs[2] > 0 else self.count - 1 - number


def axial_slices(shape: tuple[int, int, int], voxel_to_ras: NDArray[np.float64]) -> AxialSlices:
    """The axial slices of a grid.

    Parameters
    ----------
    shape
        Voxels, (X, Y, Z), in any orientation.
    voxel_to_ras
        (4, 4), voxel index -> world RAS in mm.
    """
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
