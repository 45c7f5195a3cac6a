"""Compute Dice scores as report A defines them, and summarise scores over scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.labels import CLASS_COUNT

__all__ = ["Summary", "class_dice", "mean_dice", "summarise"]


def class_dice(
    predicted: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int = CLASS_COUNT
) -> NDArray[np.float64]:
    """Return the Dice of every class, (C,) float64; NaN if neither map has the class.

    The score is 2 |A and B| / (|A| + |B|), report A's equation 4.1.

    >>> class_dice(np.array([0, 1, 1], np.uint8), np.array([0, 0, 1], np.uint8), 3).round(3)
    array([0.667, 0.667,   nan])
    """
    a, b = predicted.ravel(), reference.ravel()
    both = np.bincount(a[a == b], minlength=classes)
    total = np.bincount(a, minlength=classes) + np.bincount(b, minlength=classes)
    dice = np.full(classes, np.nan)
    np.divide(2.0 * both, total, out=dice, where=total > 0)
    return dice


def mean_dice(predicted: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the mean Dice over the classes present in either map, background included."""
    return float(np.nanmean(class_dice(predicted, reference)))


@dataclass(frozen=True)
class Summary:
    """The mean and spread of scores over several scans."""

    mean: float
    # The sample's standard deviation (n - 1).
    sd: float
    # The 95 % confidence interval of the mean, from Student's t.
    low: float
    high: float
    # Number of scans.
    count: int


def summarise(scores: Sequence[float]) -> Summary:
    """Return the summary of scores; the deviation and interval need at least two."""
    from scipy.stats import t

    values = np.asarray(scores, dtype=np.float64)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Summary(mean, float("nan"), float("nan"), float("nan"), count)
    sd = float(values.std(ddof=1))
    half = float(t.ppf(0.975, count - 1)) * sd / count**0.5
    return Summary(mean, sd, mean - half, mean + half, count)
