"""Dice of scans and regions on made-up numbers, and surface distances of shapes that are known."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from neurobento.labels import aal116
from training.parcellation.scores import Scores, hd95, score_labels

NAMES = [region.name for region in aal116()]
SPACING_MM = (1.5, 0.75, 2.0)


def ladder() -> Any:
    """(2, 117): background 1; region i has Dice about i / 200."""
    dice = np.arange(117) / 200 + np.array([[0.0], [0.1]])
    dice[:, 0] = 1
    return dice


def cube(label: int, *start: int, side: int = 8) -> NDArray[np.uint8]:
    labels = np.zeros((24, 25, 26), np.uint8)
    labels[tuple(slice(s, s + side) for s in start)] = label
    return labels


def blobs(seed: int) -> NDArray[np.uint8]:
    """Four smooth regions that touch each other and the grid's faces, and background."""
    noise = np.random.default_rng(seed).standard_normal((5, 20, 22, 18))
    return gaussian_filter(noise, (0, 3, 3, 3)).argmax(axis=0).astype(np.uint8)


# --- Dice ---


def test_a_scans_dice_is_the_mean_over_labels_present() -> None:
    dice = np.full((2, 117), np.nan)
    dice[0, [0, 5]] = 1.0, 0.5
    dice[1, [0, 5, 9]] = 1.0, 0.5, 0.0
    assert Scores(("a", "b"), dice).per_scan.tolist() == [0.75, 0.5]


def test_the_summary_is_over_scans_and_json_by_the_standard() -> None:
    values = Scores(("a", "b"), ladder()).as_dict()
    means = ladder().mean(axis=1)
    assert values["scans"] == {"a": round(means[0], 4), "b": round(means[1], 4)}
    assert values["summary"]["mean"] == pytest.approx(means.mean(), abs=1e-4)
    assert values["summary"]["sd"] == pytest.approx(means.std(ddof=1), abs=1e-4)
    assert values["summary"]["count"] == 2
    for scans in (1, 2):
        values = Scores(("a", "b")[:scans], ladder()[:scans]).as_dict()
        json.dumps(values, allow_nan=False)


def test_a_region_is_never_predicted_where_its_dice_is_zero_on_every_scan() -> None:
    dice = np.full((2, 117), 0.5)
    dice[:, 7] = 0
    dice[:, 9] = 0, 0.1
    dice[:, 11] = 0, np.nan
    dice[:, 13] = np.nan
    assert Scores(("a", "b"), dice).never_predicted() == [NAMES[6], NAMES[10]]


def test_labels_are_scored_scan_by_scan() -> None:
    predicted = [np.array([0, 1, 1, 2], np.uint8), np.array([0, 3, 3, 3], np.uint8)]
    reference = [np.array([0, 1, 2, 2], np.uint8), np.array([3, 3, 3, 3], np.uint8)]
    scores = score_labels(["a", "b"], predicted, reference)
    assert scores.names == ("a", "b")
    expected = [[1, 2 / 3, 2 / 3, np.nan], [0, np.nan, np.nan, 6 / 7]]
    np.testing.assert_allclose(scores.dice[:, :4], expected)
    assert np.isnan(scores.dice[:, 4:]).all() and scores.dice.shape == (2, 117)


def test_as_many_predictions_as_references_are_needed() -> None:
    labels = np.zeros(3, np.uint8)
    with pytest.raises(ValueError, match="shorter"):
        score_labels(["a", "b"], [labels, labels], [labels])


# --- surface distance ---


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("voxels", [-3, 1, 2])
def test_the_distance_of_a_shifted_cube_is_its_shift(axis: int, voxels: int) -> None:
    start = [10, 10, 10]
    moved = [s + voxels * (i == axis) for i, s in enumerate(start)]
    distance = hd95(cube(5, *moved), cube(5, *start), SPACING_MM)
    assert distance[5] == pytest.approx(abs(voxels) * SPACING_MM[axis])


def test_the_distance_of_equal_maps_is_zero_and_the_last_region_is_measured_too() -> None:
    labels = blobs(0)
    assert hd95(labels, labels, SPACING_MM)[1:5].tolist() == [0] * 4
    assert hd95(cube(116, 3, 4, 5), cube(116, 5, 4, 5), SPACING_MM)[116] == pytest.approx(3.0)


def test_a_region_in_one_map_only_is_infinitely_far() -> None:
    labels, empty = cube(5, 3, 4, 5), np.zeros((24, 25, 26), np.uint8)
    for pair in ((labels, empty), (empty, labels)):
        distance = hd95(*pair, SPACING_MM)
        assert distance[5] == np.inf
        assert np.isnan(np.delete(distance, 5)).all()


def test_a_region_in_neither_map_and_the_background_have_no_distance() -> None:
    distance = hd95(blobs(0), blobs(1), SPACING_MM)
    assert distance.shape == (117,)
    assert np.flatnonzero(np.isfinite(distance)).tolist() == [1, 2, 3, 4]
    assert np.isnan(distance[[0, *range(5, 117)]]).all()


def test_the_larger_of_both_directions_counts() -> None:
    """All of one map lies in the other, half of the other is far from the one."""
    one = cube(5, 2, 2, 2)
    both = one | cube(5, 2, 2, 16)
    gap_mm = (16 - 9) * SPACING_MM[2]
    for pair in ((one, both), (both, one)):
        assert hd95(*pair, SPACING_MM)[5] > gap_mm


def test_a_lone_voxel_far_away_does_not_count() -> None:
    lone = cube(5, 2, 2, 2)
    lone[23, 24, 25] = 5
    assert hd95(lone, cube(5, 2, 2, 2), SPACING_MM)[5] == 0


def test_other_regions_do_not_matter() -> None:
    a, b = cube(5, 2, 2, 2), cube(5, 2, 3, 2)
    alone = hd95(a, b, SPACING_MM)[5]
    a[12:20, :, 12:] = 6
    b[12:20, :, 2:9] = 4
    assert hd95(a, b, SPACING_MM)[5] == alone == SPACING_MM[1]


def test_cutting_regions_out_changes_nothing() -> None:
    """MONAI's own on the whole maps is the oracle."""
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance

    maps = [blobs(2), blobs(3)]
    one_hot = [torch.from_numpy(np.stack([m == i for i in range(5)]))[None].float() for m in maps]
    expected = compute_hausdorff_distance(
        *one_hot, include_background=False, percentile=95, spacing=list(SPACING_MM)
    )
    found = hd95(*maps, SPACING_MM)[1:5]
    assert (found > 0).all()
    np.testing.assert_allclose(found, expected[0].numpy(), rtol=1e-6)
