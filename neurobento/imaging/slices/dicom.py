"""Read a slice from a DICOM file."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import (
    ScanError,
    SuspiciousCompression,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
)
from neurobento.imaging.slices.limits import SliceLimits, check_plane, check_size, more_than_one
from neurobento.imaging.slices.quiet import without_warnings

__all__ = ["DICOM_MAGIC", "DICOM_MAGIC_AT", "read_dicom"]

DICOM_MAGIC, DICOM_MAGIC_AT = b"DICM", 128

MAX_HEADER_BYTES = 2 << 20
"""Latest start of the pixels, since a header takes a hundred times its bytes in memory."""

ITEM_TAGS, MAX_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"), 10_000
"""The tag before each item of a sequence, in both byte orders, and the most items allowed."""

KEPT_FIELDS = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleSlope",
    "RescaleIntercept",
    "ImageOrientationPatient",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
"""The only fields kept from a header; the others may identify the patient."""

GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")
"""Sequences in which enhanced files keep what others have at the top, the more specific first."""

# Transfer syntaxes of DICOM PS3.6, table A-1; `JPEGS` are baseline JPEG and JPEG 2000.
NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
RLE, DEFLATED = "1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.1.99"
JPEGS = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (50, 90, 91))

MAX_RLE_BYTES = 8 << 20
"""Run lengths unpack to at most 64 times their bytes."""

GREY_SCALES = ("MONOCHROME1", "MONOCHROME2")


@dataclass(frozen=True)
class _Header:
    """The checked fields of a DICOM header."""

    dataset: Any
    # Offset of the pixel element in the file.
    pixels_at: int
    shape: tuple[int, int]
    frames: int
    samples: int
    photometric: str
    bits: int
    # Those of `bits` that hold the pixel, from the lowest up to `high_bit`.
    bits_stored: int
    high_bit: int
    slope: float
    intercept: float
    # Direction cosines of the rows and the columns, six numbers, or fewer if not stated.
    directions: tuple[float, ...]


def read_dicom(content: bytes, limits: SliceLimits) -> NDArray[np.float32]:
    """Return the rescaled pixels of a file with one grey image, (rows, columns) float32."""
    header = _parse_header(content)
    _check_header(header, limits)
    pixels = _read_pixels(header, content)
    with np.errstate(all="ignore"):
        pixels = pixels * np.float32(header.slope) + np.float32(header.intercept)
    # MONOCHROME1 shows low values bright.
    return -pixels if header.photometric == "MONOCHROME1" else pixels


def _parse_header(content: bytes) -> _Header:
    import pydicom

    start = content[:MAX_HEADER_BYTES]
    # These checks come before parsing: pydicom would inflate everything and keep each item.
    if DEFLATED in start:
        raise _unsupported_compression("a deflated data set")
    if sum(map(start.count, ITEM_TAGS)) > MAX_ITEMS:
        raise _no_image()
    try:
        with without_warnings():
            file = io.BytesIO(start)
            data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(KEPT_FIELDS))
            directions = _field(data, "PlaneOrientationSequence", "ImageOrientationPatient")
            rescaling = "PixelValueTransformationSequence"
            return _Header(
                dataset=data,
                pixels_at=file.tell(),
                shape=(int(data.Rows), int(data.Columns)),
                frames=int(data.get("NumberOfFrames") or 1),
                samples=int(data.get("SamplesPerPixel") or 1),
                photometric=str(data.PhotometricInterpretation),
                bits=int(data.BitsAllocated),
                bits_stored=(stored := int(data.get("BitsStored") or data.BitsAllocated)),
                high_bit=int(data.get("HighBit", stored - 1)),
                slope=float(_field(data, rescaling, "RescaleSlope") or 1),
                intercept=float(_field(data, rescaling, "RescaleIntercept") or 0),
                directions=tuple(map(float, directions or ())),
            )
    except MemoryError:
        raise
    # pydicom raises almost any exception for a damaged header.
    except Exception:
        raise _no_image() from None


def _field(data: Any, sequence: str, name: str) -> Any:
    """Return a field from an enhanced file's functional groups, else from the top, else None."""
    for groups in GROUPS:
        for group in data.get(groups) or ():
            for item in group.get(sequence) or ():
                if (value := item.get(name)) is not None:
                    return value
    return data.get(name)


