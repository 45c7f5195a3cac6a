"""What a NIfTI or MGH header claims, checked before a single voxel is read."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from neurobento.errors import (
    BadAffine,
    BadFieldOfView,
    BadVoxelSize,
    MissingOrientation,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
)
from neurobento.imaging.geometry import voxel_sizes_mm
from neurobento.imaging.native_space import NativeSpace, native_space

__all__ = ["HEADER_BYTES", "ScanHeader", "ScanLimits", "parse_header"]

HEADER_BYTES = 540
"""The longest header of the formats read (NIfTI-2); NIfTI-1 takes 348, MGH 284."""

NIFTI_FORMATS = (
    (nib.Nifti1Header, 348, 344, b"n+1\0"),
    (nib.Nifti2Header, 540, 4, b"n+2\0"),
)
"""Header, its length, and where its magic for a single file stands."""

MAX_EXTENSION_BYTES = 16 << 20
"""Bytes allowed between header and voxels: NIfTI extensions, skipped unread."""

XFORM_CODES = range(6)
"""The codes of a qform or sform that NIfTI knows; 0 says that there is none."""

DATATYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"})


@dataclass(frozen=True)
class ScanLimits:
    """What the gate lets through.

    Attributes
    ----------
    max_file_bytes
        Largest file, as stored.
    max_gzip_ratio, free_inflation_bytes
        A gzip stream may inflate by this ratio beyond the free bytes. Stripped
        8-bit brains reach about 12; DEFLATE itself ends at 1032.
    min_axis, max_axis
        Voxels along each axis.
    max_voxels
        Voxels in all: 512 x 512 x 256, a head at 0.5 mm.
    max_voxel_bytes
        Their bytes as stored: that head in float32. Twice as many, in float64,
        take seconds to inflate before a blank is known for one.
    min_voxel_mm, max_voxel_mm
        Edge lengths of a voxel.
    max_extent_mm, max_volume_ml
        What the grid spans along an axis and in all. Step 3 resamples it to
        1 mm, so these bound what preprocessing allocates: 64,000 ml are 64
        million voxels, a cube of 400 mm.
    """

    max_file_bytes: int = 512 << 20
    max_gzip_ratio: int = 250
    free_inflation_bytes: int = 1 << 20
    min_axis: int = 16
    max_axis: int = 512
    max_voxels: int = 1 << 26
    max_voxel_bytes: int = 256 << 20
    min_voxel_mm: float = 0.3
    max_voxel_mm: float = 7.0
    max_extent_mm: float = 520.0
    max_volume_ml: float = 64_000.0


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """A header that passed: where the voxels lie and how to read them.

    Attributes
    ----------
    space
        The scan's own grid.
    datatype
        NumPy type of a stored voxel, byte order included.
    slope, intercept
        value = stored * slope + intercept.
    start_bytes, end_bytes
        Where the voxels begin and end in the uncompressed file.
    """

    space: NativeSpace
    datatype: np.dtype[Any]
    slope: float
    intercept: float
    start_bytes: int
    end_bytes: int


def parse_header(head: bytes, limits: ScanLimits) -> ScanHeader:
    """The checked header in the first bytes of a file.

    Parameters
    ----------
    head
        The first `HEADER_BYTES` of the uncompressed file, or all of a shorter one.
    limits
        Bounds on what is accepted.

    Raises
    ------
    ScanError
        One of its leaves for each refusal.
    """
    header = _recognise(head)
    _require_orientation(header, head)
    shape = _checked_shape(header, limits)
    datatype = _checked_datatype(header)
    voxel_bytes = _checked_bytes(shape, datatype, limits)
    voxel_to_ras = _checked_affine(header, limits)
    _check_field_of_view(shape, voxel_to_ras, limits)
    start = _voxel_start(header)
    slope, intercept = _checked_scaling(header)
    return ScanHeader(
        space=native_space(header, shape, voxel_to_ras),
        datatype=datatype,
        slope=slope,
        intercept=intercept,
        start_bytes=start,
        end_bytes=start + voxel_bytes,
    )


def _recognise(head: bytes) -> Any:
    """The nibabel header of whichever format the bytes are."""
    size = {struct.unpack(order + "i", head[:4])[0]: order for order in "<>"} if head[4:] else {}
    for kind, length, at, magic in NIFTI_FORMATS:
        if length in size and head[at : at + 4] == magic:
            header = _parse(kind, head, length, endianness=size[length])
            _check_line_ends(header)
            return header
    if head[:4] == struct.pack(">i", 1) and head[4:]:
        # MGH starts with version 1, then width, height, depth, frames as big-endian int32
        return _parse(nib.freesurfer.mghformat.MGHHeader, head, 284)
    raise UnknownFormat(
        expected="a NIfTI (.nii, .nii.gz) or FreeSurfer (.mgh, .mgz) file",
        found="other content" if head else "an empty file",
        remedy="Convert the scan first; dcm2niix turns a DICOM series, and nibabel an "
        "Analyze or .hdr/.img pair, into NIfTI.",
    )


def _parse(kind: Any, head: bytes, length: int, **options: Any) -> Any:
    if len(head) < length:
        raise TruncatedScan(
            expected=f"a header of {length} bytes",
            found=f"{len(head)} bytes",
            remedy="The file is cut short; copy or download it again.",
        )
    return kind(binaryblock=head[:length], check=False, **options)


def _check_line_ends(header: Any) -> None:
    """NIfTI-2 keeps a line's end in its magic, to tell when a transfer as text changed it."""
    if "eol_check" in header and bytes(header["eol_check"]) not in (b"\r\n\x1a\n", bytes(4)):
        raise UnknownFormat(
            expected="a NIfTI-2 file as it was written",
            found="bytes that a transfer as text has changed",
            remedy="Copy or download the file again, in binary mode.",
        )


