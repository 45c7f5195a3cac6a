"""Scans on coarser grids over the same world."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neurobento.imaging.native_space import space_of
from neurobento.imaging.scan import Scan
from training.parcellation.coarser import KINDS, coarser

SEEDS = range(6)


@pytest.fixture
def ramp() -> Scan:
    """A scan whose value is its place along x + 2 y - z, in mm, on a tilted grid."""
    affine = np.diag([-1.0, 0.9, 1.2, 1.0])
    affine[:3, :3] = affine[:3, :3] @ np.array([[1, 0, 0], [0, 0.98, -0.2], [0, 0.2, 0.98]])
    affine[:3, 3] = [300.0, 200.0, 150.0]
    shape = (40, 44, 36)
    index = np.indices(shape).reshape(3, -1)
    places = affine[:3, :3] @ index + affine[:3, 3:]
    values = places[0] + 2 * places[1] - places[2]
    return Scan(values.reshape(shape).astype(np.float32), space_of(shape, affine))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_place_of_the_world_keeps_its_value(ramp: Scan, kind: str, seed: int) -> None:
    found = coarser(ramp, kind, np.random.default_rng(seed))
    index = np.indices(found.shape).reshape(3, -1)
    places = found.voxel_to_ras[:3, :3] @ index + found.voxel_to_ras[:3, 3:]
    expected = (places[0] + 2 * places[1] - places[2]).reshape(found.shape)
    # at the ends of the grid there is less to average
    inner = (slice(2, -2),) * 3
    assert found.array[inner] == pytest.approx(expected[inner], rel=1e-3)


@pytest.mark.parametrize("seed", SEEDS)
def test_voxels_are_larger_alike_or_along_one_axis(ramp: Scan, seed: int) -> None:
    def edges(kind: str) -> Any:
        return np.array(coarser(ramp, kind, np.random.default_rng(seed)).voxel_sizes_mm)

    old = np.array(ramp.voxel_sizes_mm)
    assert np.ptp(edges("iso")) < 1e-6
    assert 1.5 <= edges("iso")[0] <= 3.2
    thicker = edges("thick") > old + 1e-6
    assert thicker.sum() == 1
    assert 3 <= edges("thick")[thicker][0] <= 6


def test_another_seed_gives_another_grid(ramp: Scan) -> None:
    grids = [coarser(ramp, "iso", np.random.default_rng(seed)).voxel_to_ras for seed in (1, 1, 2)]
    assert np.array_equal(grids[0], grids[1])
    assert not np.array_equal(grids[0], grids[2])
