"""Slices as files, for the tests that read them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

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


EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"

DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"

JPEG_DICOM, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"


def dicom(
    pixels: Any = None, syntax: str = EXPLICIT, content: bytes | None = None, **fields: Any
) -> bytes:
    """A DICOM file; a field of None is left out."""
    pixels = grey() if pixels is None else pixels
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    data.PatientName = "JANE^DOE"
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == BIG else "<"
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data.add_new("PixelData", "OW" if bits > 8 else "OB", native if content is None else content)
    data["PixelData"].is_undefined_length = syntax in (RLE, JPEG_DICOM, JPEG_2000)
    for field, value in fields.items():
        if value is None:
            delattr(data, field)
        else:
            setattr(data, field, value)
    return saved(data)


def saved(data: Any) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def rle_dicom(pixels: Any, **fields: Any) -> bytes:
    data = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    data.compress(RLE, generate_instance_uid=False)
    for field, value in fields.items():
        setattr(data, field, value)
    return saved(data)


def transparent(kind: str) -> bytes:
    """A white image whose upper half is transparent."""
    pixels = Image.fromarray(np.where(np.arange(48)[:, None] < 24, 255, grey()).astype(np.uint8))
    alpha = Image.fromarray(np.repeat(np.uint8([[0], [255]]), 24, axis=0).repeat(40, axis=1))
    if kind == "P":
        shades = np.minimum(np.asarray(pixels) // 64, 2) + (np.asarray(alpha) == 0)
        image = Image.fromarray(shades.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 100, 100, 100, 200, 200, 200, 255, 255, 255])
        return encoded(image, "PNG", transparency=b"\xff\xff\xff\x00")
    image = pixels.convert(kind)
    image.putalpha(alpha)
    return encoded(image, "PNG")


def huge_png(rows: int, columns: int, *, whole: bool) -> bytes:
    """A PNG of one-bit pixels, all zero, or with its pixels missing."""
    header = struct.pack(">IIBBBBB", columns, rows, 1, GREY, 0, 0, 0)
    deflate = zlib.compressobj(9)
    line = bytes(1 + (columns + 7) // 8)
    pixels = b"".join(deflate.compress(line * 100) for _ in range(rows // 100)) if whole else b""
    pixels += deflate.flush()
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def as_nifti(pixels: Any) -> bytes:
    return bytes(nib.Nifti1Image(pixels[..., None], np.eye(4)).to_bytes())
