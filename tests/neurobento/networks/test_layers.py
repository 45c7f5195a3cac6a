"""Laws of what networks share: blocks of voxels, convolutions and residual sums."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from neurobento.networks.layers import POSITIONS, Conv, Residual, from_blocks, to_blocks


def images(count: int, shape: tuple[int, int, int] = (4, 6, 8)) -> Tensor:
    return torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(1))


def test_blocks_hold_the_eight_corners_of_each_block() -> None:
    assert sorted(set(POSITIONS)) == list(itertools.product((0, 1), repeat=3))
    image = images(1)
    blocks = to_blocks(image)
    assert blocks.shape == (1, 8, 2, 3, 4)
    for channel, (a, b, c) in enumerate(POSITIONS):
        assert torch.equal(blocks[0, channel], image[0, 0, a::2, b::2, c::2])


@pytest.mark.parametrize("channels", [1, 3])
def test_from_blocks_undoes_to_blocks(channels: int) -> None:
    image = images(2 * channels).reshape(2, channels, 4, 6, 8)
    apart = torch.stack([to_blocks(image[:, i : i + 1]) for i in range(channels)], dim=2)
    assert torch.equal(from_blocks(list(apart.unbind(dim=1))), image)


@pytest.mark.parametrize(("stride", "expected"), [(1, (4, 6, 8)), (2, (2, 3, 4))])
def test_a_convolution_keeps_the_shape_or_halves_it(
    stride: int, expected: tuple[int, int, int]
) -> None:
    assert Conv(1, 5, stride)(images(2)).shape == (2, 5, *expected)


def test_a_residual_whose_convolutions_give_nothing_is_the_identity() -> None:
    residual = Residual(3, 2)
    norms = [m for m in residual.modules() if isinstance(m, nn.InstanceNorm3d)]
    assert len(norms) == 2
    x = images(6).reshape(2, 3, 4, 6, 8)
    assert not torch.equal(residual(x), x)
    nn.init.zeros_(norms[-1].weight)
    assert torch.equal(residual(x), x)
