"""AUROC, AUPRC and rates from the scores of repeated cross-validation, with intervals."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.anomaly.reductions import FALSE_POSITIVE_RATE, threshold_from

__all__ = ["MethodScores", "fact_scores", "judge", "one_network_each"]

DRAWS, LEVEL = 2000, 0.95
"""Draws and confidence level of the bootstrap over pictures."""


@dataclasses.dataclass(frozen=True, eq=False)
class MethodScores:
    """Scores of one method's networks by one reduction, in SDs of the validation slices."""

    # (repeats, H) and (repeats, folds, T)
    healthy: NDArray[np.float64]
    tumour: NDArray[np.float64]
    # (repeats, H): whose network scored each healthy slice
    fold: NDArray[np.int64]
    # (repeats, folds) lists of scores
    validation: list[list[NDArray[np.float64]]]


def judge(scores: MethodScores) -> dict[str, Any]:
    """Return the figures of one method by one reduction, with 95 % intervals over the pictures.

    AUROC uses networks that saw neither picture of a pair. AUPRC and the share of tumours found at
    10 % false positives use one network of each repeat for every picture, averaged over the
    repeats.
    """
    from sklearn.metrics import average_precision_score

    order = _order(scores)
    healthy, tumour = scores.healthy, one_network_each(scores)
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
            np.asarray(random.integers(healthy.shape[1], size=healthy.shape[1])),
            np.asarray(random.integers(tumour.shape[1], size=tumour.shape[1])),
        )
        for name, value in drawn.items():
            draws[name].append(value)
    found = figures(np.arange(healthy.shape[1]), np.arange(tumour.shape[1]))
    tails = (1 - LEVEL) / 2, (1 + LEVEL) / 2
    return {
        name: {"value": value, "interval": [float(np.quantile(draws[name], q)) for q in tails]}
        for name, value in found.items()
    } | {"at_threshold": _at_threshold(scores)}


def one_network_each(scores: MethodScores) -> NDArray[np.float64]:
    """Return each tumour's score by one network of a repeat, (repeats, T), no mean of several."""
    repeats, folds, count = scores.tumour.shape
    places = np.arange(count)
    return np.stack([scores.tumour[r, (places + r) % folds, places] for r in range(repeats)])


def _order(scores: MethodScores) -> NDArray[np.float64]:
    """Return how often the tumour got the higher score, (H, T); equal scores count half."""
    repeats, count = scores.healthy.shape
    order = np.zeros((count, scores.tumour.shape[-1]))
    for repeat in range(repeats):
        tumour = scores.tumour[repeat, scores.fold[repeat]]
        healthy = scores.healthy[repeat][:, None]
        order += (tumour > healthy) + 0.5 * (tumour == healthy)
    return np.asarray(order / repeats)


def _at_threshold(scores: MethodScores) -> dict[str, float]:
    """Return the rates at the threshold that the validation slices alone set."""
    above_healthy, above_tumour = [], []
    for repeat, of_folds in enumerate(scores.validation):
        for fold, validation in enumerate(of_folds):
            threshold = threshold_from(validation)
            mine = scores.fold[repeat] == fold
            above_healthy += list(scores.healthy[repeat, mine] > threshold)
            above_tumour += list(scores.tumour[repeat, fold] > threshold)
    return {
        "false_positive_rate": float(np.mean(above_healthy)),
        "true_positive_rate": float(np.mean(above_tumour)),
    }


def fact_scores(values: NDArray[np.float64], tumour: NDArray[np.bool_]) -> MethodScores:
    """Treat a number that needs no training as the scores of one repeat and fold."""
    healthy = values[~tumour]
    mean, deviation = healthy.mean(), healthy.std() + 1e-12
    scaled = (values - mean) / deviation
    fold = np.zeros((1, len(healthy)), np.int64)
    return MethodScores(
        scaled[None, ~tumour], scaled[None, None, tumour], fold, [[scaled[~tumour]]]
    )
