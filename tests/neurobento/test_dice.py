"""Dice against MONAI's and its interval against SciPy's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice
from scipy import stats

from neurobento.dice import class_dice, mean_dice, summarise

CLASSES = 9


def random_maps(seed: int) -> tuple[Any, Any]:
    """Two maps that agree in part; class 7 is in the first alone, 6 in the second, 8 in none."""
    random = np.random.default_rng(seed)
    first = random.integers(0, 6, (7, 8, 9)).astype(np.uint8)
    second = np.where(random.random(first.shape) < 0.6, first, random.integers(0, 6, first.shape))
    first[0, 0, :3], second[1, 1, :4] = 7, 6
    return first, second.astype(np.uint8)


def monai_dice(predicted: Any, reference: Any) -> Any:
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(m).long(), CLASSES).movedim(-1, 0)[None]
        for m in (predicted, reference)
    ]
    return compute_dice(*one_hot, include_background=True, ignore_empty=False)[0].numpy()


@pytest.mark.parametrize("seed", range(4))
def test_dice_is_monais_wherever_a_map_has_the_class(seed: int) -> None:
    first, second = random_maps(seed)
    dice = class_dice(first, second, CLASSES)
    np.testing.assert_allclose(dice[:8], monai_dice(first, second)[:8], rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_dice_is_symmetric(seed: int) -> None:
    first, second = random_maps(seed)
    forth, back = class_dice(first, second, CLASSES), class_dice(second, first, CLASSES)
    np.testing.assert_array_equal(forth, back)


def test_a_class_in_neither_map_has_no_dice() -> None:
    dice = class_dice(*random_maps(0), CLASSES)
    assert np.flatnonzero(np.isnan(dice)).tolist() == [8]


def test_a_class_in_one_map_alone_has_dice_zero() -> None:
    dice = class_dice(*random_maps(0), CLASSES)
    assert dice[6] == dice[7] == 0


def test_a_map_agrees_with_itself() -> None:
    first, _ = random_maps(0)
    present = np.unique(first)
    dice = class_dice(first, first, CLASSES)
    assert (dice[present] == 1).all()
    assert np.isnan(np.delete(dice, present)).all()


def test_there_is_one_value_for_each_of_117_classes() -> None:
    first, second = random_maps(0)
    dice = class_dice(first, second)
    assert (dice.shape, dice.dtype) == ((117,), np.float64)


def test_a_half_shift_of_a_bar_has_dice_one_half() -> None:
    first, second = np.zeros((2, 12, 1, 1), np.uint8)
    first[2:6], second[4:8] = 1, 1
    assert class_dice(first, second, 2)[1] == 0.5


def test_a_scans_dice_is_the_mean_over_present_classes_with_background() -> None:
    first, second = random_maps(1)
    assert mean_dice(first, second) == pytest.approx(monai_dice(first, second)[:8].mean())


@pytest.mark.parametrize("scores", [[0.8, 0.9], [0.7, 0.75, 0.9, 0.6, 0.88]])
def test_the_interval_is_scipys(scores: list[float]) -> None:
    summary = summarise(scores)
    low, high = stats.t.interval(
        0.95, len(scores) - 1, loc=np.mean(scores), scale=stats.sem(scores)
    )
    assert summary.mean == pytest.approx(np.mean(scores))
    assert summary.sd == pytest.approx(stats.tstd(scores))
    assert (summary.low, summary.high) == (pytest.approx(low), pytest.approx(high))
    assert summary.count == len(scores)


def test_one_score_has_a_mean_and_no_interval() -> None:
    summary = summarise([0.8])
    assert (summary.mean, summary.count) == (0.8, 1)
    assert all(math.isnan(value) for value in (summary.sd, summary.low, summary.high))
