"""The reduction is chosen by what was put into healthy slices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from neurobento.imaging.geometry import SLICE_SHAPE
from neurobento.networks.anomaly import REDUCTIONS
from neurobento.networks.anomaly_unet import AnomalyUNet
from tests.training.heads import head_images
from training.anomaly.reductions import (
    choose_reduction,
    error_maps_of,
    scores_by_all,
    threshold_from,
)

HEALTHY = head_images(*range(6))


def test_scores_are_the_reductions_of_error_maps() -> None:
    maps = np.random.default_rng(0).random((3, *SLICE_SHAPE), np.float32)
    scores = scores_by_all(maps)
    assert list(scores) == list(REDUCTIONS)
    np.testing.assert_allclose(scores["maximum"], maps.max((1, 2)))
    np.testing.assert_allclose(scores["mean"], maps.mean((1, 2)), rtol=1e-5)


def test_error_maps_are_the_networks_own_whatever_the_batch() -> None:
    torch.manual_seed(0)
    network = AnomalyUNet((4, 4, 4, 4, 4, 4)).eval()
    images = head_images(*range(35))
    maps = error_maps_of(network)(images)
    with torch.inference_mode():
        alone = network.error_map(torch.from_numpy(images[34:])[:, None]).numpy()
    np.testing.assert_allclose(maps[34:], alone, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "expected"), [(1, "maximum"), (SLICE_SHAPE[0], "mean")], ids=["a pixel", "all"]
)
def test_what_an_anomaly_changes_decides(size: int, expected: str) -> None:
    """A method that marks one pixel, or raises all of them by less than its noise."""
    own = {image.tobytes() for image in HEALTHY}
    random = np.random.default_rng(0)

    def error_maps(images: Any) -> Any:
        maps = random.random(images.shape, np.float32)
        for image, each in zip(images, maps, strict=True):
            if image.tobytes() not in own:
                # one pixel a little brighter than all others changes no mean by more than its noise
                each[:size, :size] = each.max() + 0.05 if size == 1 else each + 0.02
        return maps

    assert choose_reduction(error_maps, HEALTHY, 0) == expected


def test_the_choice_is_the_same_for_a_seed() -> None:
    def dark(images: Any) -> Any:
        return np.abs(images - HEALTHY.mean(0))

    assert len({choose_reduction(dark, HEALTHY, 3) for _ in range(3)}) == 1


@pytest.mark.parametrize("count", [9, 12, 23, 76])
def test_a_tenth_of_new_healthy_slices_is_expected_above_the_threshold(count: int) -> None:
    random = np.random.default_rng(0)
    shares = []
    for _ in range(4000):
        scores = random.random(count)
        # of new ones, drawn from 0 to 1, so many are above
        shares.append(1 - threshold_from(scores))
    assert np.mean(shares) == pytest.approx(0.1, abs=0.005)
