"""How many scans go through a network at once, and that nobody waits for company."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from typing import Any

import pytest
from bentoml._internal.marshal.dispatcher import CorkDispatcher, Optimizer

from neurobento.backends.cuda import Gpu
from neurobento.spec import ModelSpec
from serving.batching import GIB, LOOK_EVERY_S, batch_limit, batch_what_waits
from serving.settings import Settings


@pytest.fixture
def batch_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Scans in one inference of a network on a machine with so much memory."""

    def limit(network: str, memory_gib: float, most: str = "0", device: str = "auto") -> int:
        pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": round(memory_gib * GIB / 4096)}
        with monkeypatch.context() as machine:
            machine.setattr(os, "sysconf", pages.__getitem__)
            machine.setenv("NEUROBENTO_MAX_BATCH", most)
            machine.setenv("NEUROBENTO_DEVICE", device)
            machine.setattr("serving.batching.SETTINGS", Settings())
            machine.setattr("serving.batching.find_gpu", lambda: Gpu("NVIDIA H100", "9.0"))
            return batch_limit(ModelSpec("m", "0.0.1", network, "0" * 64, "0" * 64, 18))

    return limit


NETWORKS = ("compact", "atlas_map", "unet", "highresnet")


@pytest.mark.parametrize("network", NETWORKS)
def test_a_batch_is_two_to_eight_scans_and_grows_with_memory(batch_of: Any, network: str) -> None:
    found = [batch_of(network, memory) for memory in (1, 8, 16, 24, 64, 1000)]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (2, 8)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("memory_gib", [8, 16, 32, 64])
def test_a_network_that_nobody_weighed_counts_as_the_largest(
    batch_of: Any, network: str, memory_gib: int
) -> None:
    assert batch_of("new", memory_gib) <= batch_of(network, memory_gib)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_cpu_takes_four_at_most(batch_of: Any, network: str) -> None:
    found = [batch_of(network, memory, device="cpu") for memory in (1, 8, 16, 24, 64, 1000)]
    assert found == [min(4, batch_of(network, memory)) for memory in (1, 8, 16, 24, 64, 1000)]


def test_unet_takes_five_scans_in_sixteen_gibibytes(batch_of: Any) -> None:
    """Half of the memory is 8 GiB, and each scan takes 1.5 GiB."""
    assert batch_of("unet", 16) == 5


@pytest.mark.parametrize(("most", "found"), [("3", 3), ("32", 32), ("1", 2)])
def test_a_batch_may_be_set_but_bentoml_takes_none_of_one(
    batch_of: Any, most: str, found: int
) -> None:
    assert batch_of("unet", 1000, most) == found


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML's own parts come back after a test."""
    kinds = {
        CorkDispatcher: ("TICKET_INTERVAL", "train_optimizer"),
        Optimizer: ("trigger_refresh",),
    }
    for kind, names in kinds.items():
        for name in names:
            monkeypatch.setattr(kind, name, getattr(kind, name))


BATCH_S, BURST = 0.03, 120


async def seconds_alone_after_a_burst() -> float:
    """Of one call to an idle network, after many at once and with BentoML's own batching."""
    taken: list[int] = []

    async def network(batch: Any) -> Any:
        await asyncio.sleep(BATCH_S)
        taken.append(len(batch))
        return batch

    batching = CorkDispatcher(
        max_latency_in_ms=10_000_000, max_batch_size=4, fallback=lambda: None, get_batch_size=len
    )
    ask = batching(network)
    try:
        await asyncio.gather(*(ask([i]) for i in range(BURST)))
        assert sum(taken) == BURST
        assert max(taken) == 4, "calls that wait go together"
        # it does every five seconds
        batching.optimizer.trigger_refresh()
        start = time.perf_counter()
        await ask([0])
        return time.perf_counter() - start
    finally:
        batching.shutdown()


def test_nobody_waits_for_company_after_a_burst(untouched: None) -> None:
    held_back_s = asyncio.run(seconds_alone_after_a_burst())
    batch_what_waits()
    alone_s = asyncio.run(seconds_alone_after_a_burst())
    assert alone_s < 3 * BATCH_S
    assert held_back_s > 2 * alone_s, "BentoML no longer needs this"


def test_bentoml_still_looks_as_often_as_it_is_told(untouched: None) -> None:
    batch_what_waits()
    assert CorkDispatcher.TICKET_INTERVAL == LOOK_EVERY_S
    waits = "asyncio.sleep(self.TICKET_INTERVAL)"
    assert waits in inspect.getsource(CorkDispatcher.controller)
