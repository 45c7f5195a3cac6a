"""Brain masks by deepbet (Fisch et al. 2024, 10.1002/hbm.26565), for training and benchmarks.

deepbet's networks come with its package (PyPI, MIT). They run here as its authors run them.
"""

from __future__ import annotations

import functools
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.extras import naming_extra
from neurobento.imaging.scan import Scan

__all__ = ["deepbet_mask"]


def deepbet_mask(scan: Scan) -> NDArray[np.bool_]:
    """Return deepbet's mask of the brain, (X, Y, Z), on the scan's own grid."""
    image = nib.Nifti1Image(scan.array, scan.voxel_to_ras)
    _, mask, _ = _extraction().run(image)
    return np.asarray(mask.dataobj) > 0


@functools.cache
def _extraction() -> Any:
    with naming_extra("training", "deepbet"):
        from deepbet import BrainExtraction
    return BrainExtraction(no_gpu=True)
