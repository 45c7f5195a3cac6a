"""A brain without skull gets the head of a phantom, and stays what and where it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neurobento.imaging.scan import Scan, space_of
from training.parcellation.transplant import Donor, grown_grid, transplant

SIZES = (4.0, 4.0, 4.0)
SKULL = 60.0


@pytest.fixture(scope="module")
def donor(phantom_on: Any) -> Donor:
    """A larger brain with a bright shell of 12 mm around a dark gap."""
    from scipy.ndimage import binary_dilation

    phantom = phantom_on("RAS", SIZES, shape=(64, 72, 64))
    brain = phantom.image > 0
    shell = binary_dilation(brain, iterations=4) & ~binary_dilation(brain, iterations=1)
    image = np.where(shell, SKULL, phantom.image).astype(np.float32)
    return Donor(Scan(image, space_of(image.shape, phantom.affine)), brain)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "PSR"])
def test_the_brain_is_unchanged_and_lies_where_it_lay(
    phantom_on: Any, donor: Donor, codes: str
) -> None:
    phantom = phantom_on(codes, SIZES)
    head, affine = transplant(phantom.scan(), donor, np.random.default_rng(0))
    shift = np.linalg.solve(affine, phantom.affine @ [0, 0, 0, 1])[:3]
    corner = np.rint(shift).astype(int)
    assert np.allclose(shift, corner, atol=1e-6)
    assert np.allclose(affine[:3, :3], phantom.affine[:3, :3])
    box = tuple(slice(c, c + n) for c, n in zip(corner, phantom.shape, strict=True))
    brain = phantom.image > 0
    values = head[box][brain]
    assert np.corrcoef(values, phantom.image[brain])[0, 1] > 0.9999


def test_there_is_a_skull_around_it(phantom: Any, donor: Donor) -> None:
    from scipy.ndimage import distance_transform_edt

    head, _ = transplant(phantom.scan(), donor, np.random.default_rng(0))
    _, shape, corner = grown_grid(phantom.scan(), phantom.image > 0)
    assert head.shape == shape
    inside = np.zeros(shape, bool)
    box = tuple(slice(c, c + n) for c, n in zip(corner, phantom.shape, strict=True))
    inside[box] = phantom.image > 0
    away = distance_transform_edt(~inside) * 4
    near, far = (away > 0) & (away < 30), away > 60
    assert (head[near] > 0.4 * SKULL).mean() > 0.2
    assert head[far].max() < 0.05 * SKULL


def test_the_grid_has_room_on_every_side_and_more_below(phantom_on: Any) -> None:
    phantom = phantom_on("RAS", SIZES)
    brain = phantom.image > 0
    _, shape, corner = grown_grid(phantom.scan(), brain)
    places = np.argwhere(brain) + corner
    before = places.min(axis=0) * 4
    after = (np.array(shape) - 1 - places.max(axis=0)) * 4
    assert (before >= [25, 30, 70]).all()
    assert (after >= [25, 30, 20]).all()
