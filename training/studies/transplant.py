"""Turn scans without skull into heads: put their brains into the heads of others.

    python -m training.studies.transplant STRIPPED... --donors HEADS... -o FOLDER

Each scan NAME becomes FOLDER/NAME.nii.gz: its brain, voxel by voxel, with the skull and the face of
a donor around it. The donor, one after the other in order of name, is scaled along the world's axes
until its brain holds the scan's. The scan's grid grows by whole voxels, so that labels of the
scan's brain are labels of the head's.
"""

from __future__ import annotations

import argparse
import gzip
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from neurobento.cohort.scans import find_scan_files
from neurobento.command import run
from neurobento.files import write_atomically
from neurobento.imaging.scan import read_scan, scan_name
from training.parcellation.transplant import read_donors, transplant

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    from tqdm import tqdm

    parser = argparse.ArgumentParser(prog="python -m training.studies.transplant")
    parser.add_argument("scans", type=Path, nargs="+", help="without skull: files or folders")
    parser.add_argument("--donors", type=Path, nargs="+", required=True, help="heads with skull")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the heads")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    donors = read_donors(args.donors)
    for number, path in enumerate(tqdm(find_scan_files(args.scans), unit="scan")):
        donor = donors[number % len(donors)]
        head, affine = transplant(read_scan(path), donor, np.random.default_rng(number))
        top = float(np.percentile(head, 99.99))
        stored = np.rint(np.clip(head / top, 0, 1) * 4095).astype(np.int16)
        whole = nib.Nifti1Image(stored, affine)
        packed = gzip.compress(whole.to_bytes(), 6, mtime=0)
        write_atomically(args.output / f"{scan_name(path)}.nii.gz", packed)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.studies.transplant"))
