"""The AAL atlas moved onto a scan: SyN registration with ANTsPy, report A's bronze standard."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ConfigError
from neurobento.imaging.scan import read_scan
from neurobento.preprocessing.ants_image import RAS_TO_LPS, to_ants

__all__ = ["Atlas", "Registered", "find_atlas", "register_atlas"]

DEBIAN_ATLAS = Path("/usr/share/mricron/templates")
"""The folder of Debian's package mricron-data, which has AAL on Colin27."""

BRAIN_FILE, LABEL_FILE = "ch2bet.nii.gz", "aal.nii.gz"


@dataclass(frozen=True, eq=False)
class Atlas:
    """A brain and its AAL labels on one grid."""

    # (X, Y, Z), Colin27 without skull
    brain: NDArray[np.float32]
    # the same shape, class index 0..116
    labels: NDArray[np.uint8]
    voxel_to_ras: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Registered:
    """An atlas on a scan."""

    # the image's shape, class index 0..116
    labels: NDArray[np.uint8]
    # (X/2, Y/2, Z/2, 3), halves rounded up: position in the atlas's world, RAS mm, of the centre
    # of each block of 2 x 2 x 2 voxels of the image
    positions: NDArray[np.float32]


def find_atlas(folder: Path | None = None) -> Atlas:
    """Read the atlas in `folder`, or in the folder of Debian's mricron-data."""
    folder = folder or DEBIAN_ATLAS
    for name in (BRAIN_FILE, LABEL_FILE):
        if not (folder / name).is_file():
            raise ConfigError(
                subject=str(folder),
                expected=f"the atlas files {BRAIN_FILE} and {LABEL_FILE}",
                found=f"no {name}",
                remedy="Install them (`apt install mricron-data`) or give --atlas FOLDER.",
            )
    brain, labels = read_scan(folder / BRAIN_FILE), read_scan(folder / LABEL_FILE)
    if brain.shape != labels.shape or not np.allclose(brain.voxel_to_ras, labels.voxel_to_ras):
        raise ConfigError(
            subject=str(folder),
            expected="brain and labels on one grid",
            found="two grids",
            remedy="Take both files from one release of mricron-data.",
        )
    return Atlas(brain.array, labels.array.astype(np.uint8), brain.voxel_to_ras)


def register_atlas(
    image: NDArray[np.float32], voxel_to_ras: NDArray[np.float64], atlas: Atlas, *, seed: int
) -> Registered:
    """Register the atlas to a preprocessed image (91, 122, 123) with its affine (4, 4)."""
    import ants

    fixed = to_ants(image, voxel_to_ras)
    moving = to_ants(atlas.brain, atlas.voxel_to_ras)
    with tempfile.TemporaryDirectory(prefix="neurobento-syn-") as folder:
        registration = ants.registration(
            fixed, moving, type_of_transform="SyN", random_seed=seed, outprefix=f"{folder}/"
        )
        labels = ants.apply_transforms(
            fixed,
            to_ants(atlas.labels, atlas.voxel_to_ras),
            registration["fwdtransforms"],
            interpolator="genericLabel",
        )
        positions = _atlas_positions(image.shape, voxel_to_ras, registration["fwdtransforms"])
    return Registered(np.rint(labels.numpy()).astype(np.uint8), positions)


def _atlas_positions(
    shape: tuple[int, ...], voxel_to_ras: NDArray[np.float64], transforms: list[str]
) -> NDArray[np.float32]:
    """Return the atlas position at which the transforms sample each block of an image."""
    import ants
    import pandas as pd

    counts = [-(-n // 2) for n in shape]
    axes = [2.0 * np.arange(n) + 0.5 for n in counts]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    world = voxels @ voxel_to_ras[:3, :3].T + voxel_to_ras[:3, 3]
    points = pd.DataFrame(world @ RAS_TO_LPS, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, points, transforms)[["x", "y", "z"]].to_numpy()
    return np.asarray((moved @ RAS_TO_LPS).astype(np.float32).reshape(*counts, 3))
