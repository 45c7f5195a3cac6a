"""What is put into healthy slices, and done to them: drawn alike from one seed, and in bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import training.anomaly.synthetic
from tests.training.heads import head_images
from training.anomaly.synthetic import (
    AROUND,
    COARSE_NOISE,
    UNCHANGED,
    VISIBLE,
    add_coarse_noise,
    augment_slices,
    put_in_anomalies,
)

Change = Callable[[Tensor, np.random.Generator], Tensor]

CHANGES: dict[str, Change] = {
    "anomalies": lambda images, random: put_in_anomalies(images, random)[0],
    "masks": lambda images, random: put_in_anomalies(images, random)[1],
    "noise": add_coarse_noise,
    "augmentation": augment_slices,
}
EACH = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


def heads(count: int) -> Tensor:
    return torch.from_numpy(head_images(*range(count)))


def drawn(seed: int) -> Any:
    return np.random.default_rng(seed)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every slice gets two anomalies."""
    monkeypatch.setattr(training.anomaly.synthetic, "UNCHANGED", 0.0)
    monkeypatch.setattr(training.anomaly.synthetic, "SECOND", 1.0)


@EACH
def test_equal_draws_give_equal_slices_and_the_callers_are_not_modified(change: Change) -> None:
    images = heads(4)
    first, same, other = (change(images, drawn(seed)) for seed in (1, 1, 2))
    assert torch.equal(images, heads(4))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# --- anomalies ---


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("brightness", [1.0, 3.0])
def test_the_mask_is_only_where_something_changed(brightness: float) -> None:
    """Also where an anomaly could only be brighter than what is brightest."""
    images = (brightness * heads(40)).clamp(0, 1)
    changed, mask = put_in_anomalies(images, drawn(0))
    assert changed.shape == mask.shape == images.shape
    assert changed.min() >= 0 and changed.max() <= 1
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    around = F.avg_pool2d((changed - images).abs()[:, None], AROUND, 1, AROUND // 2)[:, 0]
    assert (around[mask == 1] > VISIBLE - 1e-6).all()


@pytest.mark.usefixtures("always")
def test_the_mask_has_most_of_what_changed_by_much() -> None:
    images = heads(40)
    changed, mask = put_in_anomalies(images, drawn(0))
    much = (changed - images).abs() > 5 * VISIBLE
    assert mask[much].mean() > 0.7


def test_a_share_of_the_slices_stays_healthy() -> None:
    images = heads(1).expand(200, -1, -1)
    changed, mask = put_in_anomalies(images, drawn(0))
    healthy = (changed == images).flatten(1).all(1)
    assert abs(float(healthy.float().mean()) - UNCHANGED) < 0.08
    assert not mask[healthy].any()
    marked = mask.flatten(1).any(1)
    assert marked[~healthy].float().mean() > 0.8


@pytest.mark.usefixtures("always")
def test_each_anomaly_is_another_one() -> None:
    mask = put_in_anomalies(heads(1).expand(20, -1, -1), drawn(0))[1]
    found = {each.numpy().tobytes() for each in mask if each.any()}
    assert len(found) == int(mask.flatten(1).any(1).sum()) > 10


@pytest.mark.usefixtures("always")
def test_nothing_is_put_where_there_is_no_head() -> None:
    empty = torch.zeros(5, 128, 128)
    changed, mask = put_in_anomalies(empty, drawn(0))
    assert not changed.any() and not mask.any()


# --- noise ---


def test_coarse_noise_is_in_the_head_alone() -> None:
    images = heads(6)
    noise = add_coarse_noise(images, drawn(0)) - images
    assert not noise[images == 0].any()
    assert (noise[images > 0] != 0).float().mean() > 0.99
    assert 0.5 * COARSE_NOISE < noise[images > 0].std() < 1.2 * COARSE_NOISE


def test_coarse_noise_is_coarse() -> None:
    """A pixel's is about its neighbours', and not that of pixels further off than a node."""
    noise = add_coarse_noise(torch.ones(6, 128, 128), drawn(0)) - 1
    spread = float(noise.std())
    assert (noise[:, 1:] - noise[:, :-1]).std() < 0.4 * spread
    assert (noise[:, 16:] - noise[:, :-16]).std() > spread


# --- augmentation ---


def test_augmented_slices_are_slices_whose_air_is_zero() -> None:
    """Else coarse noise would be put into it."""
    augmented = augment_slices(heads(8), drawn(0))
    assert (augmented.shape, augmented.dtype) == ((8, 128, 128), torch.float32)
    assert augmented.min() >= 0 and augmented.max() <= 1
    corners = augmented[:, ::120, ::120]
    assert not corners.any()
    assert 0.3 < (augmented > 0).float().mean() < 0.7


def test_every_slice_is_augmented_in_its_own_way() -> None:
    images = heads(1).expand(8, -1, -1)
    augmented = augment_slices(images, drawn(0))
    assert len({each.numpy().tobytes() for each in (*augmented, images[0])}) == 9


def test_half_of_the_augmented_slices_are_mirrored() -> None:
    image = heads(1)[0]
    image[:, :64] *= 0.2
    augmented = augment_slices(image.expand(60, -1, -1), drawn(0))
    mirrored = augmented[:, :, :64].mean((1, 2)) > augmented[:, :, 64:].mean((1, 2))
    assert 0.3 < mirrored.float().mean() < 0.7


def test_augmentation_changes_contrast() -> None:
    """Of grey heads, means from about a half to twice as bright."""
    images = 0.4 * (heads(1) > 0).float().expand(30, -1, -1)
    augmented = augment_slices(images, drawn(0))
    means = torch.stack([each[each > 0].mean() for each in augmented])
    assert means.min() < 0.35 and means.max() > 0.45
