"""A 2D slice in memory, read from PNG, JPEG, DICOM or NIfTI.

As of a scan, a file's header decides whether its pixels are read at all.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import (
    ConstantScan,
    EmptyScan,
    FileTooLarge,
    NotFiniteScan,
    ScanError,
    SuspiciousCompression,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
    UnsupportedPlane,
)
from neurobento.imaging.gzip_stream import GZIP_MAGIC, GzipStream
from neurobento.imaging.header import HEADER_BYTES, ScanLimits, parse_header
from neurobento.imaging.native_space import NativeSpace
from neurobento.imaging.scan import read_scan

__all__ = ["SliceLimits", "holds_slice", "read_slice"]

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
DICOM, DICOM_AT = b"DICM", 128

DICOM_HEADER_BYTES = 2 << 20
"""Where the pixels of a DICOM file begin at the latest. What comes before them nests, and takes a
hundred times its bytes in memory; of one slice it has some 100 kB."""

DICOM_ITEMS, MAX_DICOM_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00"), 10_000
"""The tag before each item of a sequence, in both byte orders, and how many there may be."""

DICOM_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "ImageOrientationPatient"),
)
"""All that is kept of a DICOM header; the rest says whose head it is."""

NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"})
RLE, DEFLATED = "1.2.840.10008.1.2.5", b"1.2.840.10008.1.2.1.99"
JPEGS = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (50, 90, 91))
"""Transfer syntaxes of DICOM PS3.6, table A-1: JPEG baseline and JPEG 2000."""

MAX_RLE_BYTES = 8 << 20
"""Run lengths unpack to 64 times their bytes at most."""


@dataclass(frozen=True)
class SliceLimits:
    """Bounds on what is decoded.

    Attributes
    ----------
    max_file_bytes
        Largest file, as stored.
    max_pixels
        Pixels in all.
    min_edge, max_edge
        Rows, and columns; a slice is fitted in a square as long as its longer edge.
    """

    max_file_bytes: int = 64 << 20
    max_pixels: int = 4096 * 4096
    min_edge: int = 32
    max_edge: int = 4096


def read_slice(path: Path, limits: SliceLimits | None = None) -> NDArray[np.float32]:
    """The grey values of one slice, (rows, columns) float32, finite.

    Parameters
    ----------
    path
        PNG or JPEG of any depth (colours become luminance, what is transparent
        black), a DICOM file of one frame, or a NIfTI file of two dimensions, or with one
        axis of length 1; told apart by content. Where the file says how it lay in the head,
        a sagittal one is refused.
    limits
        Bounds on what is decoded.

    Raises
    ------
    ScanError
        One of its leaves for each refusal, with `path` as its subject.
    FileNotFoundError
        There is no such file.
    """
    try:
        return _read(path, limits or SliceLimits())
    except ScanError as error:
        raise error.about(str(path)) from None


def holds_slice(path: Path) -> bool:
    """Whether a file is for `read_slice` or, by its header, for `neurobento.imaging.scan.read_scan`.

    PNG, JPEG and DICOM files are slices, and so are NIfTI files of two dimensions, or with an
    axis of length 1. What is none of these is said to be one as well: `read_slice` knows more
    formats to refuse it by.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    """
    with path.open("rb") as file:
        head = file.read(DICOM_AT + len(DICOM))
    if head.startswith((PNG, JPEG)) or head[DICOM_AT:] == DICOM:
        return True
    try:
        return 1 in _nifti_space(path, _nifti_bounds(SliceLimits())).shape
    except UnknownFormat:
        return True
    except ScanError:
        return False


def _read(path: Path, limits: SliceLimits) -> NDArray[np.float32]:
    size = path.stat().st_size
    if size > limits.max_file_bytes:
        raise FileTooLarge(
            expected=f"a file of at most {limits.max_file_bytes} bytes",
            found=f"{size} bytes",
            remedy="Send one slice.",
        )
    with path.open("rb") as file:
        head = file.read(DICOM_AT + len(DICOM))
    if head.startswith((PNG, JPEG)):
        pixels = _picture(path.read_bytes(), limits)
    elif head[DICOM_AT:] == DICOM:
        pixels = _dicom(path.read_bytes(), limits)
    else:
        pixels = _nifti(path, limits)
    return _checked(pixels, limits)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what libraries say of a file, for they quote it."""
    logger = logging.getLogger("pydicom")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before


