"""Inflate request bodies that a client compressed as a whole: `Content-Encoding: gzip`, `deflate`.

https://www.rfc-editor.org/rfc/rfc9110#section-8.4
"""

from __future__ import annotations

import zlib
from http import HTTPStatus

__all__ = ["CODINGS", "Inflater", "inflater_for", "is_known_coding", "unknown_coding"]

CODINGS = ("gzip", "deflate")

PIECE_BYTES = 1 << 20
"""The most that is inflated at a time, so that other requests are answered in between."""

GZIP_WINDOW, ZLIB_WINDOW, BARE_WINDOW = 31, 15, -15
"""zlib's names of the formats: gzip, zlib, and deflate without a header, which some send."""


def is_known_coding(coding: str) -> bool:
    """Return whether a body with this `Content-Encoding` can be read."""
    return coding in ("", "identity", "x-gzip", *CODINGS)


def unknown_coding() -> tuple[HTTPStatus, str, str]:
    """Return status, kind and text for a body with another coding."""
    text = (
        f"expected Content-Encoding to be {' or '.join(CODINGS)}, or absent; send the request "
        "as it is, with the scan itself as .nii.gz"
    )
    return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedContentEncoding", text


def inflater_for(coding: str) -> Inflater | None:
    """Return what inflates a body with a known coding, or None if it is sent as it is."""
    return None if coding in ("", "identity") else Inflater(is_gzip=coding != "deflate")


class Inflater:
    """Inflates a body that arrives in parts, at most a megabyte at a time.

    Its methods raise zlib.error for bytes that are not in the format.
    """

    def __init__(self, is_gzip: bool) -> None:
        self._is_gzip = is_gzip
        self._stream: zlib._Decompress | None = None
        self._input = b""
        self._is_last = False
        self.has_more = False
        """True if `next_piece` can be called again before more is fed."""

    @property
    def is_over(self) -> bool:
        """True if all of the body has been inflated; raise zlib.error if it is cut short."""
        if not self._is_last or self.has_more:
            return False
        if self._stream is not None:
            raise zlib.error("cut short")
        return True

    def feed(self, part: bytes, is_last: bool) -> None:
        """Take the next part of the compressed body."""
        self._input, self._is_last = self._input + part, is_last
        self.has_more = bool(self._input)

    def next_piece(self) -> bytes:
        """Return what comes next."""
        if self._stream is None:
            self._stream = zlib.decompressobj(self._window())
        piece = self._stream.decompress(self._input, PIECE_BYTES)
        self._input = self._stream.unconsumed_tail
        if self._stream.eof:
            # gzip may hold several members, one after another
            self._input, self._stream = self._stream.unused_data, None
        # a full piece may leave output behind although all input is taken
        self.has_more = bool(self._input) or (
            self._stream is not None and len(piece) == PIECE_BYTES
        )
        return piece

    def _window(self) -> int:
        if self._is_gzip:
            return GZIP_WINDOW
        # the low four bits of a zlib header are 8; bare deflate that some send starts otherwise
        return ZLIB_WINDOW if self._input[0] & 0x0F == 8 else BARE_WINDOW
