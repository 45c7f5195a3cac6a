"""The voxel grid of a scan, with a header for images that are written onto it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["NativeSpace", "disagreeing_sizes", "geometry_warnings", "native_space", "space_of"]

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


SIZES_DISAGREE = 0.01
"""Share by which two statements of a voxel's size must differ to be told."""


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


def disagreeing_sizes(
    header: Any, voxel_to_ras: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return a voxel's edges by the sform and by pixdim in mm, (3,) each, or None if they agree.

    pixdim scales the qform. Sizes that are not positive say nothing.
    """
    if not isinstance(header, nib.Nifti1Header) or not header["sform_code"]:
        return None
    used = np.array(voxel_sizes_mm(voxel_to_ras))
    stated = np.array(header["pixdim"][1:4], np.float64)
    if not (np.isfinite(stated) & (stated > 0)).all():
        return None
    agree = np.abs(np.log(used / stated)) <= SIZES_DISAGREE
    return None if agree.all() else (used, stated)


def geometry_warnings(space: NativeSpace) -> list[str]:
    """Return a sentence if the scan's header contradicts itself about the size of its voxels."""
    sizes = disagreeing_sizes(space.header, space.voxel_to_ras)
    if sizes is None:
        return []
    by_sform, by_pixdim = (" x ".join(f"{edge:.4g}" for edge in each) for each in sizes)
    return [
        f"the header's sform says voxels of {by_sform} mm, its qform and pixdim {by_pixdim} mm: "
        "the sform was used, and all volumes depend on it"
    ]


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
