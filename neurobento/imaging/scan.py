"""Read T1-weighted scans (NIfTI-1, NIfTI-2, MGH), by content, and write images on their grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento.cores import free_memory
from neurobento.errors import FileTooLarge, NotEnoughMemory, ScanError
from neurobento.files import write_atomically
from neurobento.imaging.geometry import axis_codes, voxel_sizes_mm
from neurobento.imaging.gzip_stream import GZIP_MAGIC, GzipStream
from neurobento.imaging.header import HEADER_BYTES, parse_header
from neurobento.imaging.limits import ScanLimits
from neurobento.imaging.native_space import NativeSpace, space_of
from neurobento.imaging.voxels import check_length, read_voxels

__all__ = [
    "NativeSpace",
    "Scan",
    "label_bytes",
    "map_bytes",
    "read_scan",
    "scan_name",
    "space_of",
    "write_labels",
]

BASE_BYTES, VOXEL_BYTES = 256 << 20, 18
"""Memory that reading and preparing a scan takes: the libraries and the networks, and per voxel."""

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh")
"""Endings of scans' file names; the content decides the format."""


@dataclass(frozen=True, eq=False)
class Scan:
    """An image with its affine."""

    # (X, Y, Z), read-only, finite, in the scanner's own units.
    array: NDArray[np.float32]
    # The grid of the voxels.
    space: NativeSpace

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis, (X, Y, Z)."""
        return self.space.shape

    @property
    def voxel_to_ras(self) -> NDArray[np.float64]:
        """The affine, (4, 4) float64, voxel index -> world RAS in mm."""
        return self.space.voxel_to_ras

    @property
    def voxel_sizes_mm(self) -> tuple[float, float, float]:
        """The edge lengths of a voxel in mm."""
        return voxel_sizes_mm(self.voxel_to_ras)

    @property
    def axis_codes(self) -> str:
        """The anatomical direction in which each voxel axis grows, such as "RAS"."""
        return axis_codes(self.voxel_to_ras)


def scan_name(path: Path) -> str:
    """Return the file name without a scan's suffix, or without its last one.

    An ending of digits is no suffix: DICOM files are named after numbers.

    >>> scan_name(Path("1.2.840.113619.2"))
    '1.2.840.113619.2'
    """
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.name if path.suffix[1:].isdigit() else path.stem


def read_scan(path: Path, limits: ScanLimits | None = None) -> Scan:
    """Return the scan in a NIfTI or MGH file; a 4D file with one volume counts as that volume."""
    try:
        return _read(path, limits or ScanLimits())
    except (ScanError, NotEnoughMemory) as error:
        raise error.about(str(path)) from None


def _read(path: Path, limits: ScanLimits) -> Scan:
    size = path.stat().st_size
    if size > limits.max_file_bytes:
        raise FileTooLarge(
            expected=f"a file of at most {limits.max_file_bytes} bytes",
            found=f"{size} bytes",
            remedy="Send one T1 volume, not a series, and compress it with gzip.",
        )
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        stream = GzipStream(file, limits) if compressed else file
        head = stream.read(HEADER_BYTES)
        header = parse_header(head, limits)
        if not compressed:
            check_length(size, header)
        _require_memory(header.space.shape)
        return Scan(read_voxels(stream, head, header), header.space)


def _require_memory(shape: tuple[int, int, int]) -> None:
    """Raise NotEnoughMemory if the scan's preparation would take more than there is.

    Otherwise the system would kill this process in the middle of it, or another one.
    """
    need, free = BASE_BYTES + VOXEL_BYTES * math.prod(shape), free_memory()
    if free is not None and free < need:
        raise NotEnoughMemory(
            expected=f"{need >> 20} MiB of free memory for a scan of {_times(shape)} voxels",
            found=f"{max(0, free) >> 20} MiB",
            remedy="Try again when other work has ended, work on fewer scans at a time, or give "
            "this machine or container more memory.",
        )


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def write_labels(
    path: Path, labels: NDArray[np.uint8], space: NativeSpace, *, extension: bytes | None = None
) -> None:
    """Write labels as `.nii.gz`, uint8, with the scan's geometry to the bit and a NIfTI comment."""
    write_atomically(path, label_bytes(labels, space, extension=extension))


def label_bytes(
    labels: NDArray[np.uint8], space: NativeSpace, *, extension: bytes | None = None
) -> bytes:
    """Return the bytes that `write_labels` writes; equal input gives equal bytes."""
    _require_on_grid(labels, space, np.uint8)
    header = space.header.copy()
    header["intent_code"] = 1002  # NIFTI_INTENT_LABEL
    if extension is not None:
        header.extensions.append(nib.nifti1.Nifti1Extension("comment", extension))
    return _nifti_bytes(labels, header)


def map_bytes(values: NDArray[np.float32], space: NativeSpace) -> bytes:
    """Return a gzip NIfTI file of values on a scan's own grid, with its geometry to the bit."""
    _require_on_grid(values, space, np.float32)
    return _nifti_bytes(values, space.header.copy())


def _require_on_grid(array: NDArray[Any], space: NativeSpace, kind: type[np.generic]) -> None:
    if array.shape != space.shape or array.dtype != kind:
        raise ValueError(
            f"expected {kind.__name__} of shape {space.shape}, found {array.dtype} {array.shape}"
        )


def _nifti_bytes(array: NDArray[Any], header: Any) -> bytes:
    import gzip

    header.set_data_dtype(array.dtype)
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(array, None, header)
    # With mtime 0 the bytes depend on the array alone.
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
