"""Scores of label maps against others, scan by scan: Dice and surface distance."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.dice import class_dice, summarise
from neurobento.labels import CLASS_COUNT, aal116

__all__ = ["Labels", "Scores", "hd95", "score_labels"]

Labels = NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Dice of several scans."""

    names: tuple[str, ...]
    # (scans, 117); NaN where a label is in neither map
    dice: NDArray[np.float64]

    @property
    def per_scan(self) -> NDArray[np.float64]:
        """The mean over the labels present in either map, (scans,)."""
        return np.asarray(np.nanmean(self.dice, axis=1))

    def as_dict(self) -> dict[str, Any]:
        """Return summary and scans for JSON, Dice rounded to 4 places."""
        summary = dataclasses.asdict(summarise(self.per_scan.tolist()))
        return {
            "summary": {k: _rounded(v) for k, v in summary.items()},
            "scans": {
                n: round(float(d), 4) for n, d in zip(self.names, self.per_scan, strict=True)
            },
            "regions_never_predicted": self.never_predicted(),
        }

    def never_predicted(self) -> list[str]:
        """Return the regions whose Dice is zero on every scan."""
        present = np.asarray(np.isfinite(self.dice).any(axis=0))
        found = np.asarray(np.nansum(self.dice, axis=0) > 0)
        return [r.name for r in aal116() if present[r.class_index] and not found[r.class_index]]


def _rounded(value: float) -> float | None:
    """Round to four places; JSON has no NaN, and one scan has no spread."""
    return round(value, 4) if np.isfinite(value) else None


def score_labels(
    names: Sequence[str], predicted: Sequence[Labels], reference: Sequence[Labels]
) -> Scores:
    """Score predicted labels, each (X, Y, Z) uint8, against a reference's by Dice."""
    rows = [class_dice(a, b) for a, b in zip(predicted, reference, strict=True)]
    return Scores(tuple(names), np.stack(rows))


def hd95(predicted: Labels, reference: Labels, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Return the 95th percentile of each region's surface distances, (117,) float64, mm.

    As MONAI's `compute_hausdorff_distance`; infinite where one map lacks the region, NaN where both
    do.
    """
    import torch
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from scipy.ndimage import find_objects

    found = np.full(CLASS_COUNT, np.nan)
    boxes = find_objects(predicted, CLASS_COUNT - 1), find_objects(reference, CLASS_COUNT - 1)
    for index, (a, b) in enumerate(zip(*boxes, strict=True), start=1):
        if a is None and b is None:
            continue
        if a is None or b is None:
            found[index] = np.inf
            continue
        box = tuple(
            slice(min(i.start, j.start), max(i.stop, j.stop)) for i, j in zip(a, b, strict=True)
        )
        pair = [
            torch.from_numpy(m[box] == index)[None, None].float() for m in (predicted, reference)
        ]
        distance = compute_hausdorff_distance(
            *pair, include_background=True, percentile=95, spacing=list(map(float, spacing_mm))
        )
        found[index] = float(distance)
    return found
