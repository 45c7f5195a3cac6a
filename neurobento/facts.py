"""Build the parts of `NAME_run.json`: model, backend, versions and seconds."""

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
    """Return the model, with its thresholds or region table, and how the backend ran it."""
    spec = backend.spec
    by_task: dict[str, Any] = (
        {"detection": spec.detection}
        if spec.task == "anomaly"
        else {"region_table_sha256": spec.region_table_sha256}
    )
    return {
        "model": {
            "name": spec.name,
            "version": spec.version,
            "onnx_sha256": spec.onnx_sha256,
            **by_task,
        },
        "backend": {"name": backend.name, **backend.details},
    }


def json_bytes(facts: dict[str, Any]) -> bytes:
    """Return the facts as a JSON file."""
    return (json.dumps(facts, indent=2, allow_nan=False) + "\n").encode()


def rounded(seconds: dict[str, float]) -> dict[str, float]:
    """Return seconds by stage, rounded to a tenth of a millisecond."""
    return {stage: round(s, 4) for stage, s in seconds.items()}


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of those libraries that are installed."""
    found = {library: _version(library) for library in libraries}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v is not None}


@functools.cache
def _version(library: str) -> str | None:
    # Cached: each lookup reads about ten files.
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
