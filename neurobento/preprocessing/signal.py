"""Tell a scan's signal from its background, whatever its scale and sign."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["positive_signal"]

LEAST_CONSTANT_SHARE = 0.1
"""Share of voxels with one value from which that value is a background that a tool has set."""

LEAST_CORNER_SHARE = 0.5
"""Share of the volume's edges that have that value."""

LEAST_NEGATIVE_SHARE = 0.02
"""Share of the other voxels below the background from which they are signal, not ringing."""

Array = NDArray[np.float32]


def positive_signal(array: Array) -> Array:
    """Return the scan with its background at zero and all signal above it.

    A scan without skull may be standardised, so that half the brain lies below its background of
    zero; the brain is what differs from that value. Other scans have noise as background, and their
    darkest part becomes zero. A few voxels below the background of a tool are ringing and become
    zero too. The brightest thousandth may be outliers and is cut off; so is the darkest, unless it
    is the background.
    """
    background = _constant_background(array)
    if background is None:
        low, high = _percentiles(array, 0.1, 99.9)
        return _clipped(array, low, high)
    signal = array != background
    values = array[signal]
    if not len(values):
        return np.zeros_like(array)
    low, high = _percentiles(values, 0.1, 99.9)
    if np.mean(values < background) < LEAST_NEGATIVE_SHARE:
        return _clipped(array, background, high)
    # keep the darkest brain apart from the background
    floor = low - 0.02 * (high - low)
    shifted = np.clip(array, low, high) - floor
    return np.where(signal, shifted, 0).astype(np.float32)


def _constant_background(array: Array) -> float | None:
    """Return the value that a tool has set outside the brain or head, or None."""
    # it fills the borders of the volume; any of its corners will do
    corners = array[:: max(1, array.shape[0] - 1), :: max(1, array.shape[1] - 1)].ravel()
    values, counts = np.unique(corners, return_counts=True)
    candidate = values[counts.argmax()]
    # noise in integers has a most frequent value too, but not in every corner
    if counts.max() < LEAST_CORNER_SHARE * counts.sum():
        return None
    share = float(np.mean(array == candidate))
    return float(candidate) if share >= LEAST_CONSTANT_SHARE else None


def _clipped(array: Array, low: float, high: float) -> Array:
    """Return the values above `low`, at most `high`, as a new array."""
    signal = np.subtract(array, low, dtype=np.float32)
    return np.clip(signal, 0, max(high - low, 0), out=signal)


def _percentiles(values: Array, low: float, high: float) -> tuple[float, float]:
    # every n-th of many values: percentiles of a million are exact enough
    step = max(1, values.size // 1_000_000)
    a, b = np.percentile(values.ravel(order="K")[::step], (low, high))
    return float(a), float(b)
