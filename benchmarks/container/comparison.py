"""Compare a service's answers with the outputs of this clone's CLI for the same files."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from neurobento.cli.main import main as cli
from neurobento.client import AnomalyAnswer, Answer
from neurobento.errors import ConfigError
from neurobento.preprocessing.mode import Preprocessing

__all__ = ["compare_scan", "compare_slice", "write_middle_slice"]


def compare_scan(answer: Answer, scan: Path, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return facts about a parcellation, and under `different` what is not the CLI's to the bit."""
    ours = _cli("parcellate", scan, "--preprocessing", preprocessing)
    theirs = nibabel.Nifti1Image.from_bytes(gzip.decompress(answer.dseg))
    mine = nibabel.Nifti1Image.from_bytes(gzip.decompress(ours["dseg.nii.gz"]))
    labels, my_labels = np.asanyarray(theirs.dataobj), np.asanyarray(mine.dataobj)
    same_shape = labels.shape == my_labels.shape
    equal = {
        "shape": same_shape,
        "labels": same_shape and np.array_equal(labels, my_labels),
        "affine": np.array_equal(theirs.affine, mine.affine),
        "volumes": answer.files.get("volumes.tsv") == ours["volumes.tsv"],
        "look-up table": answer.files.get("dseg.tsv") == ours["dseg.tsv"],
    }
    return {
        "shape": list(labels.shape),
        "regions": len(np.unique(labels[labels > 0])),
        "labelled_voxels": int((labels > 0).sum()),
        "voxels_differing": int((labels != my_labels).sum()) if same_shape else None,
        "compared": sorted(equal),
        "different": sorted(name for name, same in equal.items() if not same),
    }


def compare_slice(answer: AnomalyAnswer, image: Path) -> dict[str, Any]:
    """Return the score of a slice, and under `different` what is not the CLI's."""
    ours = _cli("anomaly", image)
    facts = json.loads(ours["anomaly.json"])
    equal = {
        "score": answer.score == facts["score"],
        "threshold": answer.threshold == facts["threshold"],
        "heat map": answer.files.get("heatmap.png") == ours["heatmap.png"],
    }
    return {
        "score": answer.score,
        "threshold": answer.threshold,
        "compared": sorted(equal),
        "different": sorted(name for name, same in equal.items() if not same),
    }


def _cli(command: str, file: Path, *options: str) -> Mapping[str, bytes]:
    """Return the files that the CLI writes, by the endings of their names."""
    with tempfile.TemporaryDirectory() as folder:
        if cli([command, str(file), "-o", folder, *options]):
            raise ConfigError(
                subject=f"neurobento {command}",
                expected="the same files as from the service",
                found="an error",
                remedy="See its message above.",
            )
        return {path.name.rsplit("_", 1)[1]: path.read_bytes() for path in Path(folder).iterdir()}


def write_middle_slice(scan: Path, path: Path) -> None:
    """Write the axial slice half-way up a scan as a grey PNG."""
    from PIL import Image

    head: Any = nibabel.as_closest_canonical(nibabel.load(scan))
    plane = np.rot90(np.asarray(head.dataobj[:, :, head.shape[2] // 2], dtype=np.float64))
    low, high = np.percentile(plane, (0, 99.5))
    grey = ((plane - low) / max(high - low, 1e-9)).clip(0, 1) * 255
    Image.fromarray(grey.round().astype(np.uint8)).save(path)
