"""The voxel grid of a scan, with a header for images that are written onto it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["NativeSpace", "native_space", "space_of"]

QFORM_FIELDS = (
    "qform_code",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
)
SFORM_FIELDS = ("sform_code", "srow_x", "srow_y", "srow_z")


@dataclass(frozen=True, eq=False)
class NativeSpace:
    """The voxel grid of a scan as its file states it."""

    # Voxels, (X, Y, Z).
    shape: tuple[int, int, int]
    # (4, 4), voxel index -> world RAS in mm.
    voxel_to_ras: NDArray[np.float64]
    # Holds the geometry fields only: no name, date or description of the input.
    header: nib.Nifti1Header


def native_space(
    header: Any, shape: tuple[int, int, int], voxel_to_ras: NDArray[np.float64]
) -> NativeSpace:
    """Return the grid with a new header of the geometry fields, without an impossible qform."""
    if not isinstance(header, nib.Nifti1Header):
        return space_of(shape, voxel_to_ras)
    clean = nib.Nifti2Header() if isinstance(header, nib.Nifti2Header) else nib.Nifti1Header()
    clean.set_data_shape(shape)
    clean["pixdim"][:4] = header["pixdim"][:4]
    for field in (*QFORM_FIELDS, *SFORM_FIELDS):
        clean[field] = header[field]
    clean.set_xyzt_units("mm")
    if not _has_usable_qform(clean):
        for field in QFORM_FIELDS:
            clean[field] = 0
        clean["pixdim"][:4] = 1, *voxel_sizes_mm(voxel_to_ras)
    return NativeSpace(shape, voxel_to_ras, clean)


def _has_usable_qform(header: Any) -> bool:
    try:
        with np.errstate(all="ignore"):
            return bool(np.isfinite(header.get_qform()).all() and (header["pixdim"][1:4] > 0).all())
    except (HeaderDataError, ValueError):
        return False


def space_of(shape: tuple[int, int, int], voxel_to_ras: NDArray[np.float64]) -> NativeSpace:
    """Return the grid of an affine without a NIfTI header; NIfTI stores it as float32."""
    header = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_qform(voxel_to_ras, code=1)
    header.set_sform(voxel_to_ras, code=1)
    header.set_xyzt_units("mm")
    return NativeSpace(shape, voxel_to_ras, header)
