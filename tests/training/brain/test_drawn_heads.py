"""Laws of heads drawn from label maps, and of the random changes that drawing shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from neurobento.preprocessing.tissues import TISSUES
from tests.training.brain.head_map import head_map, map_values
from training.brain import drawn_heads
from training.brain.drawn_heads import (
    DrawnHead,
    change_intensities,
    cut_field_of_view,
    draw_head,
    random_grid,
)

OUTSIDE = {TISSUES.index("air"), TISSUES.index("other head")}
SEEDS = range(4)


@pytest.fixture(scope="module")
def heads() -> list[DrawnHead]:
    return [draw_head(head_map(), np.random.default_rng(seed)) for seed in SEEDS]


def parts(head: DrawnHead) -> tuple[Tensor, Tensor, Tensor]:
    return head.image, head.brain, head.tissues


def test_a_head_is_a_function_of_the_generator_alone(heads: list[DrawnHead]) -> None:
    torch.manual_seed(5)
    again = draw_head(head_map(), np.random.default_rng(SEEDS[0]))
    assert all(map(torch.equal, parts(again), parts(heads[0])))
    assert not any(map(torch.equal, parts(heads[1]), parts(heads[0])))


@pytest.mark.parametrize("seed", SEEDS)
def test_brain_is_where_its_tissues_are(heads: list[DrawnHead], seed: int) -> None:
    head = heads[seed]
    assert all(part.shape == FINDER_SHAPE for part in parts(head))
    assert (head.image.dtype, head.brain.dtype, head.tissues.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert head.image.min() >= 0
    assert head.image.max() == 1
    inside = head.brain == 1
    assert set(head.tissues[~inside].tolist()) <= OUTSIDE
    assert set(head.tissues[inside].tolist()).isdisjoint(OUTSIDE)
    # the field of view of a head may end in its brain
    true_ml = ((map_values() > 0) & (map_values() < 200)).sum() / 1000
    ml = float(inside.sum()) * FINDER_VOXEL_MM**3 / 1000
    assert 0.4 * true_ml < ml < 1.6 * true_ml


def test_an_unchanged_head_lies_in_the_middle_of_the_grid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The brain's middle is 12 mm above the grid's, as the finder's grid has it."""

    def straight(random: Any, extent_mm: float) -> Tensor:
        axes = [torch.linspace(-extent_mm / 2, extent_mm / 2, n) for n in FINDER_SHAPE]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]

    monkeypatch.setattr(drawn_heads, "random_grid", straight)
    monkeypatch.setattr(drawn_heads, "cut_field_of_view", lambda values, random: values)
    monkeypatch.setattr(drawn_heads, "_strip", lambda values, brain, random: (values, brain))
    head = draw_head(head_map(), np.random.default_rng(0))
    index = torch.nonzero(head.brain)
    middle_mm = ((index.amin(dim=0) + index.amax(dim=0)) / 2 - 47.5) * FINDER_VOXEL_MM
    assert middle_mm.tolist() == pytest.approx([0, 0, 12], abs=4)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_grid_is_a_gentle_change_of_the_head(seed: int) -> None:
    """A mirror of the left-right axis apart, no place turns inside out."""
    extent = FINDER_SHAPE[0] * FINDER_VOXEL_MM
    points = random_grid(np.random.default_rng(seed), extent)[0]
    assert points.shape == (*FINDER_SHAPE, 3)
    steps = [points.diff(dim=axis)[:95, :95, :95] for axis in range(3)]
    volumes = torch.linalg.det(torch.stack(steps, dim=-1))
    assert (volumes > 0).all() or (volumes < 0).all()
    unit = (extent / (FINDER_SHAPE[0] - 1)) ** 3
    assert 0.4 < float(volumes.abs().median()) / unit < 2.5


def test_a_field_of_view_only_takes_away() -> None:
    values = torch.from_numpy(np.random.default_rng(0).integers(1, 200, (40, 48, 44), np.uint8))
    before = values.clone()
    lost = []
    for seed in range(60):
        after = cut_field_of_view(values, np.random.default_rng(seed))
        assert torch.equal(values, before)
        assert torch.equal(after[after > 0], values[after > 0])
        lost.append(float((after == 0).float().mean()))
    assert min(lost) == 0
    assert 0.2 < max(lost) < 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_intensities_stay_in_range_and_follow_the_image(seed: int) -> None:
    x, y, z = torch.meshgrid(*[torch.linspace(-1, 1, 40)] * 3, indexing="ij")
    image = (1.2 - (x**2 + y**2 + z**2)).clamp(0)
    before = image.clone()
    after = change_intensities(image, np.random.default_rng(seed))
    assert torch.equal(image, before)
    assert after.shape == image.shape
    assert after.min() >= 0
    assert after.max() == 1
    assert not torch.equal(after, image)
    both = torch.stack([after.flatten(), image.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.6
