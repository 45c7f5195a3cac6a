"""Slices as files, for the tests that read them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np

SHAPE = (48, 40)
GREY, RGB, PALETTE, GREY_ALPHA = 0, 2, 3, 4
"""PNG's colour types."""


def grey(shape: tuple[int, int] = SHAPE, most: int = 255) -> Any:
    """Smooth, without symmetry, from 0 to `most`."""
    y, x = np.indices(shape) / np.array(shape)[:, None, None]
    value = (2 * y + x + np.sin(5 * x * y)) / 4
    value = (value - value.min()) / np.ptp(value)
    return np.round(value * most).astype(np.uint8 if most < 256 else np.uint16)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(lines: list[bytes], width: int, depth: int, colour: int, *extra: bytes) -> bytes:
    """A PNG file of unfiltered lines, with more chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, len(lines), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", pixels)
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def grey_png(pixels: Any, depth: int = 8, *extra: bytes) -> bytes:
    if depth >= 8:
        lines = [line.astype(">u2" if depth == 16 else "u1").tobytes() for line in pixels]
    else:
        bits = np.unpackbits(pixels[..., None], axis=-1)[..., 8 - depth :]
        lines = [np.packbits(line.ravel()).tobytes() for line in bits]
    return png(lines, pixels.shape[1], depth, GREY, *extra)


def encoded(image: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
