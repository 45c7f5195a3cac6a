"""Measure the regions' volumes, compare the two sides, and flag implausible values."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from neurobento.labels import CLASS_COUNT, Region, aal116

__all__ = ["BRAIN_RANGE_ML", "Flag", "RegionVolume", "brain_warnings", "measure", "volumes_tsv"]

Flag = Literal["ok", "missing", "small", "large"]

# Plausible total of all regions; the rest of a brain, mostly white matter, has no label. Brains of
# adults measure 950 to 1,700 ml (Allen et al., Am J Phys Anthropol 2002); the bounds leave room
# for children and for the way AAL is drawn.
BRAIN_RANGE_ML = (500.0, 2000.0)

# A region is flagged beyond this many standard deviations from the training labels' mean share
PLAUSIBLE_SD = 4.0


@dataclass(frozen=True)
class RegionVolume:
    """One region of one parcellation."""

    region: Region
    voxels: int  # on the scan's own grid
    volume_mm3: float
    share_percent: float  # of all labelled voxels
    # 100 (left - right) / mean of both; None on the midline, or if both sides are missing
    asymmetry_percent: float | None
    # "missing" without a voxel; "small" or "large" beyond `PLAUSIBLE_SD`
    flag: Flag


def measure(
    labels: NDArray[np.uint8], voxel_to_ras: NDArray[np.float64]
) -> tuple[RegionVolume, ...]:
    """Return the volumes of all 116 regions on the scan's own grid, in order of class index."""
    # the determinant is the volume of a voxel
    voxel_mm3 = abs(float(np.linalg.det(voxel_to_ras[:3, :3])))
    # plane by plane: counting takes eight bytes for each label
    counts = np.zeros(CLASS_COUNT, np.int64)
    for plane in labels:
        counts += np.bincount(plane.ravel(), minlength=CLASS_COUNT)
    total = int(counts[1:].sum())
    return tuple(_measure_region(region, counts, total, voxel_mm3) for region in aal116())


def _measure_region(
    region: Region, counts: NDArray[np.int64], total: int, voxel_mm3: float
) -> RegionVolume:
    voxels = int(counts[region.class_index])
    share = 100 * voxels / total if total else 0.0
    return RegionVolume(
        region=region,
        voxels=voxels,
        volume_mm3=voxels * voxel_mm3,
        share_percent=share,
        asymmetry_percent=_asymmetry(region, counts),
        flag=_flag(region, voxels, share),
    )


def _asymmetry(region: Region, counts: NDArray[np.int64]) -> float | None:
    opposite = aal116().opposite(region)
    if opposite is None:
        return None
    pair = sorted((region, opposite), key=lambda r: r.side)
    left, right = (int(counts[r.class_index]) for r in pair)
    return 200 * (left - right) / (left + right) if left + right else None


def _flag(region: Region, voxels: int, share_percent: float) -> Flag:
    if voxels == 0:
        return "missing"
    mean, sd = _reference_shares()[region.class_index]
    if share_percent < mean - PLAUSIBLE_SD * sd:
        return "small"
    return "large" if share_percent > mean + PLAUSIBLE_SD * sd else "ok"


@functools.cache
def _reference_shares() -> dict[int, tuple[float, float]]:
    """Return class index -> mean and SD of the region's share in percent of the training labels."""
    text = resources.files("neurobento").joinpath("data/region_shares.tsv").read_text()
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    return {
        int(row["class_index"]): (float(row["mean_percent"]), float(row["sd_percent"]))
        for row in rows
    }


def brain_warnings(volumes: Sequence[RegionVolume]) -> list[str]:
    """Return sentences about implausible volumes; none if all are plausible."""
    warnings = []
    total_ml = sum(v.volume_mm3 for v in volumes) / 1000
    low, high = BRAIN_RANGE_ML
    if not low <= total_ml <= high:
        warnings.append(
            f"the regions add up to {total_ml:.0f} ml, outside {low:.0f} to {high:.0f} ml: "
            "check the preprocessing level and look at the overlay"
        )
    for flag in ("missing", "small", "large"):
        names = [v.region.name for v in volumes if v.flag == flag]
        if names:
            warnings.append(f"{len(names)} region(s) {flag}: {', '.join(names)}")
    return warnings


def volumes_tsv(
    volumes: Sequence[RegionVolume], brain_mm3: Mapping[str, float] | None = None
) -> str:
    """Return the volumes as tab-separated text, one line a region.

    The whole's volumes, by name, come last if they are known; their index is "n/a".
    """
    lines = [
        "index\tname\tside\tlobe\tvoxels\tvolume_mm3\tshare_percent\tasymmetry_percent\tplausibility"
    ]
    for v in volumes:
        asymmetry = "n/a" if v.asymmetry_percent is None else f"{v.asymmetry_percent:.2f}"
        lines.append(
            f"{v.region.class_index}\t{v.region.name}\t{v.region.side}\t{v.region.lobe}\t"
            f"{v.voxels}\t{v.volume_mm3:.1f}\t{v.share_percent:.4f}\t{asymmetry}\t{v.flag}"
        )
    for name, mm3 in (brain_mm3 or {}).items():
        lines.append("\t".join(["n/a", name, "n/a", "n/a", "n/a", f"{mm3:.1f}", *["n/a"] * 3]))
    return "\n".join(lines) + "\n"
