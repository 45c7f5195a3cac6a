"""Make labels from a network's answer: from its labels, or from its positions in an atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.atlas import Atlas, AtlasMap
from neurobento.imaging.geometry import MAP_BLOCK, Grid
from neurobento.preprocessing.brain import Brain

__all__ = ["Answer"]


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of a network to the image of one scan."""

    # labels (91, 122, 123) uint8, or positions (3, 24, 32, 32) float32 in the atlas, RAS in mm
    values: NDArray[np.generic]
    # (4, 4), voxel of the network grid -> world RAS in mm
    network_voxel_to_ras: NDArray[np.float64]
    # None if the values are labels
    atlas: Atlas | None = None
    # no region lies outside of its surroundings, if it is known
    brain: Brain | None = None

    def labels_on(
        self, voxel_to_ras: NDArray[np.float64], shape: tuple[int, int, int]
    ) -> NDArray[np.uint8]:
        """Return class indices on a grid over the same scan."""
        if self.atlas is None:
            labels = np.asarray(self.values, np.uint8)
            grid = Grid(shape, voxel_to_ras, self.network_voxel_to_ras, labels.shape)
            return grid.restore(labels)
        # the centre of a block, in voxels
        block = np.diag([*[float(MAP_BLOCK)] * 3, 1.0])
        block[:3, 3] = (MAP_BLOCK - 1) / 2
        positions = np.asarray(self.values, np.float32)
        into_atlas = AtlasMap(self.atlas, positions, self.network_voxel_to_ras @ block)
        where = None if self.brain is None else self.brain.surroundings()
        return into_atlas.labels_on(voxel_to_ras, shape, where)
