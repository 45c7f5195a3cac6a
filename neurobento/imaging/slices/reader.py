"""Read a 2D slice from a PNG, JPEG, DICOM or NIfTI file; its first bytes show the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import (
    ConstantScan,
    EmptyScan,
    FileTooLarge,
    NotFiniteScan,
    ScanError,
    UnknownFormat,
)
from neurobento.imaging.slices.dicom import DICOM_MAGIC, DICOM_MAGIC_AT, read_dicom
from neurobento.imaging.slices.limits import SliceLimits, check_size
from neurobento.imaging.slices.nifti import read_nifti, read_nifti_space
from neurobento.imaging.slices.picture import PICTURE_MAGICS, read_picture

__all__ = ["holds_slice", "read_slice"]

SIGNATURE_BYTES = DICOM_MAGIC_AT + len(DICOM_MAGIC)


def read_slice(path: Path, limits: SliceLimits | None = None) -> NDArray[np.float32]:
    """Return the grey values of one slice, (rows, columns) float32, finite.

    A DICOM file has one frame, a NIfTI file two dimensions or an axis of length 1. Colours become
    luminance, transparent pixels black; a sagittal slice is refused. Errors have `path` as subject.
    """
    try:
        return _read(path, limits or SliceLimits())
    except ScanError as error:
        raise error.about(str(path)) from None


def holds_slice(path: Path) -> bool:
    """Return True for a file for `read_slice`, or of unknown format; False for `read_scan`'s."""
    signature = _signature(path)
    if signature.startswith(PICTURE_MAGICS) or signature[DICOM_MAGIC_AT:] == DICOM_MAGIC:
        return True
    try:
        return 1 in read_nifti_space(path, SliceLimits()).shape
    except UnknownFormat:
        return True
    except ScanError:
        return False


def _signature(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(SIGNATURE_BYTES)


def _read(path: Path, limits: SliceLimits) -> NDArray[np.float32]:
    size = path.stat().st_size
    if size > limits.max_file_bytes:
        raise FileTooLarge(
            expected=f"a file of at most {limits.max_file_bytes} bytes",
            found=f"{size} bytes",
            remedy="Send one slice.",
        )
    signature = _signature(path)
    if signature.startswith(PICTURE_MAGICS):
        pixels = read_picture(path.read_bytes(), limits)
    elif signature[DICOM_MAGIC_AT:] == DICOM_MAGIC:
        pixels = read_dicom(path.read_bytes(), limits)
    else:
        pixels = read_nifti(path, limits)
    return _checked_pixels(pixels, limits)


def _checked_pixels(pixels: NDArray[np.float32], limits: SliceLimits) -> NDArray[np.float32]:
    """Return finite pixels that show something; what is not finite becomes the least value."""
    check_size(pixels.shape[0], pixels.shape[1], limits)
    finite = np.isfinite(pixels)
    if not finite.any():
        raise NotFiniteScan(
            expected="finite pixels",
            found="NaN or infinity in every pixel",
            remedy="Send the image as it was scanned.",
        )
    if not finite.all():
        pixels = np.where(finite, pixels, pixels[finite].min())
    remedy = "Send a slice with a head in it."
    if not pixels.any():
        raise EmptyScan(expected="an image", found="zero everywhere", remedy=remedy)
    if pixels.min() == pixels.max():
        raise ConstantScan(expected="an image", found="one value everywhere", remedy=remedy)
    return pixels
