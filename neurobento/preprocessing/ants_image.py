"""State a RAS affine as ANTs and ITK do, whose world axes are LPS; make ANTs images."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["RAS_TO_LPS", "Geometry", "geometry", "to_ants"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""From RAS to LPS world axes; its own inverse."""


class Geometry(NamedTuple):
    """The place of an ITK image in the world: LPS axes, mm."""

    origin: NDArray[np.float64]
    spacing: NDArray[np.float64]
    # (3, 3), a rotation
    direction: NDArray[np.float64]


def geometry(voxel_to_ras: NDArray[np.float64]) -> Geometry:
    """Return an affine's geometry in ITK, which has no shear."""
    spacing = np.array(voxel_sizes_mm(voxel_to_ras))
    u, _, vt = np.linalg.svd(RAS_TO_LPS @ voxel_to_ras[:3, :3] / spacing)
    return Geometry(RAS_TO_LPS @ voxel_to_ras[:3, 3], spacing, u @ vt)


def to_ants(array: NDArray[Any], voxel_to_ras: NDArray[np.float64]) -> Any:
    """Return the ANTs image (float32) of an array (X, Y, Z) of any real type."""
    import ants

    origin, spacing, direction = geometry(voxel_to_ras)
    return ants.from_numpy(
        np.ascontiguousarray(array, dtype=np.float32),
        origin=tuple(origin.tolist()),
        spacing=tuple(spacing.tolist()),
        direction=direction,
    )
