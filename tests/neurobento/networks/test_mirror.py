"""Laws of the asymmetry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from neurobento.networks.mirror import SHIFTS, asymmetry, mean_around


def head() -> Tensor:
    """A symmetric one, with a texture."""
    random = np.random.default_rng(0)
    half = torch.from_numpy(random.random((1, 1, 128, 64), np.float32))
    return mean_around(torch.cat([half, half.flip(-1)], dim=-1), 9)


def test_neither_a_symmetric_head_nor_what_lies_across_its_middle_shows() -> None:
    image = head()
    assert asymmetry(image).abs().max() < 1e-6
    image[..., 40:60, 54:74] += 0.5
    assert asymmetry(image).max() < 1e-6


def test_what_is_on_one_side_alone_shows_most_where_it_is() -> None:
    """Its mirror place differs from it too, but less: tissue around it is like that place."""
    image = head()
    image[..., 40:60, 20:40] += 0.5
    found = asymmetry(image)[0, 0]
    assert found[45:55, 25:35].min() > 0.3
    assert 0.05 < found[45:55, 93:103].mean() < 0.6 * found[45:55, 25:35].mean()
    found[30:70] = 0
    assert found.max() < 1e-6


@pytest.mark.parametrize("shift", [(s, t) for s in SHIFTS for t in SHIFTS])
def test_a_head_that_is_not_in_the_middle_is_found_again(shift: tuple[int, int]) -> None:
    moved = torch.zeros(1, 1, 128, 128)
    moved[..., 30:98, 30:98] = head()[..., 30:98, 30:98]
    moved = torch.roll(moved, shift, (-2, -1))
    # the mirror image moves the other way, to twice the distance
    limit = 1e-6 if abs(shift[1]) <= max(SHIFTS) // 2 else 1.0
    assert asymmetry(moved).max() < limit


def test_the_mean_around_is_that_of_a_square() -> None:
    image = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.avg_pool2d(image, 7, 1, 3)
    torch.testing.assert_close(mean_around(image, 7), expected)
