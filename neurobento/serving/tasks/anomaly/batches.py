"""Slices in batches on their way to a network, and what it found on the way back.

A slice is 64 KiB, small enough for a message: no files, and nothing that can be gone.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from neurobento.backends.base import OutputBatch
from neurobento.imaging.geometry import SLICE_SHAPE

__all__ = ["pack_outputs", "unpack_outputs"]

BEFORE_THE_MAP = 2
"""Columns: the score, and the seconds that the slice's batch was in the network."""


def pack_outputs(outputs: OutputBatch, network_s: float) -> NDArray[np.float32]:
    """(N, 2 + 128 * 128) float32: an anomaly model's outputs as one array.

    That is all that BentoML takes apart again by slice: score, seconds, error map.

    Parameters
    ----------
    outputs
        `score` (N,) and `error_map` (N, 128, 128).
    network_s
        How long the batch was in the network.
    """
    scores = np.asarray(outputs["score"], np.float32)
    rows = np.empty((len(scores), BEFORE_THE_MAP + math.prod(SLICE_SHAPE)), np.float32)
    rows[:, 0], rows[:, 1] = scores, network_s
    rows[:, BEFORE_THE_MAP:] = outputs["error_map"].reshape(len(rows), -1)
    return rows


def unpack_outputs(
    rows: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Scores (N,), error maps (N, 128, 128), and the seconds in the network of what was packed."""
    maps = rows[:, BEFORE_THE_MAP:].reshape(-1, *SLICE_SHAPE)
    return rows[:, 0], maps, float(rows[:, 1].max())
