"""The number of images that go through a network in one inference."""

from __future__ import annotations

from neurobento.backends.cuda import find_gpu
from neurobento.cores import GIB, usable_memory
from neurobento.serving.settings import SETTINGS
from neurobento.spec import ModelSpec

__all__ = ["batch_limit"]

SCAN_GIB = {"compact": 1.0, "atlas_map": 0.5, "unet": 1.5, "highresnet": 2.5}
"""Memory of a network for one more scan in a batch, rounded up; others count as the largest."""

MAX_SCANS, MAX_SCANS_ON_CPU = 8, 4
"""A CPU gains from two at a time; with more than four the answers come late, and all at once."""

MAX_SLICES = 32
"""Twice the default number of slots; the last slice of a batch waits less than a second."""


def batch_limit(spec: ModelSpec) -> int:
    """Return the images in one inference: for scans what half of the memory holds, 2 at least."""
    if SETTINGS.max_batch:
        return max(2, SETTINGS.max_batch)
    if spec.task == "anomaly":
        return MAX_SLICES
    # OpenVINO computes on the CPU, whatever GPU there is
    uses_gpu = SETTINGS.device != "cpu" and SETTINGS.backend != "openvino"
    gpu = find_gpu() if uses_gpu else None
    memory = usable_memory() if gpu is None else gpu.memory_bytes
    need = GIB * SCAN_GIB.get(spec.network, max(SCAN_GIB.values()))
    most = MAX_SCANS_ON_CPU if gpu is None else MAX_SCANS
    # a server runs on Linux, which tells
    return max(2, min(most, int((memory or 0) / 2 / need)))
