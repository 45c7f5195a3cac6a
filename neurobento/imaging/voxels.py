"""Read voxels from a stream as finite float32, piece by piece and only once in memory."""

from __future__ import annotations

import math
import mmap
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ConstantScan, EmptyScan, NotFiniteScan, OverlongScan, TruncatedScan
from neurobento.imaging.gzip_stream import GzipStream
from neurobento.imaging.header import ScanHeader

__all__ = ["check_length", "read_voxels"]

CHUNK_BYTES = 1 << 20
TRAILING_BYTES = 1 << 20
"""Most bytes after the voxels: MGH keeps scan parameters and tags there."""


def check_length(found_bytes: int, header: ScanHeader) -> None:
    """Refuse a file whose uncompressed length does not fit its header."""
    if found_bytes < header.end_bytes:
        raise _truncation_error(header.end_bytes, found_bytes)
    if found_bytes > header.end_bytes + TRAILING_BYTES:
        raise OverlongScan(
            expected=f"about {header.end_bytes} bytes, as the header implies",
            found=f"at least {found_bytes} bytes",
            remedy="The header does not describe this file; write it again with the tool it "
            "came from.",
        )


def read_voxels(
    stream: BinaryIO | GzipStream, head: bytes, header: ScanHeader
) -> NDArray[np.float32]:
    """Return the scaled voxels, (X, Y, Z), with zero for every value that is not finite.

    `stream` is read up to the end of `head`. Memory grows with the bytes that arrive.
    """
    voxels = _VoxelBuffer(header)
    voxels.add(head[header.start_bytes : header.end_bytes])
    position = len(head)
    while position < header.end_bytes:
        piece = stream.read(min(CHUNK_BYTES, header.end_bytes - position))
        if not piece:
            raise _truncation_error(header.end_bytes, position)
        voxels.add(piece[max(0, header.start_bytes - position) :])
        position += len(piece)
    if isinstance(stream, GzipStream):
        check_length(position + len(stream.read(TRAILING_BYTES + 1)), header)
    voxels.check_contrast()
    return voxels.array()


def _truncation_error(expected_bytes: int, found_bytes: int) -> TruncatedScan:
    return TruncatedScan(
        expected=f"{expected_bytes} bytes, as the header implies",
        found=f"{found_bytes} bytes",
        remedy="The file is cut short; copy or download it again.",
    )


class _VoxelBuffer:
    """Collects the voxels and their range as the bytes arrive."""

    def __init__(self, header: ScanHeader) -> None:
        self._header = header
        size = math.prod(header.space.shape)
        # Unlike malloc, a page takes memory only when it is written, and returns it at the end.
        memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._values: NDArray[np.float32] = np.frombuffer(memory, np.float32)
        self._count = 0
        self._rest = b""
        self._finite = False
        self._low, self._high = np.inf, -np.inf

    def add(self, piece: bytes) -> None:
        """Add the next bytes; a voxel may be split between two pieces."""
        piece = self._rest + piece if self._rest else piece
        count = len(piece) // self._header.datatype.itemsize
        self._rest = piece[count * self._header.datatype.itemsize :]
        if not count:
            return
        values = self._values[self._count : self._count + count]
        self._count += count
        with np.errstate(over="ignore", invalid="ignore"):
            values[:] = np.frombuffer(piece, self._header.datatype, count)
            if (self._header.slope, self._header.intercept) != (1.0, 0.0):
                values *= np.float32(self._header.slope)
                values += np.float32(self._header.intercept)
        finite = np.isfinite(values)
        self._finite |= bool(finite.any())
        if not finite.all():
            # The background is zero, so missing values become background.
            values[~finite] = 0
        self._low = min(self._low, float(values.min()))
        self._high = max(self._high, float(values.max()))

    def check_contrast(self) -> None:
        remedy = "Export the scan again; its voxels were lost."
        if not self._finite:
            raise NotFiniteScan(
                expected="finite voxels", found="NaN or infinity in every voxel", remedy=remedy
            )
        if self._low == self._high == 0:
            raise EmptyScan(expected="a head", found="zero in every voxel", remedy=remedy)
        if self._low == self._high:
            raise ConstantScan(expected="a head", found="one value in every voxel", remedy=remedy)

    def array(self) -> NDArray[np.float32]:
        array = self._values.reshape(self._header.space.shape, order="F")
        array.setflags(write=False)
        return array
