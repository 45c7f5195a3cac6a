"""Parse a NIfTI or MGH header and check what it claims, before a single voxel is read."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from neurobento.errors import (
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
)
from neurobento.imaging.limits import ScanLimits
from neurobento.imaging.native_space import NativeSpace, native_space
from neurobento.imaging.placement import check_field_of_view, checked_affine, require_orientation

__all__ = ["HEADER_BYTES", "ScanHeader", "parse_header"]

HEADER_BYTES = 540
"""The longest header of the formats read (NIfTI-2); NIfTI-1 takes 348, MGH 284."""

NIFTI_FORMATS = (
    (nib.Nifti1Header, 348, 344, b"n+1\0"),
    (nib.Nifti2Header, 540, 4, b"n+2\0"),
)
"""Header class, its length, and the offset and bytes of its magic for a single file."""

MAX_EXTENSION_BYTES = 16 << 20
"""Bytes allowed between header and voxels: NIfTI extensions, skipped unread."""

DATATYPES = frozenset({"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"})


@dataclass(frozen=True, eq=False)
class ScanHeader:
    """A checked header: the scan's grid and how to read its voxels."""

    space: NativeSpace
    # Of a stored voxel, byte order included.
    datatype: np.dtype[Any]
    # value = stored * slope + intercept.
    slope: float
    intercept: float
    # Offsets of the voxels in the uncompressed file.
    start_bytes: int
    end_bytes: int


def parse_header(head: bytes, limits: ScanLimits) -> ScanHeader:
    """Return the checked header in the first `HEADER_BYTES` of an uncompressed file."""
    header = _recognise(head)
    require_orientation(header, head)
    shape = _checked_shape(header, limits)
    datatype = _checked_datatype(header)
    voxel_bytes = _checked_bytes(shape, datatype, limits)
    voxel_to_ras = checked_affine(header, limits)
    check_field_of_view(shape, voxel_to_ras, limits)
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
    """Return nibabel's header for the format that the magic bytes show."""
    size = {struct.unpack(order + "i", head[:4])[0]: order for order in "<>"} if head[4:] else {}
    for kind, length, at, magic in NIFTI_FORMATS:
        if length in size and head[at : at + 4] == magic:
            header = _parse(kind, head, length, endianness=size[length])
            _check_line_ends(header)
            return header
    if head[:4] == struct.pack(">i", 1) and head[4:]:
        # MGH starts with version 1, then width, height, depth and frames, as big-endian int32.
        return _parse(nib.freesurfer.mghformat.MGHHeader, head, 284)
    raise UnknownFormat(
        expected="a NIfTI (.nii, .nii.gz) or FreeSurfer (.mgh, .mgz) file",
        found="an unknown file signature" if head else "an empty file",
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
    """Refuse a NIfTI-2 file whose line ends, kept in its magic, a text transfer has changed."""
    if "eol_check" in header and bytes(header["eol_check"]) not in (b"\r\n\x1a\n", bytes(4)):
        raise UnknownFormat(
            expected="a NIfTI-2 file as it was written",
            found="bytes that a transfer as text has changed",
            remedy="Copy or download the file again, in binary mode.",
        )


def _checked_shape(header: Any, limits: ScanLimits) -> tuple[int, int, int]:
    # Read the dimensions; only one volume may be there.
    if isinstance(header, nib.Nifti1Header):
        ndim = int(header["dim"][0])
        dims = [int(n) for n in header["dim"][1:8]][: max(0, ndim)]
        if ndim == 2:
            # Let a slice through here: the limits on its axes decide.
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
    # Check each axis, then the number of voxels.
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
            found=f"{voxels} voxels",
            remedy="Resample the scan; 1 mm is all that the networks use.",
        )
    return shape


def _checked_datatype(header: Any) -> np.dtype[Any]:
    try:
        datatype = np.dtype(header.get_data_dtype())
    # nibabel raises either for an unknown code.
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


def _checked_scaling(header: Any) -> tuple[float, float]:
    if not isinstance(header, nib.Nifti1Header):
        return 1.0, 0.0
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    # In NIfTI-1 a slope of zero means no scaling, and so, by custom, does one that is not finite.
    # A bad intercept leaves no voxel finite, which is reported when the voxels are read.
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