def _picture(content: bytes, limits: SliceLimits) -> NDArray[np.float32]:
    from PIL import Image, ImageOps

    try:
        with _quietly(), Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            _check_size(picture.height, picture.width, limits)
            if (frames := int(getattr(picture, "n_frames", 1))) > 1:
                raise _more_than_one(frames)
            picture.load()
            # upright, as viewers show it
            return _luminance(ImageOps.exif_transpose(picture))
    except (ScanError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise _too_large("many more", limits) from None
    # Pillow raises almost anything for data that ends early or makes no sense
    except Exception:
        raise TruncatedScan(
            expected="a whole PNG or JPEG image",
            found="one that ends early or is damaged",
            remedy="Write the image again from its source.",
        ) from None


def _luminance(picture: Any) -> NDArray[np.float32]:
    from PIL import Image

    # there is one channel already, of 16 or 32 bits
    if picture.mode.startswith(("I", "F")):
        return np.asarray(picture, dtype=np.float32)
    if picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(black, picture.convert("RGBA"))
    return np.asarray(picture.convert("L"), dtype=np.float32)


def _dicom(content: bytes, limits: SliceLimits) -> NDArray[np.float32]:
    # before anything is parsed: pydicom would inflate all of it, and keep each item
    start = content[:DICOM_HEADER_BYTES]
    if DEFLATED in start:
        raise _unsupported_compression()
    if sum(map(start.count, DICOM_ITEMS)) > MAX_DICOM_ITEMS:
        raise _no_image()
    try:
        with _quietly():
            data, pixels_at = _dicom_header(content)
            rows, columns = int(data.Rows), int(data.Columns)
            frames = int(data.get("NumberOfFrames") or 1)
            kind = int(data.get("SamplesPerPixel") or 1), str(data.PhotometricInterpretation)
            bits = int(data.BitsAllocated)
            slope = float(data.get("RescaleSlope") or 1)
            intercept = float(data.get("RescaleIntercept") or 0)
            directions = [float(each) for each in data.get("ImageOrientationPatient") or ()]
    except MemoryError:
        raise
    # pydicom raises almost anything for a header that makes no sense
    except Exception:
        raise _no_image() from None
    _check_size(rows, columns, limits)
    if frames > 1:
        raise _more_than_one(frames)
    if len(directions) == 6:
        _check_plane(np.cross(np.array(directions[:3]), np.array(directions[3:])))
    if kind not in ((1, "MONOCHROME1"), (1, "MONOCHROME2")) or bits not in (8, 16, 32):
        raise UnsupportedDatatype(
            expected="one grey value of 8, 16 or 32 bits per pixel",
            found="colours, or other pixels",
            remedy="Send the image as it was scanned, not a screen shot.",
        )
    pixels = _dicom_pixels(data, content, pixels_at)
    with np.errstate(all="ignore"):
        pixels = pixels * np.float32(slope) + np.float32(intercept)
    return -pixels if kind[1] == "MONOCHROME1" else pixels


def _dicom_header(content: bytes) -> tuple[Any, int]:
    """What a DICOM file says of its pixels, and where these begin."""
    import pydicom

    file = io.BytesIO(content[:DICOM_HEADER_BYTES])
    data = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(DICOM_TAGS))
    return data, file.tell()


def _dicom_pixels(data: Any, content: bytes, at: int) -> NDArray[np.float32]:
    syntax = str(data.file_meta.get("TransferSyntaxUID"))
    if syntax not in NATIVE | JPEGS | {RLE}:
        raise _unsupported_compression()
    kind, pixels = _pixel_data(content, at, *data.original_encoding)
    shape = int(data.Rows), int(data.Columns)
    try:
        with _quietly():
            if syntax not in NATIVE:
                _check_frame(pixels, syntax, shape)
            data.add_new("PixelData", kind, pixels)
            found = np.asarray(data.pixel_array, dtype=np.float32)
    except (ScanError, MemoryError):
        raise
    # and so it does for pixels
    except Exception:
        raise TruncatedScan(
            expected="as many pixels as the header says",
            found="fewer, or damaged ones",
            remedy="Write the image again from its source.",
        ) from None
    if found.shape != shape:
        raise _other_pixels()
    return found


def _pixel_data(content: bytes, at: int, implicit: bool, little: bool) -> tuple[str, bytes]:
    """The VR and the value of the element at a place, which should be the pixel data."""
    tag = b"\xe0\x7f\x10\x00" if little else b"\x7f\xe0\x00\x10"
    kind = b"OW" if implicit else content[at + 4 : at + 6]
    start = at + (8 if implicit else 12)
    if content[at : at + 4] != tag or kind not in (b"OB", b"OW"):
        raise _no_image()
    length = int.from_bytes(content[start - 4 : start], "little" if little else "big")
    end = len(content) if length == 0xFFFFFFFF else start + length
    return kind.decode(), content[start:end]


def _check_frame(pixels: bytes, syntax: str, shape: tuple[int, int]) -> None:
    """Refuse a compressed frame that would unpack to more than the header says."""
    from PIL import Image
    from pydicom.encaps import generate_frames

    frame = next(generate_frames(pixels, number_of_frames=1))
    if syntax == RLE and len(frame) > MAX_RLE_BYTES:
        raise SuspiciousCompression(
            expected=f"run lengths of at most {MAX_RLE_BYTES} bytes",
            found=f"{len(frame)} bytes",
            remedy="Write the file without compression, for instance with `gdcmconv --raw`.",
        )
    if syntax in JPEGS:
        with Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")) as picture:
            if (picture.height, picture.width) != shape:
                raise _other_pixels()


