"""What crosses from the preprocessing service to the front, as plain values and small arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib

from neurobento import errors
from neurobento.geometry import Grid
from neurobento.parcellation import Prepared
from neurobento.scan import NativeSpace
from serving.grid_images import open_image, write_image

__all__ = ["pack_error", "pack_prepared", "unpack"]


def pack_prepared(prepared: Prepared, file: Path) -> dict[str, Any]:
    """A prepared scan as a dictionary of arrays and plain values; its image goes into a file."""
    write_image(file, prepared.image)
    return {
        "image": str(file),
        "native_shape": prepared.space.shape,
        "native_voxel_to_ras": prepared.space.voxel_to_ras,
        "native_header": prepared.space.header.binaryblock,
        "network_voxel_to_ras": prepared.grid.network_voxel_to_ras,
        "level": prepared.level,
        "seconds": prepared.seconds,
    }


def pack_error(error: errors.NeuroBentoError) -> dict[str, Any]:
    """An error as plain values; its subject, which may be a path, stays behind."""
    return {"error": type(error).__name__, **error.parts, "subject": None}


def unpack(values: dict[str, Any]) -> Prepared:
    """The prepared scan that was packed.

    Raises
    ------
    NeuroBentoError
        The error that was packed instead.
    """
    values = dict(values)
    if "error" in values:
        kind: type[errors.NeuroBentoError] = getattr(errors, values.pop("error"))
        raise kind(**values)
    shape = tuple(values["native_shape"])
    block = bytes(values["native_header"])
    header_kind = nib.Nifti2Header if len(block) == 540 else nib.Nifti1Header
    affine = values["native_voxel_to_ras"]
    return Prepared(
        image=open_image(Path(values["image"])),
        grid=Grid(shape, affine, values["network_voxel_to_ras"]),
        space=NativeSpace(shape, affine, header_kind(block)),
        level=values["level"],
        seconds=dict(values["seconds"]),
    )
