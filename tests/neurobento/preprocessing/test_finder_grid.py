"""The grid on which the brain is looked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from neurobento.preprocessing.finder_grid import finder_image, scaled

GRIDS: dict[str, dict[str, Any]] = {
    "RAS": {"codes": "RAS"},
    "LIA": {"codes": "LIA"},
    "anisotropic": {"codes": "PSR", "sizes_mm": (3.0, 5.0, 4.0)},
    "oblique": {"codes": "LPS", "tilt_rad": 0.5},
}


def centre_mm(grid: Any) -> Any:
    return apply_affine(grid, (np.array(FINDER_SHAPE) - 1) / 2)


@pytest.mark.parametrize("name", GRIDS)
def test_the_grid_lies_along_the_worlds_axes_with_the_head_in_its_middle(
    name: str, phantom_on: Callable[..., Any], landmark_mm: Any
) -> None:
    """The phantom's middle is the origin; the bright blob is where it truly lies."""
    phantom = phantom_on(**GRIDS[name])
    image, grid = finder_image(phantom.image, phantom.affine)
    assert (image.shape, image.dtype) == (FINDER_SHAPE, np.float32)
    assert (image.min(), image.max()) == (0, 1)
    assert np.array_equal(grid[:3, :3], np.diag([FINDER_VOXEL_MM] * 3))
    assert centre_mm(grid) == pytest.approx(0, abs=4)
    threshold = np.partition(image.ravel(), -600)[-600]
    found_mm = apply_affine(grid, np.argwhere(image >= threshold).mean(axis=0))
    assert found_mm == pytest.approx(landmark_mm, abs=2)


def test_an_island_in_a_corner_does_not_move_the_grid(phantom: Any) -> None:
    _, expected = finder_image(phantom.image, phantom.affine)
    array = phantom.image.copy()
    array[:2, :2, :2] = 100
    _, grid = finder_image(array, phantom.affine)
    assert grid == pytest.approx(expected, abs=3)


def test_a_scan_that_is_taller_than_the_grid_keeps_its_crown() -> None:
    """A column of 400 mm: its top lies 12 mm below the grid's top."""
    array = np.zeros((40, 40, 80), np.float32)
    array[10:30, 10:30] = 100
    affine = from_matvec(np.diag([5.0, 5.0, 5.0]), [-100.0, -80.0, -300.0])
    image, grid = finder_image(array, affine)
    top_mm = affine[2, 3] + 5 * 79.5
    assert grid[2, 3] + FINDER_VOXEL_MM * (FINDER_SHAPE[2] - 0.5) == pytest.approx(
        top_mm + 12, abs=6
    )
    assert image[48, 48, 0] == image[48, 48, 80] == 1


def test_an_empty_scan_gives_an_empty_image_in_its_middle() -> None:
    affine = from_matvec(np.diag([5.0, 4.0, 3.0]), [10.0, 20.0, 30.0])
    image, grid = finder_image(np.zeros((10, 12, 14), np.float32), affine)
    assert not image.any()
    assert centre_mm(grid) == pytest.approx(apply_affine(affine, [4.5, 5.5, 6.5]))


def test_scaling_takes_the_995th_permille_of_what_is_not_zero_to_one() -> None:
    image = np.concatenate([np.zeros(5000), np.arange(1, 1001)]).astype(np.float32)
    found = scaled(image.reshape(60, 10, 10)).ravel()
    assert found[:5000].max() == 0
    assert found[5000:] == pytest.approx(np.minimum(np.arange(1, 1001) / 995.005, 1), rel=1e-5)
    assert not scaled(np.zeros((2, 2, 2), np.float32)).any()


def test_a_head_of_tiny_intensities_is_scaled_too(phantom: Any) -> None:
    expected, _ = finder_image(phantom.image, phantom.affine)
    found, _ = finder_image(phantom.image * np.float32(1e-5), phantom.affine)
    assert found == pytest.approx(expected, abs=1e-4)
