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

from training.augmentation import Augmentation, RandomIntensity, RandomWarp, augment

SHAPE = (24, 30, 36)
SEEDS = range(4)
OFF = Augmentation(0.0, 0.0, 0.0, (0.0, 0.0), 0.0, 0.0, 0.0)
STRONG = Augmentation(0.3, 0.2, 0.1, (0.05, 0.03), 0.8, 0.8, 0.3)
SPATIAL = {"rotation_rad": 0.3, "scale": 0.2, "shift": 0.1, "displacement": (0.05, 0.05)}
INTENSITY = {"gamma": 0.5, "bias": 0.3, "noise": 0.2}

CENTRE, RADIUS = (10.0, 17.0, 19.0), 7.0


def ball() -> Tensor:
    """(X, Y, Z) bool, off the middle so that a turn moves it."""
    index = np.indices(SHAPE)
    offset = index - np.array(CENTRE).reshape(3, 1, 1, 1)
    return torch.from_numpy((offset**2).sum(axis=0) < RADIUS**2)


def pair() -> tuple[Tensor, Tensor]:
    """A grey ball with a texture in an empty image; its halves are labels 40 and 90."""
    inside = ball()
    texture = torch.rand(SHAPE, generator=torch.Generator().manual_seed(9)) * 0.6 + 0.3
    labels = inside.byte() * 40
    labels[int(CENTRE[0]) :] *= 2
    labels[labels == 80] = 90
    return (texture * inside)[None], labels


def changed(**strength: Any) -> Augmentation:
    return dataclasses.replace(OFF, **strength)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pair_is_a_function_of_the_seed_alone(seed: int) -> None:
    first = augment(Augmentation(), seed, *pair())
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    second = augment(Augmentation(), seed, *pair())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_other_seeds_give_other_pairs() -> None:
    images, labels = zip(*(augment(Augmentation(), seed, *pair()) for seed in SEEDS), strict=True)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(images))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(labels))


def test_the_global_random_states_are_left_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    augment(Augmentation(), 0, *pair())
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


@pytest.mark.parametrize("seed", SEEDS)
def test_zero_strengths_leave_the_pair_as_it_is(seed: int) -> None:
    image, labels = augment(OFF, seed, *pair())
    torch.testing.assert_close(image, pair()[0], atol=1e-4, rtol=0)
    assert torch.equal(labels, pair()[1])


@pytest.mark.parametrize(("name", "strength"), SPATIAL.items())
def test_each_spatial_strength_moves_image_and_labels(name: str, strength: Any) -> None:
    image, labels = augment(changed(**{name: strength}), 1, *pair())
    assert (image - pair()[0]).abs().max() > 0.05
    assert not torch.equal(labels, pair()[1])


@pytest.mark.parametrize(("name", "strength"), INTENSITY.items())
def test_each_intensity_strength_changes_the_image_alone(name: str, strength: Any) -> None:
    image, labels = augment(changed(**{name: strength}), 1, *pair())
    assert (image - pair()[0]).abs().max() > 0.02
    assert torch.equal(labels, pair()[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_label_is_invented(seed: int) -> None:
    _, labels = augment(STRONG, seed, *pair())
    assert labels.dtype == torch.uint8
    assert set(labels.unique().tolist()) == {0, 40, 90}


@pytest.mark.parametrize("seed", SEEDS)
def test_intensities_stay_between_zero_and_one(seed: int) -> None:
    image, _ = augment(STRONG, seed, *pair())
    assert image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1
    assert image.max() > 0.1


@pytest.mark.parametrize("seed", SEEDS)
def test_the_background_stays_zero(seed: int) -> None:
    image, _ = pair()
    after = RandomIntensity(STRONG).set_random_state(seed)(image)
    assert not after[image == 0].any()
    assert after[image > 0].any()


@pytest.mark.parametrize("seed", range(8))
def test_image_and_labels_move_together(seed: int, dice: Callable[[Any, Any, int], float]) -> None:
    inside = ball()
    image, labels = RandomWarp(Augmentation(0.3, 0.1, 0.2)).set_random_state(seed)(
        inside.float()[None], inside.byte()
    )
    assert dice((image[0] > 0.5).byte().numpy(), labels.numpy(), 1) > 0.97
    assert dice(labels.numpy(), inside.byte().numpy(), 1) < 0.93


def test_what_comes_from_beyond_the_edge_is_background() -> None:
    full = torch.ones(SHAPE)
    shrunk = RandomWarp(changed(shift=0.5)).set_random_state(1)(full[None], full.byte())
    assert not shrunk[0].all()
    assert not shrunk[1].all()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shift_moves_the_labels_whole(seed: int) -> None:
    before = ball()
    warp = RandomWarp(changed(shift=0.06)).set_random_state(seed)
    after = warp(before.float()[None], before.byte())[1]
    assert float(after.sum()) == pytest.approx(float(before.sum()), rel=0.03)
    moved = torch.nonzero(after).double().mean(0) - torch.nonzero(before).double().mean(0)
    assert moved.abs().max() > 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_the_callers_pair_is_not_modified(seed: int) -> None:
    image, labels = pair()
    augment(STRONG, seed, image, labels)
    assert torch.equal(image, pair()[0])
    assert torch.equal(labels, pair()[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_shapes_stay(seed: int) -> None:
    image, labels = augment(STRONG, seed, *pair())
    assert image.shape == (1, *SHAPE)
    assert labels.shape == SHAPE


def test_scaled_weakens_every_strength_alike() -> None:
    full = Augmentation()
    half = dataclasses.asdict(full.scaled(0.5))
    for name, value in dataclasses.asdict(full).items():
        assert np.asarray(half[name]) == pytest.approx(np.asarray(value) / 2)
    assert full.scaled(1.0) == full
