"""Make image and label pairs whose labels a trained model predicts, without registration.

    python -m training.parcellation.distil MODEL SCANS... -o PAIRS --preprocessing stripped

A model's labels are smoother than registration's and take two seconds a scan, also of scans that
nobody has labelled. PAIRS is laid out as by `training.parcellation.label`; atlas positions are
unknown, so networks that learn positions refuse these pairs. A scan whose record still matches is
skipped.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from tqdm import tqdm

from neurobento.backends import Backend, open_backend
from neurobento.cohort.resume import matching_record
from neurobento.command import run
from neurobento.files import file_sha256, write_atomically
from neurobento.imaging.scan import read_scan, scan_name
from neurobento.preprocessing import PREPROCESSINGS, Preprocessing, preprocess
from neurobento.registry import open_model
from neurobento.spec import PREPROCESSING
from training.parcellation.dataset import POSITION_SHAPE
from training.parcellation.label import scan_paths

__all__ = ["main"]

DISTILLING_FORMAT = 1
"""Version of `NAME.json`."""


def _make_pair(scan: Path, folder: Path, backend: Backend, preprocessing: Preprocessing) -> None:
    name = scan_name(scan)
    made_from: dict[str, Any] = {
        "format": DISTILLING_FORMAT,
        "teacher": {"name": backend.spec.name, "onnx_sha256": backend.spec.onnx_sha256},
        "options": {"preprocessing": preprocessing},
        "scan_sha256": file_sha256(scan),
        "preprocessing_version": PREPROCESSING["version"],
    }
    if matching_record(folder / f"{name}.json", made_from) is not None:
        return
    prepared = preprocess(read_scan(scan), preprocessing)
    arrays = {
        "image": prepared.image,
        "labels": backend.infer(prepared.image[None, None])[0],
        "positions": np.full(POSITION_SHAPE, np.nan, np.float32),
    }
    outputs = {}
    for kind, array in arrays.items():
        path = folder / f"{name}_{kind}.nii.gz"
        image = nib.Nifti1Image(array, prepared.grid.network_voxel_to_ras)
        write_atomically(path, gzip.compress(image.to_bytes(), 6, mtime=0))
        outputs[path.name] = file_sha256(path)
    record = json.dumps({**made_from, "name": name, "outputs": outputs}, indent=1)
    write_atomically(folder / f"{name}.json", record.encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m training.parcellation.distil")
    parser.add_argument("model", type=Path, help="folder of the model that teaches")
    parser.add_argument("scans", nargs="+", type=Path, help="scan files, or folders of them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the pairs")
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS[:2], required=True)
    args = parser.parse_args(argv)
    scans = scan_paths(args.scans)
    backend = open_backend(open_model(args.model))
    args.output.mkdir(parents=True, exist_ok=True)
    for scan in tqdm(scans, unit="scan"):
        _make_pair(scan, args.output, backend, args.preprocessing)
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "training.parcellation.distil"))
