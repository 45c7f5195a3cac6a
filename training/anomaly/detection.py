"""Figures of detection from the scores of repeated cross-validation, with intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.anomaly.reductions import FALSE_POSITIVE_RATE, threshold_from

__all__ = ["Answers", "fact_answers", "judge", "one_network_each"]

DRAWS, LEVEL = 2000, 0.95
"""Of the bootstrap over pictures."""


@dataclasses.dataclass(frozen=True, eq=False)
class Answers:
    """Scores that the networks of one method gave, by one reduction.

    Attributes
    ----------
    healthy, tumour
        (repeats, H) and (repeats, folds, T) scores, in units of the standard deviation
        of the validation slices about their mean.
    fold
        (repeats, H): whose network scored each healthy slice.
    validation
        (repeats, folds) lists of validation scores, in the same units.
    """

    healthy: NDArray[np.float64]
    tumour: NDArray[np.float64]
    fold: NDArray[np.int64]
    validation: list[list[NDArray[np.float64]]]


def judge(answers: Answers) -> dict[str, Any]:
    """Figures of one method by one reduction, with 95 % intervals over the pictures.

    AUROC is the share of pairs of a healthy picture and one with a tumour that the
    networks which saw neither put in order. AUPRC and the share of tumours found at
    10 % false positives are of the scores in units of the validation slices' spread,
    every picture by one network of a repeat, and the mean over the repeats.
    """
    from sklearn.metrics import average_precision_score

    order = _order(answers)
    healthy, tumour = answers.healthy, one_network_each(answers)
    random = np.random.default_rng(0)
    draws: dict[str, list[float]] = {"auroc": [], "auprc": [], "tpr_at_10_fpr": []}

    def figures(h: NDArray[np.int64], t: NDArray[np.int64]) -> dict[str, float]:
        truth = np.r_[np.zeros(len(h)), np.ones(len(t))]
        precision, found = [], []
        for of_healthy, of_tumour in zip(healthy[:, h], tumour[:, t], strict=True):
            precision.append(average_precision_score(truth, np.r_[of_healthy, of_tumour]))
            threshold = np.quantile(of_healthy, 1 - FALSE_POSITIVE_RATE)
            found.append((of_tumour > threshold).mean())
        return {
            "auroc": float(order[np.ix_(h, t)].mean()),
            "auprc": float(np.mean(precision)),
            "tpr_at_10_fpr": float(np.mean(found)),
        }

    for _ in range(DRAWS):
        drawn = figures(
            random.integers(healthy.shape[1], size=healthy.shape[1]),
            random.integers(tumour.shape[1], size=tumour.shape[1]),
        )
        for name, value in drawn.items():
            draws[name].append(value)
    found = figures(np.arange(healthy.shape[1]), np.arange(tumour.shape[1]))
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return {
        name: {"value": value, "interval": [float(np.quantile(draws[name], q)) for q in tails]}
        for name, value in found.items()
    } | {"at_threshold": _at_threshold(answers)}


def one_network_each(answers: Answers) -> NDArray[np.float64]:
    """(repeats, T): each tumour's score by one of a repeat's networks, as healthy slices have.

    A mean over networks would be less noisy than what it is compared with.
    """
    repeats, folds, count = answers.tumour.shape
    places = np.arange(count)
    return np.stack([answers.tumour[r, (places + r) % folds, places] for r in range(repeats)])


def _order(answers: Answers) -> NDArray[np.float64]:
    """(H, T): how often the tumour got the higher score; equal ones count half."""
    repeats, count = answers.healthy.shape
    order = np.zeros((count, answers.tumour.shape[-1]))
    for repeat in range(repeats):
        tumour = answers.tumour[repeat, answers.fold[repeat]]
        healthy = answers.healthy[repeat][:, None]
        order += (tumour > healthy) + 0.5 * (tumour == healthy)
    return order / repeats


def _at_threshold(answers: Answers) -> dict[str, float]:
    """At the threshold that the validation slices alone set: 10 % of them are above."""
    above_healthy, above_tumour = [], []
    for repeat, of_folds in enumerate(answers.validation):
        for fold, validation in enumerate(of_folds):
            threshold = threshold_from(validation)
            mine = answers.fold[repeat] == fold
            above_healthy += list(answers.healthy[repeat, mine] > threshold)
            above_tumour += list(answers.tumour[repeat, fold] > threshold)
    return {
        "false_positive_rate": float(np.mean(above_healthy)),
        "true_positive_rate": float(np.mean(above_tumour)),
    }


def fact_answers(values: NDArray[np.float64], tumour: NDArray[np.bool_]) -> Answers:
    """A number that is there without training, as answers of one repeat and fold."""
    healthy = values[~tumour]
    mean, deviation = healthy.mean(), healthy.std() + 1e-12
    scaled = (values - mean) / deviation
    fold = np.zeros((1, len(healthy)), np.int64)
    return Answers(scaled[None, ~tumour], scaled[None, None, tumour], fold, [[scaled[~tumour]]])