def _checked_shape(header: Any, limits: ScanLimits) -> tuple[int, int, int]:
    if isinstance(header, nib.Nifti1Header):
        ndim = int(header["dim"][0])
        dims = [int(n) for n in header["dim"][1:8]][: max(0, ndim)]
        if ndim == 2:
            # a slice; whether one will do is said by its axes
            ndim, dims = 3, [*dims, 1]
    else:
        dims = [int(n) for n in header["dims"]]
        ndim = 3 + (dims[3] > 1)
    if not 3 <= ndim <= 7 or any(n != 1 for n in dims[3:]):
        raise UnsupportedDimensions(
            expected="one 3D image",
            found=f"a series of {dims[3]} volumes" if len(dims) == 4 else f"{ndim} dimensions",
            remedy="Choose the T1 volume and save it alone.",
        )
    shape = dims[0], dims[1], dims[2]
    if not all(limits.min_axis <= n <= limits.max_axis for n in shape):
        raise UnsupportedDimensions(
            expected=f"{limits.min_axis} to {limits.max_axis} voxels along each axis",
            found=" x ".join(str(n) for n in shape),
            remedy="Send the 3D acquisition of the whole head, not single slices.",
        )
    if (voxels := math.prod(shape)) > limits.max_voxels:
        raise TooManyVoxels(
            expected=f"at most {limits.max_voxels} voxels",
            found=str(voxels),
            remedy="Resample the scan; 1 mm is all that the networks use.",
        )
    return shape


def _checked_datatype(header: Any) -> np.dtype[Any]:
    try:
        datatype = np.dtype(header.get_data_dtype())
    # nibabel raises the one or the other for a code it does not know
    except (HeaderDataError, KeyError):
        datatype = np.dtype("V")
    if datatype.str[1:] not in DATATYPES:
        code = int(header["datatype"] if "datatype" in header else header["type"])
        raise UnsupportedDatatype(
            expected="integers of 8 to 64 bits or floats of 32 or 64",
            found=f"datatype code {code}",
            remedy="Convert the scan to float32; colour and complex images are not T1 scans.",
        )
    stored: np.dtype[Any] = datatype.newbyteorder(header.endianness)
    return stored


