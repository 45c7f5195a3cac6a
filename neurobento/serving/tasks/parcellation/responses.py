"""Encode a parcellation for a response: the labels alone, or a zip of all output files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.native_space import space_of
from neurobento.imaging.scan import label_bytes, read_scan
from neurobento.labels import aal116
from neurobento.parcellation.outputs import dseg_bytes, output_files
from neurobento.parcellation.parcellator import Parcellation
from neurobento.serving.http.downloads import FILE_STEM, zip_files

__all__ = ["encode_labels", "encode_outputs"]


def encode_labels(parcellation: Parcellation, space: str) -> bytes:
    """Return the labels as a gzip NIfTI file in "native" or "network" space."""
    if space == "native":
        return dseg_bytes(parcellation)
    network = space_of(NETWORK_SHAPE, parcellation.prepared.grid.network_voxel_to_ras)
    table = aal116().lookup_tsv().encode()
    return label_bytes(parcellation.network_labels, network, extension=table)


def encode_outputs(
    file: Path, parcellation: Parcellation, facts: dict[str, Any], space: str
) -> bytes:
    """Return the output files of the command line as a zip, with the labels in the given space."""
    files = output_files(FILE_STEM, read_scan(file), parcellation, facts)
    if space == "network":
        files[f"{FILE_STEM}_dseg.nii.gz"] = encode_labels(parcellation, "network")
    return zip_files(files)
