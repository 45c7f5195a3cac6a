"""Read the thresholds that an anomaly model states in its spec."""

from __future__ import annotations

import math

from neurobento.errors import SpecMismatch
from neurobento.spec import ModelSpec, require_task

__all__ = ["scan_threshold", "slice_threshold"]


def slice_threshold(spec: ModelSpec) -> float:
    """Return the score above which a slice is anomalous, or raise ConfigError or SpecMismatch."""
    require_task(spec, "anomaly")
    if "threshold" not in spec.detection:
        raise _mismatch(
            spec, "a spec.json with the threshold under detection", "a spec.json without it"
        )
    return _finite(spec, "threshold")


def scan_threshold(spec: ModelSpec) -> float | None:
    """Return the score above which a scan is called anomalous, or None if none was measured."""
    return _finite(spec, "scan_threshold") if "scan_threshold" in spec.detection else None


def _finite(spec: ModelSpec, key: str) -> float:
    value = float(spec.detection[key])
    if not math.isfinite(value):
        raise _mismatch(spec, f"a finite {key}", str(value))
    return value


def _mismatch(spec: ModelSpec, expected: str, found: str) -> SpecMismatch:
    remedy = "Export the model again with `python -m export.to_onnx`."
    return SpecMismatch(subject=spec.name, expected=expected, found=found, remedy=remedy)
