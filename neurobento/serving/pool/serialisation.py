"""Serialise prepared scans, slices and errors between the preprocessing service and its caller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from neurobento import errors
from neurobento.anomaly.fit import FittedSlice
from neurobento.imaging.geometry import Grid
from neurobento.imaging.native_space import NativeSpace
from neurobento.parcellation.parcellator import PreparedScan
from neurobento.preprocessing.brain import Brain
from neurobento.serving.tasks.parcellation.image_files import open_image, write_image

__all__ = ["PreparedSlice", "pack_error", "pack_scan", "pack_slice", "unpack_scan", "unpack_slice"]


@dataclass(frozen=True, eq=False)
class PreparedSlice:
    """A slice as it was read, and as the network sees it."""

    pixels: NDArray[np.float32]
    """(rows, columns), in a file."""
    fitted: FittedSlice
    seconds: dict[str, float]
    """Seconds of each stage so far."""


def pack_scan(prepared: PreparedScan, file: Path) -> dict[str, Any]:
    """Return a prepared scan as plain values and small arrays; write its image to a file."""
    write_image(file, prepared.image)
    return {
        "image": str(file),
        "native_shape": prepared.space.shape,
        "native_voxel_to_ras": prepared.space.voxel_to_ras,
        "native_header": prepared.space.header.binaryblock,
        "network_voxel_to_ras": prepared.grid.network_voxel_to_ras,
        "preprocessing": prepared.preprocessing,
        "seconds": prepared.seconds,
        "brain": None if prepared.brain is None else vars(prepared.brain),
    }


def pack_slice(
    pixels: NDArray[np.float32], fitted: FittedSlice, seconds: dict[str, float], file: Path
) -> dict[str, Any]:
    """Return a slice as plain values and the network's small image; write its pixels to a file."""
    write_image(file, pixels)
    return {
        "pixels": str(file),
        "image": fitted.image,
        "shape": fitted.shape,
        "corner": fitted.corner,
        "edge": fitted.edge,
        "seconds": seconds,
    }


def pack_error(error: errors.NeuroBentoError) -> dict[str, Any]:
    """Return an error as plain values, without its subject, which may be a path."""
    return {"error": type(error).__name__, **error.parts, "subject": None}


def unpack_scan(values: dict[str, Any]) -> PreparedScan:
    """Return the scan that `pack_scan` packed, or raise the error that `pack_error` packed."""
    _raise_error(values)
    shape = tuple(values["native_shape"])
    block = bytes(values["native_header"])
    header_kind = nib.Nifti2Header if len(block) == 540 else nib.Nifti1Header
    affine = values["native_voxel_to_ras"]
    return PreparedScan(
        image=open_image(Path(values["image"])),
        grid=Grid(shape, affine, values["network_voxel_to_ras"]),
        space=NativeSpace(shape, affine, header_kind(block)),
        preprocessing=values["preprocessing"],
        seconds=dict(values["seconds"]),
        brain=None if values["brain"] is None else Brain(**values["brain"]),
    )


def unpack_slice(values: dict[str, Any]) -> PreparedSlice:
    """Return the slice that `pack_slice` packed, or raise the error that `pack_error` packed."""
    _raise_error(values)
    rows, columns = values["shape"]
    top, left = values["corner"]
    return PreparedSlice(
        pixels=open_image(Path(values["pixels"]), (rows, columns)),
        fitted=FittedSlice(values["image"], (rows, columns), (top, left), values["edge"]),
        seconds=dict(values["seconds"]),
    )


def _raise_error(values: dict[str, Any]) -> None:
    if "error" in values:
        parts = dict(values)
        kind: type[errors.NeuroBentoError] = getattr(errors, parts.pop("error"))
        raise kind(**parts)
