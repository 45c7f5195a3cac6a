"""The choice of how a score follows from an error map, by synthetic anomalies and no tumour."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from neurobento.networks.anomaly import REDUCTIONS, AnomalyNetwork
from training.anomaly.synthetic import put_in_anomalies

__all__ = [
    "FALSE_POSITIVE_RATE",
    "ErrorMaps",
    "Scores",
    "auroc",
    "choose_reduction",
    "error_maps_of",
    "scores_by_all",
    "threshold_from",
]

FALSE_POSITIVE_RATE = 0.10
"""Expected share of healthy slices above the threshold."""

DRAWS = 8
"""Synthetic anomalies for each validation slice."""

BATCH = 32

Images = NDArray[np.float32]
ErrorMaps = Callable[[Images], Images]
"""Maps slices (N, 128, 128) to error maps (N, 128, 128)."""

Scores = dict[str, NDArray[np.float64]]
"""Reduction -> scores (N,)."""


def error_maps_of(network: AnomalyNetwork) -> ErrorMaps:
    """Return the function that computes a network's error maps of slices."""
    # one without weights computes where its images are
    device = next((each.device for each in network.parameters()), torch.device("cpu"))

    def error_maps(images: Images) -> Images:
        with torch.inference_mode():
            batches = torch.split(torch.from_numpy(images)[:, None], BATCH)
            maps = [network.error_map(batch.to(device)).cpu() for batch in batches]
        return torch.cat(maps).numpy()

    return error_maps


def scores_by_all(error_maps: Images) -> Scores:
    """Score error maps (N, 128, 128) by each reduction."""
    flat = torch.from_numpy(error_maps).flatten(1)
    return {name: reduce(flat).double().numpy() for name, reduce in REDUCTIONS.items()}


def choose_reduction(error_maps: ErrorMaps, healthy: Images, seed: int) -> str:
    """Return the reduction of highest AUROC for anomalies put into `healthy` (N, 128, 128)."""
    random = np.random.default_rng([seed, 2**30])
    images = torch.from_numpy(np.tile(healthy, (DRAWS, 1, 1)))
    changed, mask = put_in_anomalies(images, random)
    foreign = scores_by_all(error_maps(changed[mask.flatten(1).any(1)].numpy()))
    own = scores_by_all(error_maps(healthy))
    return max(REDUCTIONS, key=lambda name: auroc(own[name], foreign[name]))


def threshold_from(healthy: NDArray[np.float64]) -> float:
    """Return the threshold that a new healthy slice exceeds with `FALSE_POSITIVE_RATE`.

    It is a quantile of the distribution behind the scores (Weibull's plotting positions).
    """
    return float(np.quantile(healthy, 1 - FALSE_POSITIVE_RATE, method="weibull"))


def auroc(healthy: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the share of pairs in which the other scores higher; equal scores count half."""
    difference = other[:, None] - healthy[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())
