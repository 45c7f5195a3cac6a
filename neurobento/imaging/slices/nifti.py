"""Read a slice from a NIfTI or MGH file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import UnknownFormat, UnsupportedDimensions
from neurobento.imaging.gzip_stream import GZIP_MAGIC, GzipStream
from neurobento.imaging.header import HEADER_BYTES, parse_header
from neurobento.imaging.limits import ScanLimits
from neurobento.imaging.native_space import NativeSpace
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.limits import SliceLimits, check_plane, check_size

__all__ = ["read_nifti", "read_nifti_space"]


def read_nifti(path: Path, limits: SliceLimits) -> NDArray[np.float32]:
    """Return the pixels of an image with one axis of length 1, (rows, columns) float32."""
    try:
        space = read_nifti_space(path, limits)
    except UnknownFormat as error:
        raise UnknownFormat(
            expected="a PNG, JPEG, DICOM or NIfTI file",
            found=error.found,
            remedy="Send one slice in one of these formats.",
        ) from None
    except UnsupportedDimensions as error:
        raise _not_one_slice(error.found) from None
    shape = space.shape
    if 1 not in shape:
        raise _not_one_slice(" x ".join(map(str, shape)))
    thin_axis = shape.index(1)
    # With two thin axes nobody can say which one is the normal.
    if shape.count(1) == 1:
        check_plane(space.voxel_to_ras[:3, thin_axis])
    columns, rows = (n for axis, n in enumerate(shape) if axis != thin_axis)
    check_size(rows, columns, limits)
    pixels = read_scan(path, _scan_limits(limits)).array.squeeze(thin_axis)
    # Viewers draw the second axis upwards, and rows count downwards.
    return np.ascontiguousarray(pixels.T[::-1])


def read_nifti_space(path: Path, limits: SliceLimits) -> NativeSpace:
    """Return the grid that the header states; a slice may be far smaller than a scan."""
    bounds = _scan_limits(limits)
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        stream = GzipStream(file, bounds) if compressed else file
        return parse_header(stream.read(HEADER_BYTES), bounds).space


def _scan_limits(limits: SliceLimits) -> ScanLimits:
    """Return limits that leave the number of pixels to `check_size`."""
    return ScanLimits(
        max_file_bytes=limits.max_file_bytes,
        min_axis=1,
        max_axis=1 << 62,
        max_voxels=1 << 200,
        max_voxel_bytes=1 << 200,
        min_voxel_mm=1e-3,
        max_voxel_mm=1e3,
        max_extent_mm=np.inf,
        max_volume_ml=np.inf,
    )


def _not_one_slice(found: str) -> UnsupportedDimensions:
    return UnsupportedDimensions(
        expected="one slice: an image of two dimensions, or with an axis of length 1",
        found=found,
        remedy="Give a whole scan to `neurobento anomaly`, which cuts it into slices.",
    )
