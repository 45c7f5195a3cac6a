"""Make labels from a network's answer: from its labels, or from its positions in an atlas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import UnusableAnswer
from neurobento.imaging.atlas import Atlas, AtlasMap, Mask
from neurobento.imaging.geometry import MAP_BLOCK, MAP_SHAPE, NETWORK_SHAPE, Grid
from neurobento.preprocessing.brain import Brain

__all__ = ["Answer", "labels_of_images"]

FARTHEST_MM = 1000
"""No position in an atlas is farther from its origin."""


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of a network to the image of one scan."""

    # labels (91, 122, 123) uint8, or positions (3, 24, 32, 32) float32 in the atlas, RAS in mm
    values: NDArray[np.generic]
    # (4, 4), voxel of the network grid -> world RAS in mm
    network_voxel_to_ras: NDArray[np.float64]
    # None if the values are labels
    atlas: Atlas | None = None
    # no region lies outside of its surroundings; if it is not known, none outside of the grid
    brain: Brain | None = None

    def labels_on(
        self, voxel_to_ras: NDArray[np.float64], shape: tuple[int, int, int]
    ) -> NDArray[np.uint8]:
        """Return class indices on a grid over the same scan."""
        if self.atlas is None:
            labels = np.asarray(self.values, np.uint8)
            grid = Grid(shape, voxel_to_ras, self.network_voxel_to_ras, labels.shape)
            return grid.restore(labels)
        self._require_positions()
        # the centre of a block, in voxels
        block = np.diag([*[float(MAP_BLOCK)] * 3, 1.0])
        block[:3, 3] = (MAP_BLOCK - 1) / 2
        positions = np.asarray(self.values, np.float32)
        into_atlas = AtlasMap(self.atlas, positions, self.network_voxel_to_ras @ block)
        where = self._network_grid() if self.brain is None else self.brain.surroundings()
        return into_atlas.labels_on(voxel_to_ras, shape, where)

    def _require_positions(self) -> None:
        """Raise UnusableAnswer unless every block has a place within a metre of the atlas."""
        wrong = int(np.sum(~(np.abs(self.values) < FARTHEST_MM)))
        if wrong or self.values.shape != (3, *MAP_SHAPE):
            raise UnusableAnswer(
                expected=f"positions of shape {(3, *MAP_SHAPE)}, within {FARTHEST_MM} mm",
                found=f"shape {self.values.shape}, {wrong} numbers that are not",
                remedy="Choose --precision fp32, or another --backend.",
            )

    def _network_grid(self) -> Mask:
        """Return a mask of the network grid, beyond which the network saw nothing."""
        share = np.pad(np.ones(NETWORK_SHAPE, np.float32), 1)
        border = np.eye(4)
        border[:3, 3] = -1
        return Mask(share, self.network_voxel_to_ras @ border, 0.5)


def labels_of_images(values: NDArray[np.generic], atlas: Atlas | None) -> NDArray[np.uint8]:
    """Return labels (N, 91, 122, 123) from answers (N, ...) to images on the network grid."""
    answers = [Answer(each, np.eye(4), atlas) for each in values]
    return np.stack([each.labels_on(np.eye(4), NETWORK_SHAPE) for each in answers])
