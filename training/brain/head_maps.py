"""Whole-head label maps, from which heads of any contrast are drawn.

The maps have FreeSurfer's values inside the skull (aseg; 24 is cerebrospinal fluid) and SynthSeg's
tissues outside it (Billot et al. 2023, 10.1016/j.media.2023.102789), stored as 200 + (value - 500).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import axis_codes
from neurobento.preprocessing.tissues import TISSUES

__all__ = [
    "OUTSIDE_SKULL",
    "STRUCTURES",
    "STRUCTURE_OF_VALUE",
    "TISSUE_OF_VALUE",
    "HeadMap",
    "read_head_maps",
]

OUTSIDE_SKULL = 200
"""Lowest value of a tissue outside the skull."""

STRUCTURES: dict[str, tuple[int, ...]] = {
    "air": (0,),
    "cerebrospinal fluid": (24,),
    # with the choroid plexus
    "ventricles": (4, 5, 14, 15, 43, 44, 72, 136, 137, 163, 164),
    "cerebral cortex": (3, 42),
    # with lesions, vessels and the optic chiasm
    "cerebral white matter": (2, 41, 25, 57, 30, 62, 77, 85),
    "caudate and accumbens": (11, 50, 26, 58),
    "putamen": (12, 51),
    "pallidum": (13, 52),
    "thalamus": (10, 49),
    "ventral diencephalon": (28, 60),
    "hippocampus": (17, 53),
    "amygdala": (18, 54),
    "cerebellar cortex": (8, 47),
    "cerebellar white matter": (7, 46),
    "brainstem": (16,),
    "spinal cord": (212,),
    "dura": (214,),
    "skull": (215,),
    "marrow": (216,),
    "skin and fat": (211,),
    "muscle": (207,),
    "eyes": (209,),
    "lenses": (206,),
    "vessels": (202,),
    "mucosa": (208,),
    "optic nerve": (230,),
    # given to the fluid below the brainstem by `_end_at_brainstem`
    "spinal fluid": (255,),
}
"""Structures that have one intensity in a drawn head -> their values in a map."""

_DEEP = ("caudate and accumbens", "putamen", "pallidum", "thalamus", "ventral diencephalon")
_MEDIAL = ("hippocampus", "amygdala")


def _tissue(structure: str) -> int:
    if structure in TISSUES:
        return TISSUES.index(structure)
    if structure in _DEEP:
        return TISSUES.index("deep grey matter")
    if structure in _MEDIAL:
        return TISSUES.index("hippocampus and amygdala")
    return TISSUES.index("other head")


def _table(of_structure: Sequence[int], otherwise: int) -> Tensor:
    table = torch.full((256,), otherwise, dtype=torch.long)
    for number, values in zip(of_structure, STRUCTURES.values(), strict=True):
        table[list(values)] = number
    return table


TISSUE_OF_VALUE = _table([_tissue(name) for name in STRUCTURES], TISSUES.index("other head"))
"""Value in a map -> place in `TISSUES`."""

STRUCTURE_OF_VALUE = _table(range(len(STRUCTURES)), list(STRUCTURES).index("muscle"))
"""Value in a map -> place in `STRUCTURES`."""


@dataclass(frozen=True, eq=False)
class HeadMap:
    """One head's map."""

    name: str
    # (X, Y, Z) uint8, RAS, 1 mm
    values: Tensor


def read_head_maps(folder: Path) -> list[HeadMap]:
    """Read all maps in a folder (`*.nii.gz`), turned to RAS."""
    paths = sorted(folder.glob("*.nii.gz"))
    if not paths:
        raise ConfigError(
            subject=str(folder),
            expected="label maps of heads, *.nii.gz",
            found="none",
            remedy="Give the folder of SynthSeg's training label maps.",
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> HeadMap:
    image = nib.as_closest_canonical(nib.load(path))
    values = np.asarray(image.dataobj)
    sizes = np.sqrt((image.affine[:3, :3] ** 2).sum(axis=0))
    if values.dtype != np.uint8 or values.ndim != 3 or np.abs(sizes - 1).max() > 0.01:
        raise ConfigError(
            subject=str(path),
            expected="a label map of type uint8 with voxels of 1 mm",
            found=f"{values.dtype}, {sizes.round(2).tolist()} mm, {axis_codes(image.affine)}",
            remedy="Resample it with nearest neighbours.",
        )
    return HeadMap(path.name.removesuffix(".nii.gz"), torch.from_numpy(_end_at_brainstem(values)))


def _end_at_brainstem(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give the fluid below the brainstem a value of its own: the brain ends there."""
    (brainstem,), (fluid,) = STRUCTURES["brainstem"], STRUCTURES["cerebrospinal fluid"]
    heights = np.flatnonzero((values == brainstem).any(axis=(0, 1)))
    lowest = heights[0] if len(heights) else 0
    values = values.copy()
    below = values[:, :, :lowest]
    below[below == fluid] = STRUCTURES["spinal fluid"][0]
    return values
