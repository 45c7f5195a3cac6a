"""Disturbances leave the brain where it is in the world, and change what they are named after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine

from benchmarks.stability.disturbances import DISTURBANCES, FOR_HEADS, FOR_STRIPPED
from neurobento.imaging.native_space import space_of
from neurobento.imaging.scan import Scan

SHAPE = (60, 70, 50)
AFFINE = np.array([[0, 0, 3.0, -70], [2.5, 0, 0, -75], [0, 2.0, 0, -60], [0, 0, 0, 1]])
RADII_MM = np.array([50.0, 60.0, 45.0])
# voxels of 0.7 mm are made as those of 1 mm are, and take seconds
GRIDS = [
    name
    for name in FOR_STRIPPED
    if name.startswith(("shifted", "tilted", "voxels", "slices", "axes")) and "0.7" not in name
]


def world(affine: Any, shape: Any) -> Any:
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def brightness(points: Any) -> Any:
    """A smooth image of the world, positive in an ellipsoid and zero outside."""
    inside = 1 - ((points / RADII_MM) ** 2).sum(axis=-1)
    return np.where(inside > 0, 100 + 50 * inside + points[..., 0] / 2, 0)


@pytest.fixture(scope="module")
def scan() -> Scan:
    array = brightness(world(AFFINE, SHAPE)).astype(np.float32)
    return Scan(array, space_of(SHAPE, AFFINE))


def disturbed(scan: Scan, name: str, preprocessing: str = "stripped") -> Scan:
    found: Scan = DISTURBANCES[preprocessing][name](scan, scan.array > 0, np.random.default_rng(0))
    return found


@pytest.mark.parametrize("name", GRIDS)
def test_on_another_grid_the_head_is_where_it_was(scan: Scan, name: str) -> None:
    found = disturbed(scan, name)
    points = world(found.voxel_to_ras, found.shape)
    # far enough from the surface for voxels of 5 mm
    deep = ((points / (RADII_MM - 9)) ** 2).sum(axis=-1) < 1
    assert deep.sum() * abs(np.linalg.det(found.voxel_to_ras[:3, :3])) > 250_000
    assert found.array[deep] == pytest.approx(brightness(points)[deep], abs=4)
    same_grid = found.shape == scan.shape and np.allclose(found.voxel_to_ras, scan.voxel_to_ras)
    assert not same_grid


def test_voxels_are_as_large_as_they_say(scan: Scan) -> None:
    assert disturbed(scan, "voxels of 2 mm").voxel_sizes_mm == pytest.approx((2, 2, 2))
    sizes = disturbed(scan, "slices of 5 mm").voxel_sizes_mm
    assert sizes == pytest.approx((*scan.voxel_sizes_mm[:2], 5))
    assert disturbed(scan, "axes PSR").axis_codes == "PSR"


@pytest.mark.parametrize("name", sorted(set(FOR_STRIPPED) | set(FOR_HEADS)))
def test_every_disturbance_changes_the_scan_and_leaves_the_original(scan: Scan, name: str) -> None:
    before = scan.array.copy()
    preprocessing = "stripped" if name in FOR_STRIPPED else "full"
    head = scan
    if preprocessing == "full":
        # something of a skull, for what is taken off it
        shell = np.where(scan.array > 0, scan.array, 30).astype(np.float32)
        head = Scan(shell, scan.space)
    brain = scan.array > 0
    found = DISTURBANCES[preprocessing][name](head, brain, np.random.default_rng(0))
    same = found.array.shape == head.array.shape and np.array_equal(found.array, head.array)
    assert not same
    assert np.isfinite(found.array).all()
    assert np.array_equal(scan.array, before)


def test_intensities_are_disturbed_as_they_say(scan: Scan) -> None:
    brain = scan.array > 0
    signed = disturbed(scan, "signed").array
    assert signed[brain].mean() == pytest.approx(0, abs=1e-3)
    assert signed[brain].std() == pytest.approx(1, abs=1e-3)
    assert not signed[~brain].any()
    assert disturbed(scan, "one voxel of 1e6").array.max() == 1e6
    field = disturbed(scan, "bias field").array[brain] / scan.array[brain]
    assert 0.69 < field.min() < 0.95 < 1.05 < field.max() < 1.43
    noise = disturbed(scan, "5 % noise").array[brain] - scan.array[brain]
    assert noise.std() == pytest.approx(0.05 * np.percentile(scan.array[brain], 99), rel=0.05)


def test_masks_are_cut_as_they_say(scan: Scan) -> None:
    brain = scan.array > 0
    height = world(AFFINE, SHAPE)[..., 2]
    cut = disturbed(scan, "10 mm cut off below").array > 0
    assert height[cut].min() == pytest.approx(height[brain].min() + 10, abs=2)
    eroded = disturbed(scan, "mask eroded by a voxel").array > 0
    assert 0.8 < eroded.sum() / brain.sum() < 0.95
