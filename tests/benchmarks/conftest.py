"""Fixtures of the benchmark's tests: runs with known samples, and backends that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.inference import candidates, memory_probe
from benchmarks.runs import Entry, Run
from neurobento.backends import BackendEntry, selection, table
from neurobento.errors import BackendUnavailable

ENVIRONMENT: dict[str, Any] = {
    "date": "2026-01-02T03:04:05.678901+00:00",
    "cpu": "Abacus 9",
    "cpu_flags": ["amx_bf16"],
    "cores": 2,
    "memory_bytes": 8 << 30,
    "gpu": None,
    "load_at_start": [0.1, 0.2, 0.3],
    "python": "3.11.7",
    "versions": {"torch": "2.0", "tensorrt": None},
}


@pytest.fixture
def make_run() -> Callable[..., Run]:
    """Return a function that builds a run; keyword arguments change its environment."""

    def build(
        kind: Any = "latency",
        entries: dict[str, Entry] | None = None,
        scenario: dict[str, Any] | None = None,
        models: dict[str, str] | None = None,
        **environment: Any,
    ) -> Run:
        return Run(
            kind,
            {"threads": 2} if scenario is None else scenario,
            {**ENVIRONMENT, **environment},
            {"compact": "ab"} if models is None else models,
            entries or {},
        )

    return build


class IdleBackend:
    """A backend that answers at once; "tensorrt" is missing on this machine."""

    def __init__(self, model: Any, name: str, precision: str) -> None:
        if name == "tensorrt":
            raise BackendUnavailable(expected="a GPU", found="none", remedy="Buy one.")
        self.spec, self.name, self.details = model.spec, name, {"precision": precision}

    def run(self, images: Any) -> Any:
        """Return background everywhere; bf16 has no kernel for batches."""
        if self.details["precision"] == "bf16" and len(images) > 1:
            raise RuntimeError("no kernel")
        return {"labels": np.zeros((len(images), *images.shape[2:]), np.uint8)}

    def infer(self, images: Any) -> Any:
        """Return the labels alone."""
        return self.run(images)["labels"]

    answer, atlas = infer, None

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def idle_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace all backends with three idle ones."""
    served = {
        "pytorch": {"cpu": ("fp32",), "cuda": ("fp32",)},
        "openvino": {"cpu": ("fp32", "bf16")},
        "tensorrt": {"cuda": ("fp16",)},
    }

    def opener(name: str) -> Any:
        return lambda model, precision, **_: IdleBackend(model, name, precision)

    idle = {
        name: BackendEntry("numpy", "", opener(name), precisions)
        for name, precisions in served.items()
    }
    for module in (selection, table, candidates, memory_probe):
        monkeypatch.setattr(module, "BACKENDS", idle)
    monkeypatch.setattr(candidates, "find_gpu", lambda: None)


@pytest.fixture
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what a command sets for its libraries' threads."""
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        monkeypatch.setenv(name, "1")
