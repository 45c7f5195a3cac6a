"""The field of view of a brain, from its mass alone, and the ranks of its intensities."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM, NETWORK_SHAPE
from neurobento.preprocessing.brain import Brain, shown_brain
from neurobento.preprocessing.network_image import (
    HIGH_SIDE,
    LOW_SIDE,
    equalised,
    field_of_view,
    network_image,
)

RADII_MM = np.array([65.0, 82.0, 60.0])
CENTRE_MM = np.array([4.0, -9.0, 12.0])
GRID = from_matvec(np.diag([FINDER_VOXEL_MM] * 3), [-125.0, -136.0, -116.0])


def ellipsoid() -> Any:
    world = apply_affine(GRID, np.moveaxis(np.indices(FINDER_SHAPE), 0, -1))
    return np.linalg.norm((world - CENTRE_MM) / RADII_MM, axis=-1) < 1


def brain_of(mask: Any) -> Brain:
    return Brain(255 * mask.astype(np.uint8), GRID)


def edges_mm(affine: Any) -> Any:
    return apply_affine(affine, np.array([[-0.5] * 3, np.array(NETWORK_SHAPE) - 0.5]))


def test_the_field_of_view_is_that_of_the_ellipsoids_moments() -> None:
    """Along each axis a solid ellipsoid has the standard deviation radius / sqrt(5)."""
    affine = field_of_view(brain_of(ellipsoid()))
    spread = RADII_MM / np.sqrt(5)
    expected = [CENTRE_MM - spread * LOW_SIDE, CENTRE_MM + spread * HIGH_SIDE]
    assert edges_mm(affine) == pytest.approx(np.array(expected), abs=0.3)
    assert np.count_nonzero(affine[:3, :3]) == 3


@pytest.mark.parametrize("change", [ndimage.binary_erosion, ndimage.binary_dilation])
def test_a_voxel_less_or_more_all_around_moves_the_field_of_view_little(change: Any) -> None:
    """The farthest edge is 2.78 standard deviations away, so 2.78 / sqrt(5) of each radius."""
    mask = ellipsoid()
    before, after = (edges_mm(field_of_view(brain_of(m))) for m in (mask, change(mask)))
    assert np.abs(after - before).max() < 1.25 * FINDER_VOXEL_MM
    assert after.mean(axis=0) == pytest.approx(before.mean(axis=0), abs=0.2)


def test_a_few_voxels_far_away_hardly_move_it() -> None:
    """A box around the mask would grow by 30 mm."""
    mask = ellipsoid()
    before = edges_mm(field_of_view(brain_of(mask)))
    mask[2:4, 2:4, 2:4] = True
    assert edges_mm(field_of_view(brain_of(mask))) == pytest.approx(before, abs=0.1)


def test_the_image_shows_the_brain_in_its_place(
    phantom_on: Callable[..., Any], landmark_mm: Any
) -> None:
    phantom = phantom_on("LPS", tilt_rad=0.5)
    brain = shown_brain(phantom.image, phantom.affine)
    image, affine = network_image(phantom.image, phantom.affine, brain)
    assert (image.shape, image.dtype) == (NETWORK_SHAPE, np.float32)
    assert (image.min(), image.max()) == (0, 1)
    inside = brain.on_grid(affine, NETWORK_SHAPE)
    assert not image[~inside].any()
    # the blob of 16 mm is brighter than all else
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    share = 4 / 3 * np.pi * 16**3 / voxel_mm3 / inside.sum()
    found_mm = apply_affine(affine, np.argwhere(image > 1 - 0.8 * share).mean(axis=0))
    assert found_mm == pytest.approx(landmark_mm, abs=1.5)


def test_equal_intensities_have_equal_ranks_and_all_are_used_alike() -> None:
    random = np.random.default_rng(0)
    values = random.gamma(2, 30, (20, 21, 22)).astype(np.float32)
    inside = random.random(values.shape) < 0.6
    found = equalised(values, inside)
    assert not found[~inside].any()
    assert found[inside].min() > 0
    ordered = np.sort(found[inside])
    assert ordered == pytest.approx(np.linspace(0, 1, len(ordered)), abs=0.002)
    assert np.array_equal(np.argsort(found[inside]), np.argsort(values[inside]))


@pytest.mark.parametrize(
    "change", [lambda v: 1000 * v, np.sqrt, np.exp], ids=["x1000", "root", "exp"]
)
def test_ranks_do_not_depend_on_scale_or_gamma(change: Any) -> None:
    values = np.random.default_rng(1).uniform(0.1, 5, (20, 20, 20)).astype(np.float32)
    inside = np.ones(values.shape, bool)
    assert equalised(change(values), inside) == pytest.approx(equalised(values, inside), abs=2e-3)


def test_no_brain_has_no_ranks() -> None:
    assert not equalised(np.ones((3, 3, 3), np.float32), np.zeros((3, 3, 3), bool)).any()
