"""State what ran: the model, its backend, versions and seconds, as `NAME_run.json` has them."""

from __future__ import annotations

import functools
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from neurobento.backends.base import Backend

__all__ = ["backend_facts", "json_bytes", "rounded", "versions"]


def backend_facts(backend: Backend) -> dict[str, Any]:
    """Which model answered and how it was run; of one for anomalies, what its threshold means."""
    spec = backend.spec
    of_task: dict[str, Any] = (
        {"detection": spec.detection}
        if spec.task == "anomaly"
        else {"region_table_sha256": spec.region_table_sha256}
    )
    return {
        "model": {
            "name": spec.name,
            "version": spec.version,
            "onnx_sha256": spec.onnx_sha256,
            **of_task,
        },
        "backend": {"name": backend.name, **backend.details},
    }


def json_bytes(facts: dict[str, Any]) -> bytes:
    """Facts as a JSON file."""
    return (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode()


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Stage -> seconds, to a tenth of a millisecond."""
    return {stage: round(s, 4) for stage, s in seconds.items()}


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Python's version, and those of the libraries that are installed."""
    found = {library: _version(library) for library in libraries}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}


@functools.cache
def _version(library: str) -> str | None:
    # ten files are read for it
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
