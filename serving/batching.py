"""How many scans go through a network at once, and when."""

from __future__ import annotations

import os
from typing import Any

from neurobento.backends.cuda import find_gpu
from neurobento.spec import ModelSpec
from serving.settings import SETTINGS

__all__ = ["batch_limit", "batch_what_waits"]

GIB = 1 << 30

SCAN_GIB = {"compact": 0.5, "atlas_map": 0.5, "unet": 1.5, "highresnet": 2.5}
"""Memory of a network for one more scan in a batch, rounded up; others count as the largest."""

MOST_SCANS, MOST_SCANS_ON_CPU = 8, 4
"""A CPU takes one scan after the other; of more than four the answers come late, all at once."""

LOOK_EVERY_S = 0.01
"""How often BentoML looks whether a network is free; 1 ms of its own is a few percent of a core."""


def batch_limit(spec: ModelSpec) -> int:
    """Scans in one inference of a model: what half of the machine's memory holds, 2 to 8.

    Two at least, since BentoML takes no limit of one; a backend that takes one
    scan after another needs the memory of one.
    """
    if SETTINGS.max_batch:
        return max(2, SETTINGS.max_batch)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    need = SCAN_GIB.get(spec.network, max(SCAN_GIB.values()))
    on_gpu = SETTINGS.device != "cpu" and find_gpu() is not None
    most = MOST_SCANS if on_gpu else MOST_SCANS_ON_CPU
    return max(2, min(most, int(memory / 2 / need)))


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
