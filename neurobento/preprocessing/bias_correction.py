"""Step 2: N4 bias field correction with ANTsPy, inside the brain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurobento.preprocessing.ants_image import to_ants

__all__ = ["correct_bias"]

SHRINK_FACTOR = 4
"""The field is estimated on every fourth voxel (N4's and ANTsPy's default)."""


def correct_bias(
    array: NDArray[np.float32], brain: NDArray[np.bool_], voxel_to_ras: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The scan divided by its bias field, zero outside the brain.

    The field is estimated inside the mask only (Tustison et al., "N4ITK",
    IEEE Trans Med Imaging 2010): air and skull would pull it away.

    Parameters
    ----------
    array
        (X, Y, Z) float32, zero outside the brain.
    brain
        Mask of the same shape.
    voxel_to_ras
        (4, 4), voxel index -> world RAS in mm.
    """
    import ants

    corrected = ants.n4_bias_field_correction(
        to_ants(array, voxel_to_ras),
        mask=to_ants(brain, voxel_to_ras),
        shrink_factor=SHRINK_FACTOR,
    ).numpy()
    return np.where(brain & np.isfinite(corrected), corrected, 0).astype(np.float32)
