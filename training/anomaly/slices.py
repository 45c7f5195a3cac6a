"""2D slices in folders `no` and `yes`, or `normal` and `tumor`, with near-duplicates grouped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.fit import FittedSlice, fit_slice
from neurobento.errors import ConfigError, ScanError
from neurobento.imaging.slices.reader import read_slice

__all__ = ["SAME_PICTURE", "Slices", "folds_of", "read_slices"]

NORMAL, TUMOUR = ("no", "normal"), ("yes", "tumor")

SAME_PICTURE = 6
"""Largest difference, in bits of 64, between perceptual hashes of copies of one picture."""


@dataclass(frozen=True, eq=False)
class Slices:
    """Slices of one folder, the normal ones first, by name."""

    # folder and file name
    names: tuple[str, ...]
    fitted: tuple[FittedSlice, ...]
    # (N,): a tumour is in it
    tumour: NDArray[np.bool_]
    # (N,): slices of one group show the same picture, and stay on one side of a split
    group: NDArray[np.int64]
    # name -> (N,) numbers that have nothing to do with a brain but may give the class away
    facts: dict[str, NDArray[np.float64]]

    @property
    def images(self) -> NDArray[np.float32]:
        """The slices as networks see them, (N, 128, 128) in [0, 1]."""
        return np.stack([each.image for each in self.fitted])

    def one_of_each(self) -> NDArray[np.int64]:
        """Return the index of the first slice of each group whose slices are of one class."""
        return np.array(
            [
                members[0]
                for members in (np.flatnonzero(self.group == g) for g in np.unique(self.group))
                if len(set(self.tumour[members].tolist())) == 1
            ]
        )


def read_slices(folder: Path) -> Slices:
    """Read the slices in a folder; ConfigError without normal ones or ones with a tumour."""
    found = [(path, False) for path in _files(folder, NORMAL)]
    found += [(path, True) for path in _files(folder, TUMOUR)]
    pixels = []
    for path, _ in found:
        try:
            pixels.append(read_slice(path))
        except ScanError as error:
            raise error.about(str(path)) from None
    return Slices(
        names=tuple(f"{path.parent.name}/{path.name}" for path, _ in found),
        fitted=tuple(fit_slice(each) for each in pixels),
        tumour=np.array([tumour for _, tumour in found]),
        group=_groups([_hash(each) for each in pixels]),
        facts={
            "mean intensity": np.array([each.mean() for each in pixels], float),
            "rows": np.array([each.shape[0] for each in pixels], float),
            "columns": np.array([each.shape[1] for each in pixels], float),
            "file size": np.array([path.stat().st_size for path, _ in found], float),
        },
    )


def _files(folder: Path, names: tuple[str, ...]) -> list[Path]:
    inside = next((folder / name for name in names if (folder / name).is_dir()), None)
    files = sorted(p for p in inside.iterdir() if p.is_file()) if inside else []
    if not files:
        raise ConfigError(
            subject=str(folder),
            expected=f"a folder {' or '.join(names)} with slices in it",
            found="none",
            remedy="Sort the slices into `no` and `yes`.",
        )
    return files


def _hash(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return 64 bits that resizing and compression change little."""
    import imagehash
    from PIL import Image

    grey = 255 * (pixels - pixels.min()) / (pixels.max() - pixels.min())
    bits = imagehash.phash(Image.fromarray(grey.astype(np.uint8))).hash
    return np.asarray(bits, bool).ravel()


def _groups(hashes: list[NDArray[np.bool_]]) -> NDArray[np.int64]:
    """Group slices that are connected by hashes that differ in few bits."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    bits = np.stack(hashes)
    near = (bits[:, None] != bits[None]).sum(-1) <= SAME_PICTURE
    return np.asarray(connected_components(csr_array(near), directed=False)[1], np.int64)


def folds_of(group: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Assign each slice to a fold, all of about the same size; a group stays in one fold."""
    kinds, place = np.unique(group, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(kinds))
    return np.asarray(order[place] % folds, np.int64)
