"""Measure how our preprocessing and labels agree with others' of the same scans.

    python -m training.studies.compare_reference PAIRS REFERENCE -o results/reference/reference.json

REFERENCE holds NAME.npz with `image`, `label` and the true `affine` of the network grid. For every
NAME in both: Pearson correlation inside the reference's brain, the largest distance in mm between
corresponding corners of the grids, and the mean Dice of the labels.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.command import run
from neurobento.dice import mean_dice
from neurobento.errors import ConfigError
from neurobento.imaging.geometry import NETWORK_SHAPE

__all__ = ["compare", "corner_distance_mm", "main"]


def corner_distance_mm(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the largest distance between corresponding corners of two network grids."""
    ends = [(0, n - 1) for n in NETWORK_SHAPE]
    corners = np.array([[*corner, 1] for corner in itertools.product(*ends)]).T
    return float(np.linalg.norm(((first - second) @ corners)[:3], axis=0).max())


def compare(pair: Path, name: str, reference: Path) -> dict[str, float]:
    """Return correlation, distance and Dice of one scan."""
    image = nib.load(pair / f"{name}_image.nii.gz")
    labels = np.asarray(nib.load(pair / f"{name}_labels.nii.gz").dataobj)
    with np.load(reference) as theirs:
        their_image = theirs["image"].astype(np.float32)
        inside = their_image > 0
        ours = image.get_fdata(dtype=np.float32)
        return {
            "correlation": round(float(np.corrcoef(ours[inside], their_image[inside])[0, 1]), 4),
            "corner_distance_mm": round(corner_distance_mm(image.affine, theirs["affine"]), 3),
            "label_dice": round(mean_dice(labels, theirs["label"]), 4),
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.studies.compare_reference")
    parser.add_argument("pairs", type=Path, help="folder of training.parcellation.label")
    parser.add_argument("reference", type=Path, help="folder of NAME.npz")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    paths = sorted(args.reference.glob("*.npz"))
    scans = {
        path.stem: compare(args.pairs, path.stem, path)
        for path in paths
        if (args.pairs / f"{path.stem}_image.nii.gz").is_file()
    }
    if not scans:
        raise ConfigError(
            subject=str(args.reference),
            expected="NAME.npz of scans that are in PAIRS",
            found="none",
            remedy="Label those scans first with `python -m training.parcellation.label`.",
        )
    dice = float(np.mean([values["label_dice"] for values in scans.values()]))
    result = {"scans": scans, "mean_label_dice": round(dice, 4)}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.compare_reference"))
