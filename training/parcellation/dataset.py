"""Image and label pairs, from a folder or a packed file, split by subject, held in memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurobento.errors import ConfigError
from neurobento.files import replacing
from neurobento.imaging.geometry import NETWORK_SHAPE

__all__ = [
    "Pair",
    "PairSource",
    "Split",
    "find_split",
    "load_pairs",
    "name_matches",
    "open_pairs",
    "write_pack",
]

IMAGE_SUFFIX, LABEL_SUFFIX = "_image.nii.gz", "_labels.nii.gz"
POSITION_SUFFIX = "_positions.nii.gz"
POSITION_SHAPE = (*(-(-n // 2) for n in NETWORK_SHAPE), 3)
POSITION_STEP_MM = 0.05
"""Positions in a pack are rounded to multiples of this."""


@dataclass(frozen=True, eq=False)
class Pair:
    """One scan's image and labels on the network grid."""

    # of the scan, without suffix
    name: str
    # (1, 91, 122, 123) uint8; 255 is an intensity of 1
    image: Tensor
    # (91, 122, 123) uint8, class index 0..116
    labels: Tensor
    # (4, 4) float64, network voxel index -> world RAS in mm
    voxel_to_ras: NDArray[np.float64]
    # (3, 46, 61, 62) float32: position of each 2 x 2 x 2 block's centre in the atlas, RAS mm
    positions: Tensor

    def float_image(self) -> Tensor:
        """Return the image as float32 in [0, 1]."""
        return self.image.float() / 255


class PairSource(Protocol):
    """A folder or a file of pairs."""

    path: Path

    def names(self) -> list[str]:
        """Return every pair's name, in alphabetical order."""

    def load(self, name: str) -> Pair:
        """Read a pair."""


