"""The limits on a slice, and the checks that all formats share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import TooManyVoxels, UnsupportedDimensions, UnsupportedPlane

__all__ = ["SliceLimits", "check_plane", "check_size", "more_than_one", "too_large"]


@dataclass(frozen=True)
class SliceLimits:
    """Upper and lower bounds on what is decoded."""

    # The file as stored.
    max_file_bytes: int = 64 << 20
    max_pixels: int = 4096 * 4096
    # Rows and columns; a slice is fitted into a square as long as its longer edge.
    min_edge: int = 32
    max_edge: int = 4096


def check_size(rows: int, columns: int, limits: SliceLimits) -> None:
    """Refuse a slice with too few or too many rows, columns or pixels."""
    if min(rows, columns) < limits.min_edge:
        raise UnsupportedDimensions(
            expected=f"at least {limits.min_edge} rows and columns",
            found=f"{rows} x {columns}",
            remedy="Send the slice in full resolution.",
        )
    if max(rows, columns) > limits.max_edge or rows * columns > limits.max_pixels:
        raise too_large(f"{rows} x {columns}", limits)


def check_plane(normal: NDArray[np.float64]) -> None:
    """Refuse a sagittal slice: its normal, (3,) in the patient's axes, runs left to right."""
    if np.abs(normal).argmax() == 0 and np.abs(normal).max() > 0:
        raise UnsupportedPlane(
            expected="an axial or a coronal slice",
            found="a sagittal slice",
            remedy="Send slices across the head: its halves are compared.",
        )


def too_large(found: str, limits: SliceLimits) -> TooManyVoxels:
    """Return the error for a slice beyond the limits."""
    return TooManyVoxels(
        expected=f"at most {limits.max_edge} rows, {limits.max_edge} columns and "
        f"{limits.max_pixels} pixels",
        found=found,
        remedy="Send one slice, not a sheet of them.",
    )


def more_than_one(count: int) -> UnsupportedDimensions:
    """Return the error for a file with several images."""
    return UnsupportedDimensions(
        expected="one image", found=f"{min(count, 99999)} images", remedy="Send one slice."
    )
