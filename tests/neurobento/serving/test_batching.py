"""How many images go through a network at once."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neurobento.cores import GIB
from neurobento.serving.batching import batch_limit
from neurobento.serving.settings import Settings
from neurobento.spec import ModelSpec


@pytest.fixture
def batch_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Scans in one inference of a network, with so much memory in the machine and in its GPU."""

    def limit(
        network: str,
        memory_gib: float,
        gpu_gib: float | None = None,
        task: str = "parcellation",
        **settings: str,
    ) -> int:
        pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": round(memory_gib * GIB / 4096)}
        gpu = None if gpu_gib is None else SimpleNamespace(memory_bytes=round(gpu_gib * GIB))
        with monkeypatch.context() as machine:
            machine.setattr(os, "sysconf", pages.__getitem__)
            machine.setattr("neurobento.cores.CGROUP", tmp_path)
            for name in ("MAX_BATCH", "DEVICE", "BACKEND"):
                machine.delenv(f"NEUROBENTO_{name}", raising=False)
            for name, value in settings.items():
                machine.setenv(f"NEUROBENTO_{name}", value)
            machine.setattr("neurobento.serving.batching.SETTINGS", Settings())
            machine.setattr("neurobento.serving.batching.find_gpu", lambda: gpu)
            spec = ModelSpec("m", "0.0.1", network, "0" * 64, "0" * 64, 18, task=task)
            return batch_limit(spec)

    return limit


MEMORY_GIB = (1, 8, 16, 24, 64, 1000)
NETWORKS = ("compact", "atlas_map", "unet", "highresnet")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("gpu", [True, False])
def test_a_batch_is_of_two_scans_at_least_and_grows_with_memory(
    batch_of: Any, network: str, gpu: bool
) -> None:
    """To eight on a GPU, and to four on a CPU."""
    found = [batch_of(network, 64, gib) if gpu else batch_of(network, gib) for gib in MEMORY_GIB]
    assert found == sorted(found)
    assert (found[0], found[-1]) == (2, 8 if gpu else 4)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("memory_gib", [8, 16, 32, 64])
def test_a_network_that_nobody_weighed_counts_as_the_largest(
    batch_of: Any, network: str, memory_gib: int
) -> None:
    assert batch_of("new", memory_gib) <= batch_of(network, memory_gib)
    assert batch_of("new", 64, memory_gib) <= batch_of(network, 64, memory_gib)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("setting", [{"DEVICE": "cpu"}, {"BACKEND": "openvino"}])
def test_a_gpu_that_is_not_used_does_not_count(
    batch_of: Any, network: str, setting: dict[str, str]
) -> None:
    found = [batch_of(network, memory, 1000, **setting) for memory in MEMORY_GIB]
    assert found == [batch_of(network, memory) for memory in MEMORY_GIB]


@pytest.mark.parametrize("setting", [{}, {"DEVICE": "cuda"}, {"BACKEND": "onnxruntime"}])
def test_on_a_gpu_its_own_memory_counts(batch_of: Any, setting: dict[str, str]) -> None:
    """Half of it is 8 GiB, and each scan takes 1.5 GiB."""
    assert batch_of("unet", 1, 16, **setting) == batch_of("unet", 1000, 16, **setting) == 5


@pytest.mark.parametrize("version", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(
    ("limit", "found"),
    [(10 * GIB, 3), (2 * GIB, 2), (1 << 62, 4), ("max", 4), ("", 4), (100 * GIB, 4)],
)
def test_a_containers_limit_counts_where_it_is_less_than_the_machine_has(
    batch_of: Any, tmp_path: Path, version: str, limit: int | str, found: int
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / version).write_text(f"{limit}\n")
    assert batch_of("unet", 16) == found
    assert batch_of("unet", 4) == 2


@pytest.mark.parametrize(("most", "found"), [("3", 3), ("32", 32), ("1", 2)])
def test_a_batch_may_be_set_but_bentoml_takes_none_of_one(
    batch_of: Any, most: str, found: int
) -> None:
    assert batch_of("unet", 1000, MAX_BATCH=most) == found


@pytest.mark.parametrize("gpu_gib", [None, 1, 80])
@pytest.mark.parametrize("memory_gib", MEMORY_GIB)
def test_slices_go_in_large_batches_whatever_the_memory(
    batch_of: Any, memory_gib: int, gpu_gib: float | None
) -> None:
    """More than the default number of slots, so that all that wait go at once."""
    found = batch_of("anomaly_unet", memory_gib, gpu_gib, task="anomaly")
    assert found == 32 > Settings().slots
    assert batch_of("anomaly_unet", memory_gib, gpu_gib, task="anomaly", MAX_BATCH="5") == 5
