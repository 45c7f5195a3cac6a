"""Parcellation without a network: ANTs' SyN registers the atlas to the scan, as report A compares.

Preprocessing and the restoring of labels are those of the networks.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ConfigError
from neurobento.imaging.scan import Scan, read_scan
from neurobento.parcellation.parcellator import Parcellation, prepare, restore_and_measure
from neurobento.preprocessing import Preprocessing
from neurobento.preprocessing.ants_image import to_ants
from neurobento.spec import REPORT_A_VERSION

__all__ = ["find_atlas", "parcellate_by_registration", "register"]

DEBIAN_ATLAS = Path("/usr/share/mricron/templates")
"""Folder of AAL on Colin27 in Debian's package mricron-data."""

BRAIN_FILE, LABEL_FILE = "ch2bet.nii.gz", "aal.nii.gz"

SEED = 0
"""ANTs samples voxels at random for the affine stage."""

Atlas = tuple[Scan, Scan]
"""The brain without skull and its labels, on one grid."""


def find_atlas(folder: Path | None = None) -> Atlas:
    """Read the atlas from `folder`, by default that of Debian's mricron-data."""
    folder = folder or DEBIAN_ATLAS
    for name in (BRAIN_FILE, LABEL_FILE):
        if not (folder / name).is_file():
            raise ConfigError(
                subject=str(folder),
                expected=f"the atlas files {BRAIN_FILE} and {LABEL_FILE}",
                found=f"no {name}",
                remedy="Install them (`apt install mricron-data`) or give --atlas FOLDER.",
            )
    return read_scan(folder / BRAIN_FILE), read_scan(folder / LABEL_FILE)


def parcellate_by_registration(
    scan: Scan, preprocessing: Preprocessing, atlas: Atlas
) -> Parcellation:
    """Return the parcellation of a scan; its seconds have `register` instead of `infer`."""
    prepared = prepare(scan, preprocessing, REPORT_A_VERSION)
    start = time.perf_counter()
    labels = register(prepared.image, prepared.grid.network_voxel_to_ras, atlas)
    seconds = {"register": time.perf_counter() - start}
    return restore_and_measure(prepared, labels, seconds)


def register(
    image: NDArray[np.float32], voxel_to_ras: NDArray[np.float64], atlas: Atlas
) -> NDArray[np.uint8]:
    """Return the atlas's labels on an image, uint8 of its shape."""
    import ants

    brain, labels = (to_ants(part.array, part.voxel_to_ras) for part in atlas)
    fixed = to_ants(image, voxel_to_ras)
    with tempfile.TemporaryDirectory(prefix="neurobento-syn-") as folder:
        found = ants.registration(
            fixed, brain, type_of_transform="SyN", random_seed=SEED, outprefix=f"{folder}/"
        )
        moved = ants.apply_transforms(
            fixed, labels, found["fwdtransforms"], interpolator="genericLabel"
        )
    return np.asarray(np.rint(moved.numpy()), np.uint8)
