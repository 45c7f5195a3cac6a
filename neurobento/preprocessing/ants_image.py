"""Turn arrays with a RAS affine into ANTs images, whose world axes are LPS."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["RAS_TO_LPS", "to_ants"]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
"""From RAS to LPS world axes; its own inverse."""


def to_ants(array: NDArray[Any], voxel_to_ras: NDArray[np.float64]) -> Any:
    """Return the ANTs image (float32) of an array (X, Y, Z) of any real type."""
    import ants

    spacing = voxel_sizes_mm(voxel_to_ras)
    direction = RAS_TO_LPS @ voxel_to_ras[:3, :3] / spacing
    # An ANTs direction is a rotation, so the shear is dropped.
    u, _, vt = np.linalg.svd(direction)
    return ants.from_numpy(
        np.ascontiguousarray(array, dtype=np.float32),
        origin=tuple(float(v) for v in RAS_TO_LPS @ voxel_to_ras[:3, 3]),
        spacing=spacing,
        direction=u @ vt,
    )