def _check_header(header: _Header, limits: SliceLimits) -> None:
    check_size(*header.shape, limits)
    if header.frames > 1:
        raise more_than_one(header.frames)
    if len(header.directions) == 6:
        check_plane(np.cross(header.directions[:3], header.directions[3:]))
    is_grey = header.samples == 1 and header.photometric in GREY_SCALES
    if not is_grey or header.bits not in (8, 16, 32):
        raise UnsupportedDatatype(
            expected="one grey value of 8, 16 or 32 bits per pixel",
            found=f"grey values of {header.bits} bits" if is_grey else "colours or a palette",
            remedy="Send the image as it was scanned, not a screen shot.",
        )
    if not 0 < header.bits_stored == header.high_bit + 1 <= header.bits:
        raise UnsupportedDatatype(
            expected=f"the lowest of each pixel's {header.bits} bits to hold its value",
            found=f"{header.bits_stored} bits that end at bit {header.high_bit}",
            remedy="Write the file again, for instance with `gdcmconv --raw`.",
        )


def _read_pixels(header: _Header, content: bytes) -> NDArray[np.float32]:
    data = header.dataset
    syntax = str(data.file_meta.get("TransferSyntaxUID"))
    if syntax not in NATIVE | JPEGS | {RLE}:
        raise _unsupported_compression("another transfer syntax")
    kind, value = _pixel_element(content, header.pixels_at, *data.original_encoding)
    try:
        with without_warnings():
            if syntax not in NATIVE:
                _check_frame(value, syntax, header.shape)
            data.add_new("PixelData", kind, value)
            pixels = _value_bits(np.asarray(data.pixel_array), header.bits_stored)
    except (ScanError, MemoryError):
        raise
    # pydicom raises almost any exception for damaged pixels too.
    except Exception:
        raise TruncatedScan(
            expected="as many pixels as the header says",
            found="fewer pixels, or damaged ones",
            remedy="Write the image again from its source.",
        ) from None
    _require_shape(pixels.shape, header.shape)
    return pixels.astype(np.float32)


def _value_bits(pixels: NDArray[Any], bits_stored: int) -> NDArray[Any]:
    """Return integer pixels without the bits above their value, which may hold an overlay.

    DICOM PS3.5, 8.1.1; pydicom does this for some transfer syntaxes only.
    """
    unused = 8 * pixels.dtype.itemsize - bits_stored
    return (pixels << unused) >> unused if unused > 0 else pixels


def _pixel_element(content: bytes, at: int, implicit: bool, little: bool) -> tuple[str, bytes]:
    """Return the value representation and the bytes of the pixel element at an offset."""
    tag = b"\xe0\x7f\x10\x00" if little else b"\x7f\xe0\x00\x10"
    kind = b"OW" if implicit else content[at + 4 : at + 6]
    start = at + (8 if implicit else 12)
    if content[at : at + 4] != tag or kind not in (b"OB", b"OW"):
        raise _no_image()
    length = int.from_bytes(content[start - 4 : start], "little" if little else "big")
    end = len(content) if length == 0xFFFFFFFF else start + length
    return kind.decode(), content[start:end]


def _check_frame(value: bytes, syntax: str, shape: tuple[int, int]) -> None:
    """Refuse a compressed frame that would unpack to more than the header says."""
    from PIL import Image
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(value, number_of_frames=1))
    if syntax == RLE and len(frame) > MAX_RLE_BYTES:
        raise SuspiciousCompression(
            expected=f"run lengths of at most {MAX_RLE_BYTES} bytes",
            found=f"{len(frame)} bytes",
            remedy="Write the file without compression, for instance with `gdcmconv --raw`.",
        )
    if syntax in JPEGS:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            _require_shape((picture.height, picture.width), shape)


def _require_shape(found: tuple[int, ...], expected: tuple[int, int]) -> None:
    if found != expected:
        raise UnsupportedDimensions(
            expected=f"{expected[0]} x {expected[1]} pixels, as the header says",
            found=" x ".join(map(str, found)),
            remedy="Write the image again from its source.",
        )


def _no_image() -> UnknownFormat:
    return UnknownFormat(
        expected="a DICOM file with an image",
        found="a DICOM file without an image, or a damaged one",
        remedy="Send a file of one slice.",
    )


def _unsupported_compression(found: str) -> UnsupportedDatatype:
    return UnsupportedDatatype(
        expected="pixels that are not compressed, or as RLE, baseline JPEG or JPEG 2000",
        found=found,
        remedy="Write the file without compression, for instance with `gdcmconv --raw`.",
    )