def open_pairs(path: Path) -> PairSource:
    """Open the pairs in a folder of labels or in a packed file."""
    if path.is_dir():
        return _Folder(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _Pack(path)
    raise ConfigError(
        subject=str(path),
        expected="a folder of training.parcellation.label or a file of training.parcellation.pack",
        found="another kind of file" if path.exists() else "nothing",
        remedy="Label scans with `python -m training.parcellation.label`.",
    )


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        found = self.path.rglob(f"*{IMAGE_SUFFIX}")
        return sorted(p.relative_to(self.path).as_posix()[: -len(IMAGE_SUFFIX)] for p in found)

    def load(self, name: str) -> Pair:
        image = self._open(name, IMAGE_SUFFIX, NETWORK_SHAPE)
        labels = self._open(name, LABEL_SUFFIX, NETWORK_SHAPE)
        positions = self._open(name, POSITION_SUFFIX, POSITION_SHAPE)
        return _pair(
            name,
            np.rint(np.asarray(image.dataobj, dtype=np.float32) * 255).astype(np.uint8),
            np.asarray(labels.dataobj).astype(np.uint8),
            np.asarray(image.affine, dtype=np.float64),
            np.asarray(positions.dataobj, dtype=np.float32),
        )

    def _open(self, name: str, suffix: str, shape: tuple[int, ...]) -> Any:
        path = self.path / (name + suffix)
        file = nib.load(path) if path.is_file() else None
        if file is None or file.shape != shape:
            raise ConfigError(
                subject=name + suffix,
                expected=f"an array of shape {shape}",
                found=str(file.shape) if file else "no file",
                remedy="Make the pairs again with `python -m training.parcellation.label`.",
            )
        return file


class _Pack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        with np.load(self.path, allow_pickle=False) as arrays:
            return sorted(key[: -len("/image")] for key in arrays.files if key.endswith("/image"))

    def load(self, name: str) -> Pair:
        with np.load(self.path, allow_pickle=False) as arrays:
            steps = _sums(arrays[f"{name}/positions"])
            return _pair(
                name,
                arrays[f"{name}/image"],
                arrays[f"{name}/labels"],
                arrays[f"{name}/voxel_to_ras"],
                (steps * POSITION_STEP_MM).astype(np.float32),
            )


def write_pack(path: Path, pairs: Sequence[Pair]) -> None:
    """Write pairs into one file, whole or not at all; it is a zip of NumPy arrays.

    Positions are stored as differences along each axis, to a fortieth of a millimetre.
    """
    with replacing(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_LZMA) as file:
        for pair in pairs:
            steps = np.rint(pair.positions.permute(1, 2, 3, 0).numpy() / POSITION_STEP_MM)
            arrays = {
                "image": pair.image[0].numpy(),
                "labels": pair.labels.numpy(),
                "voxel_to_ras": pair.voxel_to_ras,
                "positions": _differences(steps.astype(np.int16)),
            }
            for key, array in arrays.items():
                with file.open(f"{pair.name}/{key}.npy", "w") as member:
                    np.lib.format.write_array(  # type: ignore[no-untyped-call]
                        member, array, allow_pickle=False
                    )


def _differences(steps: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return differences along the first three axes in turn: small numbers, which pack well."""
    for axis in range(3):
        steps = np.diff(steps, axis=axis, prepend=np.int16(0))
    return steps


def _sums(differences: NDArray[np.int16]) -> NDArray[np.int16]:
    """Invert `_differences`, overflow included."""
    for axis in range(3):
        differences = np.cumsum(differences, axis=axis, dtype=np.int16)
    return differences


def _pair(
    name: str,
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    voxel_to_ras: NDArray[np.float64],
    positions: NDArray[np.float32],
) -> Pair:
    return Pair(
        name=name,
        image=torch.from_numpy(image)[None],
        labels=torch.from_numpy(labels),
        voxel_to_ras=voxel_to_ras,
        positions=torch.from_numpy(positions).permute(3, 0, 1, 2).contiguous(),
    )


@dataclass(frozen=True)
class Split:
    """Names of the scans in each part; no scan is in two."""

    # validation decides when training stops
    train: tuple[str, ...]
    validation: tuple[str, ...]
    # group -> scans that training never sees
    test: Mapping[str, tuple[str, ...]]


def find_split(
    source: PairSource,
    train: Sequence[str],
    validation: Sequence[str],
    test: Mapping[str, Sequence[str]],
    *,
    tests_required: bool = True,
) -> Split:
    """Return the split that glob patterns of names, such as "cohort/sub-0[1-4]*", describe.

    Every pattern must match; those of tests may match nothing if not `tests_required`.
    """
    parts = {"train": _matches(source, train), "validation": _matches(source, validation)}
    groups = {name: _matches(source, patterns, tests_required) for name, patterns in test.items()}
    everything = [n for names in [*parts.values(), *groups.values()] for n in names]
    twice = {n for n in everything if everything.count(n) > 1}
    if twice:
        raise ConfigError(
            subject=str(source.path),
            expected="every scan in one part of the split",
            found=f"{', '.join(sorted(twice))} in two",
            remedy="Correct the patterns of the recipe.",
        )
    return Split(**parts, test=groups)


def _matches(source: PairSource, patterns: Sequence[str], required: bool = True) -> tuple[str, ...]:
    names = source.names()
    matched: list[str] = []
    for pattern in patterns:
        found = [name for name in names if name_matches(name, pattern)]
        if required and not found:
            raise ConfigError(
                subject=str(source.path),
                expected=f"pairs that match {pattern!r}",
                found="none",
                remedy="Run `python -m training.parcellation.label`, or correct the recipe.",
            )
        matched += found
    return tuple(dict.fromkeys(matched))


def name_matches(name: str, pattern: str) -> bool:
    """Return True if a name matches a pattern folder by folder, as in a file system."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def load_pairs(source: PairSource, names: Sequence[str]) -> list[Pair]:
    """Read the pairs of these names."""
    return [source.load(name) for name in names]
