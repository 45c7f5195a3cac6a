"""Segmentations made without AAL, and the AAL regions that have a counterpart in them."""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform

from neurobento.errors import ConfigError

__all__ = ["SCHEMES", "Structure", "Truth", "find_truth", "structures", "truth_dice"]

SCHEMES = {"dkt_subcortical": "dkt", "dlmuse": "muse", "aseg": "aseg"}
"""End of a segmentation's file name -> its column of the table."""


@dataclass(frozen=True)
class Structure:
    """A structure, such as "hippocampus left", that several segmentations have."""

    name: str
    # scheme ("aal", "aseg", "dkt", "muse") -> label values
    values: dict[str, tuple[int, ...]]


@functools.cache
def structures() -> tuple[Structure, ...]:
    """Read data/independent_truth.tsv, which names the sources of its rows."""
    text = (Path(__file__).resolve().parents[1] / "data/independent_truth.tsv").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple(
        Structure(
            f"{row['structure']} {row['side']}",
            {
                scheme: tuple(int(value) for value in row[scheme].split(","))
                for scheme in ("aal", "aseg", "dkt", "muse")
            },
        )
        for row in csv.DictReader(lines, delimiter="\t")
    )


@dataclass(frozen=True, eq=False)
class Truth:
    """An independent segmentation of one scan."""

    # of its label values: "aseg", "dkt" or "muse"
    scheme: str
    # (X, Y, Z) on the scan's own grid
    labels: NDArray[np.int32]
    voxel_to_ras: NDArray[np.float64]


def find_truth(folder: Path, name: str) -> Truth | None:
    """Read the segmentation `NAME_SCHEME.nii.gz` of a scan, if there is one."""
    for suffix, scheme in SCHEMES.items():
        path = folder / f"{name}_{suffix}.nii.gz"
        if path.is_file():
            image = nib.load(path)
            labels = np.asarray(image.dataobj).astype(np.int32)
            return Truth(scheme, labels, np.asarray(image.affine, dtype=np.float64))
    return None


def truth_dice(
    truth: Truth, labels: NDArray[np.uint8], voxel_to_ras: NDArray[np.float64]
) -> dict[str, float]:
    """Return every structure's Dice on the truth's grid, labels by nearest neighbour."""
    there = np.linalg.inv(voxel_to_ras) @ truth.voxel_to_ras
    aal = affine_transform(
        labels, there[:3, :3], there[:3, 3], truth.labels.shape, order=0, mode="constant", cval=0
    )
    found = {}
    for structure in structures():
        a = np.isin(aal, structure.values["aal"])
        b = np.isin(truth.labels, structure.values[truth.scheme])
        if not b.any():
            raise ConfigError(
                subject=structure.name,
                expected=f"labels of the scheme {truth.scheme}",
                found="none of this structure",
                remedy="Name the file after its scheme: " + ", ".join(SCHEMES),
            )
        found[structure.name] = float(2 * (a & b).sum() / (a.sum() + b.sum()))
    return found
