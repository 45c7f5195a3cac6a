"""Laws of the clean-up of registered labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from training.parcellation.cleanup import CLEANUPS, clean_up, drop_islands, open_each_label


def two_blocks() -> Any:
    """Label 1 and label 2 side by side, background around."""
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[3:10, 3:17, 3:17] = 1
    labels[10:17, 3:17, 3:17] = 2
    return labels


def noise(seed: int) -> Any:
    """Smooth random regions 0..6 with ragged edges and islands."""
    random = np.random.default_rng(seed)
    fields = ndimage.gaussian_filter(random.normal(size=(7, 24, 25, 26)), (0, 2, 2, 2))
    labels = fields.argmax(axis=0).astype(np.uint8)
    spots = random.random(labels.shape) < 0.01
    labels[spots] = random.integers(0, 7, int(spots.sum()))
    return labels


def test_the_options_are_the_documented_three_and_none_leaves_the_labels_as_they_are() -> None:
    assert CLEANUPS == ("gentle", "report", "none")
    assert np.array_equal(clean_up(noise(0), "none"), noise(0))


@pytest.mark.parametrize("how", CLEANUPS)
def test_the_callers_labels_are_not_modified_nor_shared(how: Any) -> None:
    labels = noise(1)
    result = clean_up(labels, how)
    assert np.array_equal(labels, noise(1))
    assert not np.shares_memory(labels, result)
    assert (result.shape, result.dtype) == (labels.shape, np.uint8)


@pytest.mark.parametrize("how", CLEANUPS)
def test_clean_labels_and_background_alone_stay_as_they_are(how: Any) -> None:
    assert np.array_equal(clean_up(two_blocks(), how), two_blocks())
    assert not clean_up(np.zeros((5, 5, 5), np.uint8), how).any()


@pytest.mark.parametrize("how", ["gentle", "report"])
def test_cleaning_twice_is_cleaning_once(how: Any) -> None:
    labels = two_blocks()
    labels[5, 5, 5] = 2
    labels[14, 14, 14] = 1
    labels[18, 18, 18] = 1
    once = clean_up(labels, how)
    assert np.array_equal(clean_up(once, how), once)


@pytest.mark.parametrize("seed", range(3))
def test_report_is_scipys_opening_of_each_label_alone(seed: int) -> None:
    labels = noise(seed)
    expected = np.zeros_like(labels)
    for index in range(1, 7):
        expected[ndimage.binary_opening(labels == index, np.ones((3, 3, 3)))] = index
    assert np.array_equal(open_each_label(labels), expected)


def test_report_removes_a_thin_region_whole_and_gentle_does_not() -> None:
    """Why opening is not the default."""
    labels = two_blocks()
    labels[5, 3:17, 3:17] = 95
    assert 95 not in clean_up(labels, "report")
    assert np.array_equal(clean_up(labels, "gentle"), labels)


def test_report_leaves_background_where_a_label_vanishes() -> None:
    labels = two_blocks()
    labels[5, 5, 5] = 3
    opened = clean_up(labels, "report")
    assert opened[5, 5, 5] == 0


@pytest.mark.parametrize("seed", range(3))
def test_gentle_loses_no_region_and_keeps_the_largest_piece_of_each(seed: int) -> None:
    labels = noise(seed)
    cleaned = drop_islands(labels)
    assert set(np.unique(cleaned)) == set(np.unique(labels))
    for index in range(1, 7):
        pieces, _ = ndimage.label(labels == index, np.ones((3, 3, 3)))
        largest = pieces == np.bincount(pieces.ravel())[1:].argmax() + 1
        assert (cleaned[largest] == index).all()


def test_gentle_gives_an_island_to_the_region_or_background_around_it() -> None:
    labels = two_blocks()
    labels[5:7, 5:7, 5:7] = 2
    labels[13, 13, 13] = 1
    assert np.array_equal(drop_islands(labels), two_blocks())
    labels = two_blocks()
    labels[18:, 18:, 18:] = 1
    labels[0, 0, 0] = 2
    assert np.array_equal(drop_islands(labels), two_blocks())


@pytest.mark.parametrize("corner", [(0, 0, 0), (19, 19, 19), (0, 19, 0)])
def test_islands_at_the_edge_of_the_grid_are_found(corner: tuple[int, int, int]) -> None:
    labels = two_blocks()
    labels[corner] = 2
    assert drop_islands(labels)[corner] == 0


def test_a_piece_of_a_tenth_is_no_island() -> None:
    labels = np.zeros((30, 12, 12), dtype=np.uint8)
    labels[1:11, 1:11, 1:11] = 1
    labels[20:25, 1:6, 1:5] = 1
    assert np.array_equal(drop_islands(labels), labels)
    labels[24, 5, 4] = 0
    assert not drop_islands(labels)[20:].any()


def test_pieces_that_touch_by_a_corner_are_one() -> None:
    labels = two_blocks()
    labels[2, 2, 2] = 1
    assert np.array_equal(drop_islands(labels), labels)