def _checked_bytes(shape: tuple[int, int, int], datatype: np.dtype[Any], limits: ScanLimits) -> int:
    voxel_bytes = math.prod(shape) * datatype.itemsize
    if voxel_bytes > limits.max_voxel_bytes:
        raise TooManyVoxels(
            expected=f"voxels of at most {limits.max_voxel_bytes} bytes in all",
            found=f"{voxel_bytes} bytes",
            remedy="Save the scan as float32 or in integers of 16 bits.",
        )
    return voxel_bytes


def _require_orientation(header: Any, head: bytes) -> None:
    if isinstance(header, nib.Nifti1Header):
        codes = int(header["qform_code"]), int(header["sform_code"])
        # nibabel takes an unknown code for 0 when it loads a file, FSL for 1
        stated = any(codes) and all(code in XFORM_CODES for code in codes)
        if header["pixdim"][0] == 0:
            # NIfTI-1: a qfac of 0 is read as 1; nibabel does so on loading a file only
            header["pixdim"][0] = 1
    else:
        # MGH's goodRASFlag; nibabel replaces it, and the directions with it, while parsing
        stated = head[28:30] != b"\0\0"
    if not stated:
        raise MissingOrientation(
            expected="a header that places the scan in the world",
            found="none of its qform, sform or direction cosines set to what their format knows",
            remedy="Left and right cannot be told apart without one; convert the scan again "
            "from its source, or set the sform if you know it.",
        )


def _checked_affine(header: Any, limits: ScanLimits) -> NDArray[np.float64]:
    # those of the header too, where it builds its affine on them: NaN hides in the product
    _check_sizes(_stated_sizes(header), limits)
    affine = _stated_affine(header)
    sizes = voxel_sizes_mm(affine)
    _check_sizes(sizes, limits)
    # 1 for orthogonal axes, 0 for axes in one plane
    if abs(np.linalg.det(affine[:3, :3])) / float(np.prod(sizes)) < 0.1:
        raise BadAffine(
            expected="an invertible affine",
            found="axes that lie in one plane",
            remedy="Convert the scan again from its source.",
        )
    return affine


def _stated_sizes(header: Any) -> tuple[float, ...]:
    """The voxel sizes that a qform or MGH's directions are scaled by; an sform needs none."""
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


def _check_field_of_view(
    shape: tuple[int, int, int], voxel_to_ras: NDArray[np.float64], limits: ScanLimits
) -> None:
    extents = [n * size for n, size in zip(shape, voxel_sizes_mm(voxel_to_ras), strict=True)]
    volume_ml = float(np.prod(extents)) / 1000
    if max(extents) > limits.max_extent_mm or volume_ml > limits.max_volume_ml:
        raise BadFieldOfView(
            expected=f"a field of view of at most {limits.max_extent_mm:.0f} mm along each axis "
            f"and {limits.max_volume_ml:.0f} ml",
            found=" x ".join(f"{extent:.0f}" for extent in extents) + " mm",
            remedy="Crop the scan to the head, or check the units of its header.",
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


def _checked_scaling(header: Any) -> tuple[float, float]:
    if not isinstance(header, nib.Nifti1Header):
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # NIfTI-1: a slope of zero, and by custom one that is not finite, means no scaling;
    # an intercept that is not finite leaves no voxel finite, and that is told of the voxels
    if not np.isfinite(slope) or slope == 0:
        return 1.0, 0.0
    return slope, intercept


def _voxel_start(header: Any) -> int:
    if not isinstance(header, nib.Nifti1Header):
        return 284
    start = float(header["vox_offset"])
    least = int(header["sizeof_hdr"])
    if not least <= start <= least + MAX_EXTENSION_BYTES:
        raise UnknownFormat(
            expected="voxels right behind the header",
            found="an impossible voxel offset",
            remedy="Write the file again with the tool it came from.",
        )
    return int(start)
