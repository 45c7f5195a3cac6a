"""How many scans go through a network at once, and how often BentoML looks for a free one."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest

from neurobento.backends.cuda import Gpu
from neurobento.spec import ModelSpec
from serving.batching import GIB, LOOK_EVERY_S, batch_limit, look_less_often
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


def test_bentoml_still_looks_as_often_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from bentoml._internal.marshal import dispatcher

    monkeypatch.setattr(dispatcher.CorkDispatcher, "TICKET_INTERVAL", 0.001)
    look_less_often()
    assert dispatcher.CorkDispatcher.TICKET_INTERVAL == LOOK_EVERY_S
    waits = "asyncio.sleep(self.TICKET_INTERVAL)"
    assert waits in inspect.getsource(dispatcher.CorkDispatcher.controller)
