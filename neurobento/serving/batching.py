"""How many images go through a network at once, and when."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from neurobento.backends.cuda import find_gpu
from neurobento.serving.settings import SETTINGS
from neurobento.spec import ModelSpec

__all__ = ["batch_limit", "batch_what_waits"]

GIB = 1 << 30

SCAN_GIB = {"compact": 1.0, "atlas_map": 0.5, "unet": 1.5, "highresnet": 2.5}
"""Memory of a network for one more scan in a batch, rounded up; others count as the largest."""

CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where a container's memory limit is: in version 2 of cgroups, and in version 1."""

MOST_SCANS, MOST_SCANS_ON_CPU = 8, 4
"""A CPU gains from two at a time; with more than four the answers come late, and all at once."""

MOST_SLICES = 32
"""A slice is 64 KiB, takes a network milliseconds and a few MB: all who may be inside by default
go at once, with room to spare, and the last of a full batch still waits less than a second."""

LOOK_EVERY_S = 0.01
"""How often BentoML looks whether a network is free; 1 ms of its own is a few percent of a core."""


def batch_limit(spec: ModelSpec) -> int:
    """Images in one inference of a model: of scans what half of the memory holds, 2 to 8.

    The memory is the GPU's, or what this machine or its container may use. Of slices
    every memory holds more than make sense.

    Two at least, since BentoML takes no limit of one; a backend that takes one
    scan after another needs the memory of one.
    """
    if SETTINGS.max_batch:
        return max(2, SETTINGS.max_batch)
    if spec.task == "anomaly":
        return MOST_SLICES
    # OpenVINO computes on the CPU, beside whatever GPU
    for_gpu = SETTINGS.device != "cpu" and SETTINGS.backend != "openvino"
    gpu = find_gpu() if for_gpu else None
    memory = _host_memory() if gpu is None else gpu.memory_bytes
    need = GIB * SCAN_GIB.get(spec.network, max(SCAN_GIB.values()))
    most = MOST_SCANS_ON_CPU if gpu is None else MOST_SCANS
    return max(2, min(most, int(memory / 2 / need)))


def _host_memory() -> int:
    """Bytes that this process may use: the machine's, or a container's where that has less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in LIMITS:
        with contextlib.suppress(OSError, ValueError):
            # "max" is no number, and no limit
            sizes.append(int((CGROUP / name).read_text()))
    return min(sizes)


def batch_what_waits() -> None:
    """Let a batch be what came while the network was busy; nobody waits for company.

    BentoML 1.4.39 holds calls back from an idle network: the first ones to learn how
    long batches take, and after a burst as long as those of the burst had waited.
    That suits networks that take milliseconds; there is no setting for it, and its
    private parts are replaced. Tests watch that they hold.
    """
    from bentoml._internal.marshal.dispatcher import CorkDispatcher, Optimizer

    async def learn_nothing(self: Any, *_: Any) -> None:
        """Of how long batches take."""

    CorkDispatcher.train_optimizer = learn_nothing
    # it would set the mean wait, which is zero at first
    Optimizer.trigger_refresh = lambda self: None
    CorkDispatcher.TICKET_INTERVAL = LOOK_EVERY_S
