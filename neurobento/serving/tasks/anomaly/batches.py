"""Pack an anomaly model's outputs into one array, 64 KiB a slice, which BentoML can split."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from neurobento.backends.base import OutputBatch
from neurobento.imaging.geometry import SLICE_SHAPE

__all__ = ["pack_outputs", "unpack_outputs"]

MAP_START = 2
"""Columns before the error map: the score, and the seconds that the batch was in the network."""


def pack_outputs(outputs: OutputBatch, network_s: float) -> NDArray[np.float32]:
    """Return rows (N, 2 + 128 * 128) of score, seconds in the network, and error map."""
    scores = np.asarray(outputs["score"], np.float32)
    rows = np.empty((len(scores), MAP_START + math.prod(SLICE_SHAPE)), np.float32)
    rows[:, 0], rows[:, 1] = scores, network_s
    rows[:, MAP_START:] = outputs["error_map"].reshape(len(rows), -1)
    return rows


def unpack_outputs(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return scores (N,), error maps (N, 128, 128), and the seconds in the network."""
    maps = rows[:, MAP_START:].reshape(-1, *SLICE_SHAPE)
    return rows[:, 0], maps, float(rows[:, 1].max())
