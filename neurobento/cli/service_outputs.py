"""Complete a service's answer to the files that the local command writes; needs the core."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from neurobento.client.answers import Answer
from neurobento.errors import ServiceError
from neurobento.imaging.scan import Scan, read_scan
from neurobento.labels import aal116
from neurobento.parcellation.figures import overlay_png
from neurobento.parcellation.volumetry import measure, volumes_tsv

__all__ = ["response_output_files"]

DERIVED_FILES = frozenset({"dseg.tsv", "volumes.tsv", "overlay.png"})


def response_output_files(answer: Answer, name: str, path: Path) -> dict[str, bytes]:
    """Return file name -> content, as `neurobento.parcellation.outputs.output_files` does.

    Over gRPC a service gives labels and mask, in native space, and the run's facts; tables and
    picture are then made here, from the labels and the scan at `path`, by the same code. Raise
    ServiceError if the labels are not on the scan's grid, or of another region table.
    """
    files = dict(answer.files)
    if not files.keys() >= DERIVED_FILES:
        files.update(_derived_files(answer, path))
    return {f"{name}_{ending}": content for ending, content in files.items()}


def _derived_files(answer: Answer, path: Path) -> dict[str, bytes]:
    facts = answer.run
    model = facts.get("model")
    if not isinstance(model, dict) or model.get("region_table_sha256") != aal116().sha256:
        raise _mismatch(
            path, "labels of the region table that is installed here", "labels of another table"
        )
    scan = read_scan(path)
    labels = _read_labels(answer.dseg)
    if labels is None:
        raise _mismatch(path, "uint8 labels as NIfTI", "another format")
    if labels.shape != scan.shape:
        raise _mismatch(path, f"labels on the scan's grid {scan.shape}", f"shape {labels.shape}")
    return {
        "dseg.tsv": aal116().lookup_tsv().encode(),
        "volumes.tsv": _volumes(facts, labels, scan).encode(),
        "overlay.png": overlay_png(scan.array, labels, scan.voxel_to_ras),
        "run.json": (json.dumps(facts, indent=2) + "\n").encode(),
    }


def _volumes(facts: dict[str, Any], labels: NDArray[np.uint8], scan: Scan) -> str:
    given = facts.get("brain_mm3")
    known = given.items() if isinstance(given, dict) else ()
    brain_mm3 = {str(name): mm3 for name, mm3 in known if isinstance(mm3, float)}
    return volumes_tsv(measure(labels, scan.voxel_to_ras), brain_mm3)


def _read_labels(dseg: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None:
    """Return the labels in a gzip NIfTI file; None if it is no such file or not of uint8."""
    try:
        data = gzip.decompress(dseg)
        wide = nib.Nifti2Header.may_contain_header(data)
        image = (nib.Nifti2Image if wide else nib.Nifti1Image).from_bytes(data)
        labels = np.asarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError):
        return None
    return labels if labels.dtype == np.uint8 else None


def _mismatch(path: Path, expected: str, found: str) -> ServiceError:
    return ServiceError(
        subject=str(path),
        expected=expected,
        found=found,
        remedy="Use the same version of neurobento here and in the service.",
    )
