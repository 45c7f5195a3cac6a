"""Estimate a head's bias field: the slow changes of brightness that the coils leave.

The field is what smooths out the brain's intensities within three classes (fluid, grey, white
matter), in turns: each voxel's class from the corrected intensities, the field from how much
brighter each voxel is than its class. The idea is Wells et al. 1996 (10.1109/42.511747); nothing
but SciPy is needed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from neurobento.imaging.resampling import resample
from neurobento.preprocessing.brain import Brain

__all__ = ["bias_corrected"]

SMOOTH_MM = 25.0
"""Standard deviation of the smoothing: a coil's field is wider, and no region is as wide."""

ROUNDS = 20

CENTRES = (0.12, 0.45, 0.82)
"""Quantiles of the brain's intensities from which the classes start."""

LARGEST_LOG = 1.5
"""The field stays between exp(-1.5) and exp(1.5), also where it is extrapolated."""

Array = NDArray[np.float32]
Affine = NDArray[np.float64]


def bias_corrected(signal: Array, voxel_to_ras: Affine, brain: Brain) -> Array:
    """Return a scan (see `positive_signal`) without its bias field, on its own grid.

    The brain's mean brightness stays as it was.
    """
    coarse = resample(signal, voxel_to_ras, brain.voxel_to_ras, FINDER_SHAPE)
    field = _log_field(coarse, brain.share > 127)
    fine = resample(field, brain.voxel_to_ras, voxel_to_ras, signal.shape)
    return np.asarray(signal * np.exp(-fine), np.float32)


def _log_field(image: Array, inside: NDArray[np.bool_]) -> Array:
    """Return the field's logarithm everywhere, with a mean of zero in the brain."""
    from scipy.ndimage import gaussian_filter

    inside = inside & (image > 0)
    if not inside.any():
        return np.zeros(image.shape, np.float32)
    logs = np.log(image[inside])
    sigma = SMOOTH_MM / FINDER_VOXEL_MM
    # a share of nothing far from the brain, where the field falls back to zero
    weight = gaussian_filter(inside.astype(np.float32), sigma) + 1e-3
    field = np.zeros(image.shape, np.float32)
    centres = np.quantile(logs, CENTRES)
    for _ in range(ROUNDS):
        corrected = logs - field[inside]
        nearest = np.abs(corrected[:, None] - centres).argmin(axis=1)
        centres = np.array(
            [
                np.median(corrected[nearest == k]) if (nearest == k).any() else centres[k]
                for k in range(len(centres))
            ]
        )
        excess = np.zeros(image.shape, np.float32)
        # fluid is dark, and its voxels are mixtures: they tell little
        excess[inside] = np.where(nearest > 0, corrected - centres[nearest], 0)
        field += gaussian_filter(excess, sigma) / weight
        field -= field[inside].mean()
    return np.clip(field, -LARGEST_LOG, LARGEST_LOG)
