"""Read the labels of an atlas on a scan's grid, through a smooth map from the scan into the atlas.

The map is known for blocks of voxels and interpolated between them, so the labels have the atlas's
own resolution on any grid, without the steps of the network's voxels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm

__all__ = ["Atlas", "AtlasMap", "Mask"]

EXTENSION = 4
"""Blocks by which a map is continued as a straight line, so that it leaves the atlas's brain."""

LATTICE_BLOCKS = 0.55
"""Largest distance, in blocks, of the places at which a map is read before it is filled in."""

SLAB_STEPS = 4
"""Steps of these places, along the first axis, that are filled in at a time."""

LabelMap = NDArray[np.uint8]
Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Atlas:
    """The labels of an atlas."""

    # (X, Y, Z), class indices; the outermost voxels are background
    labels: LabelMap
    # (4, 4), voxel -> world RAS in mm
    voxel_to_ras: Affine

    @classmethod
    def read(cls, path: Path) -> Atlas:
        """Read the file that `write` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(arrays["labels"], arrays["voxel_to_ras"])

    def write(self, path: Path) -> None:
        """Write a compressed NumPy file."""
        np.savez_compressed(path, labels=self.labels, voxel_to_ras=self.voxel_to_ras)


@dataclass(frozen=True, eq=False)
class Mask:
    """The part of a scan in which labels may lie: a smooth share (A, B, C) is at least `least`."""

    share: NDArray[np.float32]
    # (4, 4), voxel -> world RAS in mm
    voxel_to_ras: Affine
    least: float


@dataclass(frozen=True, eq=False)
class AtlasMap:
    """A map from the voxels of a scan into an atlas."""

    atlas: Atlas
    # (3, A, B, C) float32: the place of each block's centre in the atlas's world, RAS in mm
    positions: NDArray[np.float32]
    # (4, 4), block -> the scan's world, RAS in mm
    block_to_ras: Affine

    def labels_on(
        self, voxel_to_ras: Affine, shape: tuple[int, int, int], where: Mask | None = None
    ) -> LabelMap:
        """Return the atlas's labels (X, Y, Z) on a grid over the scan, background elsewhere.

        With `where` there is background outside of it too.
        """
        field, block_to_ras = self._in_atlas_voxels()
        labels = np.zeros(shape, np.uint8)
        box = self._box(field, np.linalg.inv(voxel_to_ras) @ block_to_ras, shape)
        if any(part.stop <= part.start for part in box):
            return labels
        # maps are smooth: read them on a coarse lattice, and fill it in along each axis
        lattice = _Lattice(voxel_to_ras, box, block_to_ras)
        last = np.array(self.atlas.labels.shape, np.float32).reshape(3, 1, 1, 1) - 1
        read = np.stack([lattice.read(each, block_to_ras) for each in field])
        # outside the atlas as on its outermost voxels; rounding becomes truncation
        places = np.clip(read, np.float32(0), last) + np.float32(0.5)
        if where is not None:
            share = lattice.read(where.share, where.voxel_to_ras)
        target = labels[box]
        for rows in lattice.slabs():
            found = self._look_up([lattice.fill(each, rows) for each in places])
            if where is not None:
                found[lattice.fill(share, rows) < where.least] = 0
            target[rows] = found
        return labels

    def _in_atlas_voxels(self) -> tuple[NDArray[np.float32], Affine]:
        """Return positions in voxels of the atlas, continued on all sides, and their grid."""
        inverse = np.linalg.inv(self.atlas.voxel_to_ras)
        flat = inverse[:3, :3] @ self.positions.reshape(3, -1) + inverse[:3, 3:]
        field = flat.reshape(self.positions.shape)
        # mirrored through its ends, a straight line continues
        around = [(0, 0)] + [(EXTENSION, EXTENSION)] * 3
        field = np.pad(field, around, mode="reflect", reflect_type="odd")
        shift = np.eye(4)
        shift[:3, 3] = -EXTENSION
        return field.astype(np.float32), self.block_to_ras @ shift

    def _box(
        self, field: NDArray[np.float32], voxel_from_block: Affine, shape: Sequence[int]
    ) -> tuple[slice, ...]:
        """Return the part of a grid outside which no voxel lies in the atlas."""
        inside = np.ones(field.shape[1:], bool)
        for places, size in zip(field, self.atlas.labels.shape, strict=True):
            inside &= (places > -0.5) & (places < size - 0.5)
        blocks = np.argwhere(inside).T
        if not blocks.size:
            return (slice(0, 0),) * 3
        # a block more on each side: the map may enter the atlas between two blocks
        low, high = blocks.min(axis=1) - 1, blocks.max(axis=1) + 1
        corners = np.array(np.meshgrid(*zip(low, high, strict=True))).reshape(3, -1)
        # rounding must not decide where the lattice starts
        at = np.round(voxel_from_block[:3, :3] @ corners + voxel_from_block[:3, 3:], 3)
        return tuple(
            slice(max(0, math.floor(start)), max(0, min(n, math.ceil(stop) + 1)))
            for start, stop, n in zip(at.min(axis=1), at.max(axis=1), shape, strict=True)
        )

    def _look_up(self, places: Sequence[NDArray[np.float32]]) -> LabelMap:
        """Return the label at places in voxels of the atlas, half a voxel added."""
        _, b, c = self.atlas.labels.shape
        x, y, z = (place.astype(np.int32) for place in places)
        x *= b
        x += y
        x *= c
        x += z
        return self.atlas.labels.ravel().take(x)


class _Lattice:
    """Every few voxels of a part of a grid."""

    def __init__(self, voxel_to_ras: Affine, box: Sequence[slice], block_to_ras: Affine) -> None:
        self._voxel_to_ras, self._start = voxel_to_ras, [part.start for part in box]
        self._sizes = [part.stop - part.start for part in box]
        # the edges of a voxel, in blocks
        edges = voxel_sizes_mm(np.linalg.inv(block_to_ras) @ voxel_to_ras)
        self._steps = [max(1, int(LATTICE_BLOCKS / edge)) for edge in edges]

    def read(self, values: NDArray[np.float32], voxel_to_ras: Affine) -> NDArray[np.float32]:
        """Interpolate values on another grid linearly, their last ones beyond the ends."""
        from scipy.ndimage import affine_transform

        start = np.eye(4)
        start[:3, 3] = self._start
        lattice_to_ras = self._voxel_to_ras @ start @ np.diag([*self._steps, 1.0])
        matrix = np.linalg.inv(voxel_to_ras) @ lattice_to_ras
        read = affine_transform(
            values,
            matrix[:3, :3],
            offset=matrix[:3, 3],
            output_shape=tuple(
                (size - 1) // step + 2 for size, step in zip(self._sizes, self._steps, strict=True)
            ),
            output=np.float32,
            order=1,
            mode="nearest",
            prefilter=False,
        )
        return np.asarray(read)

    def slabs(self) -> list[slice]:
        """Return the part's rows along its first axis, a few at a time."""
        count, rows = self._sizes[0], SLAB_STEPS * self._steps[0]
        return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]

    def fill(self, values: NDArray[np.float32], rows: slice) -> NDArray[np.float32]:
        """Return the values of all voxels of some rows, one of `slabs`, from the lattice's."""
        first = rows.start // self._steps[0]
        filled = values[first : first + SLAB_STEPS + 1]
        for axis in (2, 1):
            filled = self._fill(filled, axis, self._sizes[axis])
        return self._fill(filled, 0, rows.stop - rows.start)

    def _fill(self, values: NDArray[np.float32], axis: int, count: int) -> NDArray[np.float32]:
        """Interpolate along an axis at its first voxels, alike with any number of threads."""
        place, way = np.divmod(np.arange(count), self._steps[axis])
        share = (way / self._steps[axis]).astype(np.float32)
        share = share.reshape([-1 if each == axis else 1 for each in range(3)])
        filled = values.take(place, axis) * (1 - share)
        filled += values.take(place + 1, axis) * share
        return np.asarray(filled)
