"""The AAL atlas moved onto a scan: SyN registration with ANTsPy.

Labels made this way are what report A calls the bronze standard: nobody drew
them on this scan.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ConfigError
from neurobento.preprocessing.ants_image import to_ants
from neurobento.scan import read_scan

__all__ = ["Atlas", "find_atlas", "register_atlas"]

DEBIAN_ATLAS = Path("/usr/share/mricron/templates")
"""Where Debian's package mricron-data puts AAL on Colin27."""

BRAIN_FILE, LABEL_FILE = "ch2bet.nii.gz", "aal.nii.gz"


@dataclass(frozen=True, eq=False)
class Atlas:
    """A brain and its AAL labels on one grid.

    Attributes
    ----------
    brain
        (X, Y, Z) float32, Colin27 without skull.
    labels
        Same shape, uint8, class index 0..116.
    voxel_to_ras
        (4, 4), voxel index -> world RAS in mm, of both.
    """

    brain: NDArray[np.float32]
    labels: NDArray[np.uint8]
    voxel_to_ras: NDArray[np.float64]


def find_atlas(folder: Path | None = None) -> Atlas:
    """The atlas in `folder`, or where Debian's mricron-data puts it.

    Raises
    ------
    ConfigError
        A file is missing or the two do not share a grid.
    """
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
) -> NDArray[np.uint8]:
    """AAL labels of a preprocessed image, uint8 on its grid, before any clean-up.

    Parameters
    ----------
    image
        The network's image, (91, 122, 123) float32.
    voxel_to_ras
        (4, 4), its voxel index -> world RAS in mm.
    atlas
        What is moved.
    seed
        ANTs samples voxels at random for the affine stage.
    """
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
    return np.rint(labels.numpy()).astype(np.uint8)
