"""The bytes of a gzip file as they come, counted against a bound on how much they may inflate."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from neurobento.errors import CorruptCompression, SuspiciousCompression
from neurobento.scan_header import ScanLimits

__all__ = ["GZIP_MAGIC", "GzipStream"]

GZIP_MAGIC = b"\x1f\x8b"
PIECE_BYTES = 1 << 16


class GzipStream:
    """Decompressed bytes of a gzip file, counted as they come.

    Several gzip members in a row are one stream (RFC 1952, section 2.2).
    """

    def __init__(self, file: BinaryIO, limits: ScanLimits) -> None:
        self._file = file
        self._limits = limits
        self._inflate = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._in_bytes = 0
        self._out_bytes = 0

    def read(self, size: int) -> bytes:
        """Up to `size` decompressed bytes; fewer only at the end of the stream."""
        out = bytearray()
        while len(out) < size and not self._ended():
            self._refill()
            exhausted = not self._pending
            try:
                piece = self._inflate.decompress(self._pending, size - len(out))
            except zlib.error:
                raise _corrupt("a broken one") from None
            self._pending = self._inflate.unconsumed_tail or self._inflate.unused_data
            if exhausted and not piece and not self._inflate.eof:
                raise _corrupt("one that ends early")
            out += piece
            self._count(len(piece))
        return bytes(out)

    def _refill(self, least: int = 1) -> None:
        """Have that many compressed bytes at hand, unless the file has no more."""
        if len(self._pending) < least:
            piece = self._file.read(PIECE_BYTES)
            self._pending += piece
            self._in_bytes += len(piece)

    def _ended(self) -> bool:
        """Whether the last member is read; starts the next one where there is one."""
        if not self._inflate.eof:
            return False
        self._refill(len(GZIP_MAGIC))
        if not self._pending.startswith(GZIP_MAGIC):
            return True
        self._inflate = zlib.decompressobj(wbits=31)
        return False

    def _count(self, piece_bytes: int) -> None:
        self._out_bytes += piece_bytes
        allowed = self._limits.free_inflation_bytes + self._limits.max_gzip_ratio * self._in_bytes
        if self._out_bytes > allowed:
            raise SuspiciousCompression(
                expected=f"a gzip stream that inflates at most {self._limits.max_gzip_ratio} times",
                found="one that inflates more",
                remedy="Send a real scan; a blank one holds nothing to parcellate.",
            )


def _corrupt(found: str) -> CorruptCompression:
    return CorruptCompression(
        expected="a whole gzip stream",
        found=found,
        remedy="Copy or download the file again; `gzip -t` tests it.",
    )