def _nifti_bounds(limits: SliceLimits) -> ScanLimits:
    """Of what stands in a header; the place of a slice in the world is of no use, but must be."""
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


def _nifti(path: Path, limits: SliceLimits) -> NDArray[np.float32]:
    bounds = _nifti_bounds(limits)
    try:
        space = _nifti_space(path, bounds)
    except UnknownFormat:
        raise _unknown() from None
    except UnsupportedDimensions as error:
        raise _not_one_slice(error.found) from None
    shape = space.shape
    if 1 not in shape:
        raise _not_one_slice(" x ".join(map(str, shape)))
    axis = shape.index(1)
    if shape.count(1) == 1:
        _check_plane(space.voxel_to_ras[:3, axis])
    columns, rows = (n for i, n in enumerate(shape) if i != axis)
    _check_size(rows, columns, limits)
    # rows go down from the end of the second axis, as viewers show it
    return np.ascontiguousarray(read_scan(path, bounds).array.squeeze(axis).T[::-1])


def _nifti_space(path: Path, bounds: ScanLimits) -> NativeSpace:
    with path.open("rb") as file:
        compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        stream = GzipStream(file, bounds) if compressed else file
        return parse_header(stream.read(HEADER_BYTES), bounds).space


def _check_plane(across: NDArray[np.float64]) -> None:
    """Refuse a slice whose normal, in the patient's axes, runs from left to right."""
    if np.abs(across).argmax() == 0 and np.abs(across).max() > 0:
        raise UnsupportedPlane(
            expected="an axial or a coronal slice",
            found="a sagittal one",
            remedy="Send slices across the head: its halves are compared.",
        )


def _checked(pixels: NDArray[np.float32], limits: SliceLimits) -> NDArray[np.float32]:
    _check_size(pixels.shape[0], pixels.shape[1], limits)
    finite = np.isfinite(pixels)
    if not finite.any():
        raise NotFiniteScan(
            expected="finite pixels", found="none", remedy="Send the image as it was scanned."
        )
    if not finite.all():
        pixels = np.where(finite, pixels, pixels[finite].min())
    if not pixels.any():
        raise EmptyScan(
            expected="an image", found="zero everywhere", remedy="Send a slice with a head in it."
        )
    if pixels.min() == pixels.max():
        raise ConstantScan(
            expected="an image",
            found="one value everywhere",
            remedy="Send a slice with a head in it.",
        )
    return pixels


def _check_size(rows: int, columns: int, limits: SliceLimits) -> None:
    if min(rows, columns) < limits.min_edge:
        raise UnsupportedDimensions(
            expected=f"at least {limits.min_edge} rows and columns",
            found=f"{rows} x {columns}",
            remedy="Send the slice in full resolution.",
        )
    if max(rows, columns) > limits.max_edge or rows * columns > limits.max_pixels:
        raise _too_large(f"{rows} x {columns}", limits)


def _too_large(found: str, limits: SliceLimits) -> TooManyVoxels:
    return TooManyVoxels(
        expected=f"at most {limits.max_edge} rows, {limits.max_edge} columns and "
        f"{limits.max_pixels} pixels",
        found=found,
        remedy="Send one slice, not a sheet of them.",
    )


def _more_than_one(count: int) -> UnsupportedDimensions:
    return UnsupportedDimensions(
        expected="one image", found=f"{min(count, 99999)}", remedy="Send one slice."
    )


def _not_one_slice(found: str) -> UnsupportedDimensions:
    return UnsupportedDimensions(
        expected="one slice: an image of two dimensions, or with an axis of length 1",
        found=found,
        remedy="Give a whole scan to `neurobento anomaly`, which cuts it into slices.",
    )


def _no_image() -> UnknownFormat:
    return UnknownFormat(
        expected="a DICOM file with an image",
        found="one without it, or a damaged one",
        remedy="Send a file of one slice.",
    )


def _other_pixels() -> UnsupportedDimensions:
    return UnsupportedDimensions(
        expected="as many pixels as the header says",
        found="another number",
        remedy="Write the image again from its source.",
    )


def _unsupported_compression() -> UnsupportedDatatype:
    return UnsupportedDatatype(
        expected="pixels that are not compressed, or as RLE, baseline JPEG or JPEG 2000",
        found="another compression",
        remedy="Write the file without compression, for instance with `gdcmconv --raw`.",
    )


def _unknown() -> UnknownFormat:
    return UnknownFormat(
        expected="a PNG, JPEG, DICOM or NIfTI file",
        found="something else",
        remedy="Send one slice in one of these formats.",
    )
