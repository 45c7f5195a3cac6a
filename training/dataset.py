"""Image and label pairs made by `training.label`, split by subject, held in memory.

A pair on the network grid takes 2.7 MB as uint8 image and uint8 labels, so a
cohort fits in memory and nothing is read from disk while a network trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurobento.errors import ConfigError
from neurobento.geometry import NETWORK_SHAPE

__all__ = ["Pair", "Split", "find_split", "load_pairs"]

IMAGE_SUFFIX, LABEL_SUFFIX = "_image.nii.gz", "_labels.nii.gz"


@dataclass(frozen=True, eq=False)
class Pair:
    """One scan's image and labels on the network grid.

    Attributes
    ----------
    name
        The scan's name, without suffix.
    image
        (1, 91, 122, 123) uint8; 255 is an intensity of 1.
    labels
        (91, 122, 123) uint8, class index 0..116.
    voxel_to_ras
        (4, 4) float64, network voxel index -> world RAS in mm.
    """

    name: str
    image: Tensor
    labels: Tensor
    voxel_to_ras: NDArray[np.float64]

    def float_image(self) -> Tensor:
        """(1, 91, 122, 123) float32 in [0, 1]."""
        return self.image.float() / 255


@dataclass(frozen=True)
class Split:
    """Names of the scans in each part; no scan is in two.

    Attributes
    ----------
    train, validation
        What the network learns from, and what stops it.
    test
        Named groups that training never sees.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: Mapping[str, tuple[str, ...]]


def find_split(
    folder: Path,
    train: Sequence[str],
    validation: Sequence[str],
    test: Mapping[str, Sequence[str]],
    *,
    tests_required: bool = True,
) -> Split:
    """The split that lists of glob patterns describe.

    Parameters
    ----------
    folder
        Where `training.label` wrote; patterns are relative to it and match
        scan names, such as "cohort/sub-0[1-4]*".
    train, validation, test
        Patterns of each part. Every pattern must match.
    tests_required
        False lets test patterns match nothing: training can begin before the
        test scans are labelled.

    Raises
    ------
    ConfigError
        A pattern matches nothing, or a scan is in two parts.
    """
    parts = {"train": _matches(folder, train), "validation": _matches(folder, validation)}
    groups = {name: _matches(folder, patterns, tests_required) for name, patterns in test.items()}
    everything = [n for names in [*parts.values(), *groups.values()] for n in names]
    twice = {n for n in everything if everything.count(n) > 1}
    if twice:
        raise ConfigError(
            subject=str(folder),
            expected="every scan in one part of the split",
            found=f"{', '.join(sorted(twice))} in two",
            remedy="Correct the patterns of the recipe.",
        )
    return Split(**parts, test=groups)


def _matches(folder: Path, patterns: Sequence[str], required: bool = True) -> tuple[str, ...]:
    names: list[str] = []
    for pattern in patterns:
        found = sorted(folder.glob(pattern + IMAGE_SUFFIX))
        if required and not found:
            raise ConfigError(
                subject=str(folder),
                expected=f"pairs that match {pattern!r}",
                found="none",
                remedy="Make them with `python -m training.label`, or correct the recipe.",
            )
        names += [str(p.relative_to(folder)).removesuffix(IMAGE_SUFFIX) for p in found]
    return tuple(dict.fromkeys(names))


def load_pairs(folder: Path, names: Sequence[str]) -> list[Pair]:
    """The pairs of these names.

    Raises
    ------
    ConfigError
        A pair is not on the network grid.
    """
    return [_load_pair(folder, name) for name in names]


def _load_pair(folder: Path, name: str) -> Pair:
    image_file = nib.load(folder / (name + IMAGE_SUFFIX))
    image = np.asarray(image_file.dataobj, dtype=np.float32)
    labels = np.asarray(nib.load(folder / (name + LABEL_SUFFIX)).dataobj)
    for array in (image, labels):
        if array.shape != NETWORK_SHAPE:
            raise ConfigError(
                subject=name,
                expected=f"a pair of shape {NETWORK_SHAPE}",
                found=str(array.shape),
                remedy="Make the pairs again with `python -m training.label`.",
            )
    return Pair(
        name=name,
        image=torch.from_numpy(np.rint(image * 255).astype(np.uint8))[None],
        labels=torch.from_numpy(labels.astype(np.uint8)),
        voxel_to_ras=np.asarray(image_file.affine, dtype=np.float64),
    )
