"""Figures of detection on scores that are known."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

import training.anomaly.detection
from training.anomaly.detection import MethodScores, fact_scores, judge, one_network_each

MEASURES = ("auroc", "auprc", "tpr_at_10_fpr")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.anomaly.detection, "DRAWS", 100)


def once(healthy: Sequence[float], tumour: Sequence[float]) -> MethodScores:
    """Scores of one network that saw none of these."""
    values = np.array([*healthy, *tumour], float)
    return fact_scores(values, np.arange(len(values)) >= len(healthy))


def drawn(seed: int, healthy: int = 40, tumour: int = 60, shift: float = 0.8) -> Any:
    """Scores with ties, and the truth."""
    random = np.random.default_rng(seed)
    truth = np.repeat([0, 1], [healthy, tumour])
    return np.round(random.standard_normal(len(truth)) + shift * truth, 1), truth


@pytest.mark.parametrize("seed", range(4))
def test_one_folds_figures_are_sklearns(seed: int) -> None:
    scores, truth = drawn(seed)
    assert len(set(scores.tolist())) < len(scores), "no ties"
    found = judge(fact_scores(scores, truth == 1))
    assert found["auroc"]["value"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    expected = average_precision_score(truth, scores)
    assert found["auprc"]["value"] == pytest.approx(expected, abs=1e-12)


def test_equal_scores_count_half() -> None:
    assert judge(once([3] * 5, [3] * 4))["auroc"]["value"] == 0.5
    assert judge(once([1, 2], [2, 2]))["auroc"]["value"] == 0.75


def test_a_scorer_that_is_always_right_has_only_ones_and_one_always_wrong_finds_nothing() -> None:
    found = judge(once(np.arange(20), np.arange(100, 130)))
    for name in MEASURES:
        assert [found[name]["value"], *found[name]["interval"]] == pytest.approx([1, 1, 1])
    found = judge(once(np.arange(100, 130), np.arange(20)))
    assert found["auroc"] == {"value": 0.0, "interval": [0.0, 0.0]}
    assert found["tpr_at_10_fpr"]["value"] == 0


def test_a_scorer_that_guesses_has_a_half_in_its_interval() -> None:
    scores, truth = drawn(0, 200, 200, shift=0)
    found = judge(fact_scores(scores, truth == 1))
    low, high = found["auroc"]["interval"]
    assert low < 0.5 < high and high - low < 0.2
    assert found["tpr_at_10_fpr"]["value"] == pytest.approx(0.1, abs=0.07)


@pytest.mark.parametrize("seed", range(4))
def test_intervals_contain_the_value_and_are_narrower_of_more_pictures(seed: int) -> None:
    widths = []
    for times in (1, 10):
        scores, truth = drawn(seed, 30 * times, 40 * times)
        found = judge(fact_scores(scores, truth == 1))
        for name in MEASURES:
            low, high = found[name]["interval"]
            assert 0 <= low <= found[name]["value"] <= high <= 1
        low, high = found["auroc"]["interval"]
        widths.append(high - low)
    assert 0 < widths[1] < 0.6 * widths[0]


def test_figures_are_the_same_each_time_and_json_by_the_standard() -> None:
    scores, truth = drawn(1)
    answers = fact_scores(scores, truth == 1)
    found = judge(answers)
    assert judge(answers) == found
    json.dumps(found, allow_nan=False)


def test_a_healthy_picture_is_compared_with_what_its_own_network_says_of_tumours() -> None:
    """The second network's scores are all higher, and each puts all pairs in order."""
    answers = MethodScores(
        healthy=np.array([[0.0, 0.5, 100.0, 100.5]]),
        tumour=np.array([[[1.0, 2.0], [101.0, 102.0]]]),
        fold=np.array([[0, 0, 1, 1]]),
        validation=[[np.zeros(3), np.full(3, 100.0)]],
    )
    assert judge(answers)["auroc"]["value"] == 1
    swapped = dataclasses.replace(answers, fold=1 - answers.fold)
    assert judge(swapped)["auroc"]["value"] == 0.5


def test_repeats_count_alike() -> None:
    """One network that is always right, one that is always wrong."""
    answers = MethodScores(
        healthy=np.array([[0.0, 1.0], [4.0, 5.0]]),
        tumour=np.array([[[2.0, 3.0]], [[2.0, 3.0]]]),
        fold=np.zeros((2, 2), int),
        validation=[[np.zeros(3)], [np.zeros(3)]],
    )
    assert judge(answers)["auroc"]["value"] == 0.5


def test_the_share_found_at_ten_percent_false_positives_is_above_nine_of_ten_healthy() -> None:
    healthy = np.arange(101.0)
    found = judge(once(healthy, [89, 89.5, 90.5, 91, 500]))
    assert found["tpr_at_10_fpr"]["value"] == pytest.approx(3 / 5)


def test_the_threshold_comes_from_validation_alone() -> None:
    """Of 0 to 100 it is 90.8, whatever the others are."""
    answers = MethodScores(
        healthy=np.array([[0.0, 89.0, 91.0, 92.0]]),
        tumour=np.array([[[89.0, 90.9, 95.0, 96.0, 97.0]]]),
        fold=np.zeros((1, 4), int),
        validation=[[np.arange(101.0)]],
    )
    expected = {"false_positive_rate": 0.5, "true_positive_rate": 0.8}
    assert judge(answers)["at_threshold"] == expected
    lower = dataclasses.replace(answers, validation=[[np.arange(101.0) - 5]])
    assert judge(lower)["at_threshold"] == {"false_positive_rate": 0.75, "true_positive_rate": 1}


def test_each_networks_threshold_is_for_its_own_scores() -> None:
    answers = MethodScores(
        healthy=np.array([[0.0, 1000.0]]),
        tumour=np.array([[[200.0, 200.0], [200.0, 2000.0]]]),
        fold=np.array([[0, 1]]),
        validation=[[np.arange(101.0), np.arange(101.0) + 1000]],
    )
    found = judge(answers)["at_threshold"]
    assert found == {"false_positive_rate": 0.0, "true_positive_rate": 0.75}


def test_each_tumour_is_scored_by_one_network_of_a_repeat() -> None:
    tumour = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4)
    answers = MethodScores(np.zeros((2, 2)), tumour, np.zeros((2, 2), int), [[]])
    found = one_network_each(answers)
    assert found.tolist() == [
        [tumour[0, 0, 0], tumour[0, 1, 1], tumour[0, 2, 2], tumour[0, 0, 3]],
        [tumour[1, 1, 0], tumour[1, 2, 1], tumour[1, 0, 2], tumour[1, 1, 3]],
    ]
