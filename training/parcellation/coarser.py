"""The same scan as it would have been recorded in larger voxels or in thick slices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.native_space import space_of
from neurobento.imaging.resampling import resample
from neurobento.imaging.scan import Scan

__all__ = ["KINDS", "coarser"]

KINDS = ("iso", "thick")
"""Large voxels, and slices that are thick along one axis of the scan."""

ISO_MM, THICK_MM = (1.5, 3.2), (3.0, 6.0)
"""Edges of the voxels, and thickness of the slices."""


def coarser(scan: Scan, kind: str, random: np.random.Generator) -> Scan:
    """Return a scan on a coarser grid, of a random size and shift, over the same world."""
    old = np.array(scan.voxel_sizes_mm)
    new = old.copy()
    if kind == "iso":
        new = np.maximum(old, random.uniform(*ISO_MM))
    else:
        axis = random.integers(3)
        new[axis] = max(old[axis], random.uniform(*THICK_MM))
    factor = new / old
    shape = tuple(
        max(1, int(np.ceil(round(n / f, 6)))) for n, f in zip(scan.shape, factor, strict=True)
    )
    step: NDArray[np.float64] = np.diag([*factor, 1.0])
    # a part of a voxel further, along the axes that get coarser
    step[:3, 3] = (factor - 1) / 2 + random.uniform(-0.5, 0.5, 3) * factor * (factor > 1)
    affine = scan.voxel_to_ras @ step
    array = resample(scan.array, scan.voxel_to_ras, affine, shape)  # type: ignore[arg-type]
    return Scan(array, space_of(array.shape, affine))
