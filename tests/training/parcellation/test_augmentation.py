"""Laws of the random changes that training makes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.parcellation.augmentation import (
    Augmentation,
    RandomBlur,
    RandomCut,
    RandomIntensity,
    RandomWarp,
    augment,
)

SHAPE, BLOCKS = (24, 30, 36), (12, 15, 18)
SHAPES = [SHAPE, (23, 30, 35), (23, 29, 35)]
SEEDS = range(4)
OFF = Augmentation(0.0, 0.0, 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
STRONG = Augmentation(0.3, 0.2, 0.1, (0.05, 0.03), 0.8, 0.8, 0.3, cut=0.8, blur=0.8)
SPATIAL = {"rotation_rad": 0.3, "scale": 0.2, "shift": 0.1, "displacement": (0.05, 0.05)}
INTENSITY = {"gamma": 0.5, "bias": 0.3, "noise": 0.2, "cut": 1.0, "blur": 1.0}

CENTRE, RADIUS = (10.0, 17.0, 19.0), 7.0


def ball() -> Tensor:
    """(X, Y, Z) bool, off the middle so that a turn moves it."""
    index = np.indices(SHAPE)
    offset = index - np.array(CENTRE).reshape(3, 1, 1, 1)
    return torch.from_numpy((offset**2).sum(axis=0) < RADIUS**2)


def places(blocks: tuple[int, ...]) -> Tensor:
    """(3, *blocks): the centre of each 2 x 2 x 2 block, in voxels."""
    return torch.from_numpy(2.0 * np.indices(blocks) + 0.5).float()


def pair() -> tuple[Tensor, Tensor, Tensor]:
    """A grey ball with a texture in an empty image; its halves are labels 40 and 90."""
    inside = ball()
    texture = torch.rand(SHAPE, generator=torch.Generator().manual_seed(9)) * 0.6 + 0.3
    labels = inside.byte() * 40
    labels[int(CENTRE[0]) :] *= 2
    labels[labels == 80] = 90
    return (texture * inside)[None], labels, places(BLOCKS)


def blocks_of(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // 2) for n in shape)


def changed(**strength: Any) -> Augmentation:
    return dataclasses.replace(OFF, **strength)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_is_a_function_of_the_seed_alone_and_leaves_the_global_states_alone(
    seed: int,
) -> None:
    first = augment(Augmentation(), seed, *pair())
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    second = augment(Augmentation(), seed, *pair())
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_other_seeds_give_other_pairs() -> None:
    for parts in zip(*(augment(Augmentation(), seed, *pair()) for seed in SEEDS), strict=True):
        assert not any(torch.equal(a, b) for a, b in itertools.pairwise(parts))


@pytest.mark.parametrize("seed", SEEDS)
def test_zero_strengths_leave_the_pair_as_it_is(seed: int) -> None:
    assert all(map(torch.equal, augment(OFF, seed, *pair()), pair()))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_warp_without_strength_moves_nothing(shape: tuple[int, int, int]) -> None:
    random = torch.Generator().manual_seed(2)
    image = torch.rand((1, *shape), generator=random)
    labels = torch.randint(117, shape, generator=random).byte()
    positions = torch.rand((3, *blocks_of(shape)), generator=random)
    moved = RandomWarp(OFF).set_random_state(0)(image, labels, positions)
    torch.testing.assert_close(moved[0], image, atol=1e-4, rtol=0)
    assert torch.equal(moved[1], labels)
    torch.testing.assert_close(moved[2], positions, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "strength"), SPATIAL.items())
def test_each_spatial_strength_moves_image_labels_and_positions(name: str, strength: Any) -> None:
    image, labels, positions = augment(changed(**{name: strength}), 1, *pair())
    assert (image - pair()[0]).abs().max() > 0.05
    assert not torch.equal(labels, pair()[1])
    assert (positions - pair()[2]).abs().max() > 1


@pytest.mark.parametrize(("name", "strength"), INTENSITY.items())
def test_each_intensity_strength_changes_the_image_alone(name: str, strength: Any) -> None:
    image, labels, positions = augment(changed(**{name: strength}), 1, *pair())
    assert (image - pair()[0]).abs().max() > 0.02
    assert torch.equal(labels, pair()[1])
    torch.testing.assert_close(positions, pair()[2], atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_labels_and_range_stay_and_the_callers_pair_is_not_modified(seed: int) -> None:
    given = pair()
    image, labels, positions = augment(STRONG, seed, *given)
    assert all(map(torch.equal, given, pair()))
    assert (image.shape, image.dtype) == ((1, *SHAPE), torch.float32)
    assert (labels.shape, labels.dtype) == (SHAPE, torch.uint8)
    assert positions.shape == (3, *BLOCKS)
    assert set(labels.unique().tolist()) == {0, 40, 90}
    assert image.min() >= 0 and image.max() <= 1
    assert image.max() > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_the_background_stays_zero(seed: int) -> None:
    image = pair()[0]
    after = RandomIntensity(STRONG).set_random_state(seed)(image)
    assert not after[image == 0].any()
    assert after[image > 0].any()


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_move_together(seed: int, dice: Callable[[Any, Any, int], float]) -> None:
    inside = ball()
    image, labels, _ = RandomWarp(Augmentation(0.3, 0.1, 0.2)).set_random_state(seed)(
        inside.float()[None], inside.byte(), places(BLOCKS)
    )
    assert dice((image[0] > 0.5).byte().numpy(), labels.numpy(), 1) > 0.97
    assert dice(labels.numpy(), inside.byte().numpy(), 1) < 0.93


def test_what_comes_from_beyond_the_edge_is_background() -> None:
    full = torch.ones(SHAPE)
    shrunk = RandomWarp(changed(shift=0.5)).set_random_state(1)(
        full[None], full.byte(), places(BLOCKS)
    )
    assert not shrunk[0].all()
    assert not shrunk[1].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shift_moves_the_labels_whole(seed: int) -> None:
    before = ball()
    warp = RandomWarp(changed(shift=0.06)).set_random_state(seed)
    after = warp(before.float()[None], before.byte(), places(BLOCKS))[1]
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=0.03)
    moved = torch.nonzero(after).double().mean(0) - torch.nonzero(before).double().mean(0)
    assert moved.abs().max() > 0.5


def block_means(image: Tensor) -> Tensor:
    """Of an image (C, X, Y, Z); beyond an odd side it goes on as it came."""
    for axis in (1, 2, 3):
        if image.shape[axis] % 2:
            last, before = (image.narrow(axis, image.shape[axis] - i, 1) for i in (1, 2))
            image = torch.cat([image, 2 * last - before], dim=axis)
    return F.avg_pool3d(image, 2)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_image_and_positions_move_together(seed: int, shape: tuple[int, int, int]) -> None:
    """Both are one linear function of the voxel, so interpolation is exact on both sides."""
    turn = torch.tensor([[0.0, -1.5, 0.5], [1.25, 0.5, 0.0], [0.25, 0.0, -2.0]])
    voxels = torch.from_numpy(np.indices(shape)).float()
    image = torch.einsum("ij,jxyz->ixyz", turn, voxels) + 7
    positions = torch.einsum("ij,jxyz->ixyz", turn, places(blocks_of(shape))) + 7
    warp = RandomWarp(changed(**SPATIAL))
    labels = torch.ones(shape).byte()
    moved = [warp.set_random_state(seed)(c[None], labels, positions) for c in image]
    went = [warp.set_random_state(seed)(c[None], labels, positions)[0] for c in voxels]
    ends = torch.tensor([2.0 * n - 1.5 for n in blocks_of(shape)]).reshape(3, 1, 1, 1)
    place = block_means(torch.cat(went))
    seen = warp.set_random_state(seed)(torch.ones(1, *shape), labels, positions)[0]
    inside = (F.max_pool3d((seen < 0.9999).float(), 3, 2, 1, ceil_mode=True) == 0)[0]
    inside = inside[tuple(slice(n) for n in place.shape[1:])]
    inside = inside & ((place > 0.5) & (place < ends)).all(dim=0)
    expected = block_means(torch.cat([m[0] for m in moved]))
    assert inside.float().mean() > 0.2
    torch.testing.assert_close(moved[0][2][:, inside], expected[:, inside], atol=2e-3, rtol=0)
    assert (moved[0][2] - positions)[:, inside].abs().mean() > 1


@pytest.mark.parametrize("seed", SEEDS)
def test_no_position_comes_from_beyond_the_edge(seed: int) -> None:
    far = places(BLOCKS) + 500
    moved = RandomWarp(changed(shift=0.5)).set_random_state(seed)(*pair()[:2], far)[2]
    for given, after in zip(far, moved, strict=True):
        assert given.min() - 1e-3 <= after.min() <= after.max() <= given.max() + 1e-3


def masks_of_cuts() -> tuple[Tensor, list[Tensor]]:
    """The ball, and what is left of it after a cut by each of 40 seeds."""
    image = pair()[0]
    cuts = [RandomCut(STRONG_CUT).set_random_state(seed)(image)[0] > 0 for seed in range(40)]
    return image[0] > 0, cuts


STRONG_CUT = Augmentation(cut=1.0)


def test_a_cut_is_tighter_or_looser_by_some_voxels() -> None:
    before, cuts = masks_of_cuts()
    counts = [int(after.sum()) for after in cuts]
    assert min(counts) < 0.9 * before.sum()
    assert max(counts) > 1.1 * before.sum()
    reach = RandomCut.REACH // 2
    near = F.max_pool3d(before[None].float(), 2 * reach + 1, 1, reach)[0] > 0
    assert not any((after & ~near).any() for after in cuts)


def test_a_cut_below_takes_a_tenth_of_the_height_at_most() -> None:
    before, cuts = masks_of_cuts()
    deep = -F.max_pool3d(-before[None].float(), 7, 1, 3)[0] > 0
    lowest = int(torch.nonzero(before.amax(dim=(0, 1)))[0])
    above = torch.arange(SHAPE[2]) >= lowest + 0.1 * SHAPE[2]
    assert all(after[deep & above].all() for after in cuts)
    assert any(not after[deep].all() or not after[..., lowest + 2].any() for after in cuts)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_cut_leaves_of_the_brain_stays_as_it_was(seed: int) -> None:
    image = pair()[0]
    after = RandomCut(STRONG_CUT).set_random_state(seed)(image)
    kept = (image > 0) & (after > 0)
    assert kept.any()
    assert torch.equal(after[kept], image[kept])
    assert after.min() >= 0 and after.max() <= 1


@pytest.mark.parametrize("seed", SEEDS)
def test_a_blur_smooths_the_brain_and_leaves_what_is_far_from_it(seed: int) -> None:
    image = pair()[0]
    after = RandomBlur(Augmentation(blur=1.0)).set_random_state(seed)(image)
    near = F.max_pool3d((image > 0).float()[None], 2 * RandomBlur.REACH + 1, 1, RandomBlur.REACH)
    assert not after[near[0] == 0].any()
    deep = (-F.max_pool3d(-(image > 0).float()[None], 7, 1, 3)[0]) > 0
    assert after[deep].std() < image[deep].std()
    assert after[deep].mean() == pytest.approx(float(image[deep].mean()), rel=0.1)


def test_a_blurred_brain_has_a_dim_rim_that_may_be_cut_off() -> None:
    image = ball()[None].float()
    blurred = [
        RandomBlur(Augmentation(blur=1.0)).set_random_state(seed)(image) for seed in range(20)
    ]
    sizes = [float((each > 0).sum() / image.sum()) for each in blurred]
    assert min(sizes) < 1 < max(sizes)
    rim = torch.cat([each[(each > 0) & (image == 0)] for each in blurred])
    assert 0 < rim.mean() < 0.5


def test_a_blur_keeps_what_is_constant() -> None:
    image = torch.full((1, *SHAPE), 0.7)
    after = RandomBlur(Augmentation(blur=1.0)).set_random_state(1)(image)
    middle = after[:, 4:-4, 4:-4, 4:-4]
    torch.testing.assert_close(middle, torch.full_like(middle, 0.7))


@pytest.mark.parametrize("kind", [RandomCut, RandomBlur])
def test_a_share_of_scans_is_changed(kind: Any) -> None:
    image = pair()[0]
    strength = Augmentation(cut=0.3, blur=0.3)
    changes = [
        not torch.equal(kind(strength).set_random_state(seed)(image), image) for seed in range(60)
    ]
    assert 0.1 < np.mean(changes) < 0.5


def test_only_a_strength_of_zero_throughout_is_off() -> None:
    assert OFF.off
    for name, strength in {**SPATIAL, **INTENSITY}.items():
        assert not changed(**{name: strength}).off
    assert not changed(displacement=(0.0, 0.01)).off


def test_scaled_weakens_every_strength_alike() -> None:
    full = STRONG
    half = dataclasses.asdict(full.scaled(0.5))
    for name, value in dataclasses.asdict(full).items():
        assert np.asarray(half[name]) == pytest.approx(np.asarray(value) / 2)
    assert full.scaled(1.0) == full
