"""The number of images that go through a network in one inference."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from neurobento.backends.cuda import find_gpu
from neurobento.serving.settings import SETTINGS
from neurobento.spec import ModelSpec

__all__ = ["batch_limit"]

GIB = 1 << 30

SCAN_GIB = {"compact": 1.0, "atlas_map": 0.5, "unet": 1.5, "highresnet": 2.5}
"""Memory of a network for one more scan in a batch, rounded up; others count as the largest."""

CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""A container's memory limit: in version 2 of cgroups, and in version 1."""

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
    memory = _host_memory() if gpu is None else gpu.memory_bytes
    need = GIB * SCAN_GIB.get(spec.network, max(SCAN_GIB.values()))
    most = MAX_SCANS_ON_CPU if gpu is None else MAX_SCANS
    return max(2, min(most, int(memory / 2 / need)))


def _host_memory() -> int:
    """Return the bytes that this process may use: the machine's, or its container's limit."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            # "max" means no limit
            sizes.append(int((CGROUP / name).read_text()))
    return min(sizes)
