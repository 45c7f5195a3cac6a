"""Decompress a gzip file piece by piece, with a limit on how far it may inflate."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from neurobento.errors import CorruptCompression, SuspiciousCompression
from neurobento.imaging.limits import ScanLimits

__all__ = ["GZIP_MAGIC", "GzipStream"]

GZIP_MAGIC = b"\x1f\x8b"
PIECE_BYTES = 1 << 16

FREE_MEMBERS, MEMBER_BYTES = 1024, 1 << 14
"""Members allowed, and the mean bytes of each further one; writers produce BGZF's 64 KiB."""


class GzipStream:
    """A gzip file opened for reading; its members are one stream (RFC 1952, section 2.2)."""

    def __init__(self, file: BinaryIO, limits: ScanLimits) -> None:
        self._file = file
        self._limits = limits
        self._inflate = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._in_bytes = 0
        self._out_bytes = 0
        self._members = 1

    def read(self, size: int) -> bytes:
        """Return `size` decompressed bytes, or fewer at the end of the stream."""
        pieces: list[bytes] = []
        while size > 0 and not self._has_ended():
            self._refill()
            exhausted = not self._pending
            try:
                piece = self._inflate.decompress(self._pending, size)
            except zlib.error:
                raise _corruption_error("invalid compressed data") from None
            self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
            if exhausted and not piece and not self._inflate.eof:
                raise _corruption_error("a stream that ends early")
            pieces.append(piece)
            size -= len(piece)
            self._count(len(piece))
        return b"".join(pieces)

    def _refill(self, least: int = 1) -> None:
        """Read on until that many compressed bytes are pending, or the file ends."""
        if len(self._pending) < least:
            piece = self._file.read(PIECE_BYTES)
            self._pending += piece
            self._in_bytes += len(piece)

    def _has_ended(self) -> bool:
        """Return True after the last member; otherwise start the next one if it is due."""
        if not self._inflate.eof:
            return False
        self._refill(len(GZIP_MAGIC))
        if not self._pending.startswith(GZIP_MAGIC):
            self._check_padding()
            return True
        self._members += 1
        if self._members > FREE_MEMBERS + self._out_bytes // MEMBER_BYTES:
            raise _suspicious("members with content", "thousands of empty members")
        self._inflate = zlib.decompressobj(wbits=31)
        return False

    def _check_padding(self) -> None:
        """Refuse trailing bytes other than the zeros that tapes and disks pad with."""
        while self._pending:
            if self._pending.strip(b"\0"):
                raise _corruption_error("other bytes after the stream")
            self._pending = b""
            self._refill()

    def _count(self, piece_bytes: int) -> None:
        self._out_bytes += piece_bytes
        allowed = self._limits.free_inflation_bytes + self._limits.max_gzip_ratio * self._in_bytes
        if self._out_bytes > allowed:
            limit = f"at most {self._limits.max_gzip_ratio} times its size"
            raise _suspicious(limit, f"{self._out_bytes} bytes from {self._in_bytes}")


def _suspicious(expected: str, found: str) -> SuspiciousCompression:
    return SuspiciousCompression(
        expected=f"a gzip stream that inflates to {expected}",
        found=found,
        remedy="Send the scan itself: label maps, masks and blank images are packed so densely.",
    )


def _corruption_error(found: str) -> CorruptCompression:
    return CorruptCompression(
        expected="a whole gzip stream",
        found=found,
        remedy="Copy or download the file again; `gzip -t` tests it.",
    )
