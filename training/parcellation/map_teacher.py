"""Labels and atlas positions of a scan by a trained map network, on any grid.

The network sees the scan on the grid that it was trained for. Its map is smooth, so it can be read
on another grid without a loss.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from neurobento.backends.pytorch import open_weights
from neurobento.errors import ConfigError
from neurobento.imaging.scan import Scan
from neurobento.networks.weights import load_network
from neurobento.preprocessing import Preprocessing, preprocess
from neurobento.registry import open_model

__all__ = ["MapTeacher", "PositionField", "open_teacher"]

Affine = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PositionField:
    """A smooth map from a scan's world into the atlas's."""

    # (X, Y, Z, 3), RAS mm in the atlas's world, at the centres of the field's voxels.
    positions: NDArray[np.float64]
    # (4, 4), voxel of the field -> the scan's world, RAS in mm.
    voxel_to_ras: Affine

    def on_grid(self, voxel_to_ras: Affine, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Return the positions (3, X, Y, Z) of a grid's voxels, extended beyond the field."""
        from scipy.ndimage import map_coordinates

        places = np.indices(shape).reshape(3, -1)
        field_from_grid = np.linalg.inv(self.voxel_to_ras) @ voxel_to_ras
        at = field_from_grid[:3, :3] @ places + field_from_grid[:3, 3:]
        # extrapolate the affine part, and hold the rest at its value on the border
        affine = self._affine_part()
        own = np.indices(self.positions.shape[:3]).reshape(3, -1)
        straight = (affine[:, :3] @ own + affine[:, 3:]).reshape(3, *self.positions.shape[:3])
        bend = np.moveaxis(self.positions, -1, 0) - straight
        bent = [map_coordinates(part, at, order=1, mode="nearest") for part in bend]
        found = affine[:, :3] @ at + affine[:, 3:] + np.stack(bent)
        return np.asarray(found.reshape(3, *shape))

    def _affine_part(self) -> NDArray[np.float64]:
        """Return the affine (3, 4) from the field's voxels that is nearest to the map."""
        places = np.indices(self.positions.shape[:3]).reshape(3, -1)
        design = np.vstack([places, np.ones(places.shape[1])]).T
        solved, *_ = np.linalg.lstsq(design, self.positions.reshape(-1, 3), rcond=None)
        return np.asarray(solved.T)


class MapTeacher:
    """A trained map network that says where every voxel of a scan lies in the atlas."""

    def __init__(self, network: Any, preprocessing_version: int) -> None:
        self.network, self.version = network, preprocessing_version

    def read(self, scan: Scan, preprocessing: Preprocessing) -> PositionField:
        """Return where a scan's world lies in the atlas."""
        prepared = preprocess(scan, preprocessing, version=self.version)
        with torch.inference_mode():
            image = torch.from_numpy(prepared.image[None, None])
            positions = np.moveaxis(self.network.atlas_positions(image)[0].numpy(), 0, -1)
        edge = self.network.position_block
        block = np.diag([edge, edge, edge, 1.0])
        block[:3, 3] = (edge - 1) / 2
        return PositionField(positions, prepared.grid.network_voxel_to_ras @ block)

    def labels(self, positions: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the atlas's labels (X, Y, Z) at positions (3, X, Y, Z)."""
        inverse = np.linalg.inv(self.network.atlas_voxel_to_ras.numpy())
        table = self.network.atlas_labels.numpy()
        flat = inverse[:3, :3] @ positions.reshape(3, -1) + inverse[:3, 3:]
        places = np.rint(flat).astype(np.intp)
        for place, size in zip(places, table.shape, strict=True):
            np.clip(place, 0, size - 1, out=place)
        return np.asarray(table[tuple(places)].reshape(positions.shape[1:]))


@functools.cache
def open_teacher(folder: str) -> MapTeacher:
    """Open the map network in a model's folder; ConfigError if it is another one."""
    model = open_model(Path(folder))
    network = load_network(open_weights(model))
    if not getattr(network, "position_block", 0):
        raise ConfigError(
            subject=folder,
            expected="a model that gives atlas positions",
            found=f"{model.spec.network}, which gives none",
            remedy="Give the folder of a map network's model.",
        )
    return MapTeacher(network, model.spec.preprocessing_version)
