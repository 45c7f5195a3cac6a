"""Bring real heads and their masks onto the finder's grid, for training.

    python -m training.brain.heads SCANS... -o HEADS
    python -m training.brain.heads SCANS... -o HEADS --stripped

Each scan NAME becomes NAME_image.nii.gz and NAME_brain.nii.gz (share of brain in each voxel, 0..1)
in the folder. The mask is deepbet's; with --stripped it is what the scan has left of the head.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurobento.cohort.scans import find_scan_files
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import write_atomically
from neurobento.imaging.geometry import FINDER_SHAPE
from neurobento.imaging.resampling import resample
from neurobento.imaging.scan import Scan, read_scan, scan_name
from neurobento.preprocessing.deepbet_mask import deepbet_mask
from neurobento.preprocessing.finder_grid import finder_image
from neurobento.preprocessing.signal import positive_signal

__all__ = ["Head", "main", "read_heads"]

IMAGE_SUFFIX, BRAIN_SUFFIX = "_image.nii.gz", "_brain.nii.gz"


@dataclass(frozen=True, eq=False)
class Head:
    """A real head on the finder's grid."""

    name: str
    image: Tensor  # (X, Y, Z) float32 in [0, 1]
    brain: Tensor  # (X, Y, Z) float32, the share of brain


def read_heads(folder: Path, names: Sequence[str]) -> list[Head]:
    """Read the heads whose names match one of the patterns; ConfigError if there is none."""
    from fnmatch import fnmatchcase

    found = [path.name.removesuffix(IMAGE_SUFFIX) for path in folder.glob(f"*{IMAGE_SUFFIX}")]
    chosen = sorted(n for n in found if any(fnmatchcase(n, pattern) for pattern in names))
    if not chosen:
        raise ConfigError(
            subject=str(folder),
            expected=f"heads named {', '.join(names)}",
            found=f"{len(found)} others",
            remedy="Make them with `python -m training.brain.heads`.",
        )
    return [
        Head(n, _tensor(folder, n, IMAGE_SUFFIX), _tensor(folder, n, BRAIN_SUFFIX)) for n in chosen
    ]


def _tensor(folder: Path, name: str, suffix: str) -> Tensor:
    values = np.asarray(nib.load(folder / f"{name}{suffix}").dataobj, dtype=np.float32)
    if values.shape != FINDER_SHAPE:
        raise ConfigError(
            subject=name,
            expected=f"an image of {FINDER_SHAPE} voxels",
            found=str(values.shape),
            remedy="Make it again with `python -m training.brain.heads`.",
        )
    return torch.from_numpy(values)


def _save(path: Path, values: NDArray[np.float32], affine: NDArray[np.float64]) -> None:
    import gzip

    image = nib.Nifti1Image(np.rint(values * 255).astype(np.uint8), affine)
    image.header.set_slope_inter(1 / 255, 0.0)
    write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))


def _remains(scan: Scan) -> NDArray[np.bool_]:
    """Return what a scan without skull has, with its holes filled."""
    from scipy.ndimage import binary_fill_holes

    return np.asarray(binary_fill_holes(positive_signal(scan.array) > 0))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m training.brain.heads")
    parser.add_argument("scans", type=Path, nargs="+", help="files or folders")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the heads")
    parser.add_argument("--stripped", action="store_true", help="scans without skull")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    for path in tqdm(find_scan_files(args.scans), unit="scan"):
        name = scan_name(path)
        # the brain is written last
        if (args.output / f"{name}{BRAIN_SUFFIX}").is_file():
            continue
        scan = read_scan(path)
        image, grid = finder_image(positive_signal(scan.array), scan.voxel_to_ras)
        mask = _remains(scan) if args.stripped else deepbet_mask(scan)
        share = resample(mask.astype(np.float32), scan.voxel_to_ras, grid, FINDER_SHAPE)
        _save(args.output / f"{name}{IMAGE_SUFFIX}", image, grid)
        _save(args.output / f"{name}{BRAIN_SUFFIX}", np.clip(share, 0, 1), grid)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.brain.heads"))
