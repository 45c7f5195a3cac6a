"""Check the orientation, voxel sizes and field of view that a header states."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from neurobento.errors import BadAffine, BadFieldOfView, BadVoxelSize, MissingOrientation
from neurobento.imaging.geometry import voxel_sizes_mm
from neurobento.imaging.limits import ScanLimits
from neurobento.imaging.native_space import disagreeing_sizes

__all__ = ["check_field_of_view", "checked_affine", "require_orientation"]

XFORM_CODES = range(6)
"""The qform and sform codes of the NIfTI standard; 0 means that there is none."""


def require_orientation(header: Any, head: bytes) -> None:
    """Refuse a header, parsed from `head`, that does not say where left is."""
    if isinstance(header, nib.Nifti1Header):
        codes = int(header["qform_code"]), int(header["sform_code"])
        # nibabel reads an unknown code as 0, FSL as 1, so neither reading is safe.
        stated = any(codes) and all(code in XFORM_CODES for code in codes)
        # NIfTI-1 reads a qfac of 0 as 1; nibabel does so only when it loads a file.
        if header["pixdim"][0] == 0:
            header["pixdim"][0] = 1
    else:
        # nibabel replaces MGH's goodRASFlag and the directions while it parses.
        stated = head[28:30] != b"\0\0"
    if not stated:
        raise MissingOrientation(
            expected="a header that places the scan in the world",
            found="no valid qform, sform or direction cosines",
            remedy="Left and right cannot be told apart without one; convert the scan again "
            "from its source, or set the sform if you know it.",
        )


def checked_affine(header: Any, limits: ScanLimits) -> NDArray[np.float64]:
    """Return the (4, 4) voxel -> RAS mm affine, finite, invertible and within the limits."""
    # NaN in a stated size disappears in the affine's product, so check the sizes as well.
    _check_sizes(_stated_sizes(header), limits)
    affine = _stated_affine(header)
    sizes = voxel_sizes_mm(affine)
    _check_sizes(sizes, limits)
    # The ratio is 1 for orthogonal axes and 0 for axes in one plane.
    if abs(np.linalg.det(affine[:3, :3])) / float(np.prod(sizes)) < 0.1:
        raise BadAffine(
            expected="an invertible affine",
            found="axes that lie in one plane",
            remedy="Convert the scan again from its source.",
        )
    _check_agreement(header, affine)
    return affine


def check_field_of_view(
    shape: tuple[int, int, int], voxel_to_ras: NDArray[np.float64], limits: ScanLimits
) -> None:
    """Refuse a grid that is larger than any head."""
    extents = [n * size for n, size in zip(shape, voxel_sizes_mm(voxel_to_ras), strict=True)]
    volume_ml = float(np.prod(extents)) / 1000
    if max(extents) > limits.max_extent_mm or volume_ml > limits.max_volume_ml:
        raise BadFieldOfView(
            expected=f"a field of view of at most {limits.max_extent_mm:.0f} mm along each axis "
            f"and {limits.max_volume_ml:.0f} ml",
            found=" x ".join(f"{extent:.0f}" for extent in extents) + " mm",
            remedy="Crop the scan to the head, or check the units of its header.",
        )


def _stated_sizes(header: Any) -> tuple[float, ...]:
    """Return the voxel sizes that scale a qform or MGH's directions; an sform needs none."""
    if not isinstance(header, nib.Nifti1Header):
        return tuple(float(size) for size in header["delta"])
    return () if header["sform_code"] else tuple(float(size) for size in header["pixdim"][1:4])


def _check_sizes(sizes: tuple[float, ...], limits: ScanLimits) -> None:
    if not all(limits.min_voxel_mm <= size <= limits.max_voxel_mm for size in sizes):
        raise BadVoxelSize(
            expected=f"voxels of {limits.min_voxel_mm} to {limits.max_voxel_mm} mm",
            found=" x ".join(f"{size:.3g}" for size in sizes) + " mm",
            remedy="Check the units of the header: NIfTI's affine is in mm.",
        )


def _check_agreement(header: Any, affine: NDArray[np.float64]) -> None:
    """Refuse an sform and a qform between whose sizes of a voxel there is more than a factor of 2.

    A smaller contradiction is a warning.
    """
    sizes = disagreeing_sizes(header, affine)
    if sizes is None or not header["qform_code"]:
        return
    by_sform, by_qform = sizes
    if np.abs(np.log2(by_sform / by_qform)).max() <= 1:
        return
    found = (" x ".join(f"{edge:.3g}" for edge in each) for each in sizes)
    raise BadVoxelSize(
        expected="an sform and a qform that agree about the size of a voxel",
        found="{} and {} mm".format(*found),
        remedy="Convert the scan again from its source, or remove the one that is wrong.",
    )


def _stated_affine(header: Any) -> NDArray[np.float64]:
    try:
        with np.errstate(all="ignore"):
            affine = np.array(header.get_best_affine(), dtype=np.float64)
    except (HeaderDataError, ValueError, np.linalg.LinAlgError):
        affine = np.full((4, 4), np.nan)
    if not np.isfinite(affine).all() or np.abs(affine).max() > 1e6:
        raise BadAffine(
            expected="a finite affine",
            found="NaN, infinity or an impossible rotation",
            remedy="Convert the scan again from its source.",
        )
    return affine
