"""Read the thresholds that a model for anomalies states in its spec."""

from __future__ import annotations

import math

from neurobento.errors import SpecMismatch
from neurobento.spec import ModelSpec, require_task

__all__ = ["scan_threshold", "slice_threshold"]


def slice_threshold(spec: ModelSpec) -> float:
    """The score above which a model for anomalies calls a slice anomalous.

    Raises
    ------
    ConfigError
        The model is for something else.
    SpecMismatch
        Its spec states no threshold.
    """
    require_task(spec, "anomaly")
    if "threshold" not in spec.detection:
        raise SpecMismatch(
            subject=spec.name,
            expected="a spec.json that states the threshold under detection",
            found="none",
            remedy="Export the model again with `python -m export.to_onnx`.",
        )
    return _finite(spec, "threshold")


def scan_threshold(spec: ModelSpec) -> float | None:
    """The score above which it calls a scan anomalous; None where none was measured.

    Raises
    ------
    SpecMismatch
        Its spec states one that is no number.
    """
    return _finite(spec, "scan_threshold") if "scan_threshold" in spec.detection else None


def _finite(spec: ModelSpec, name: str) -> float:
    value = float(spec.detection[name])
    if not math.isfinite(value):
        raise SpecMismatch(
            subject=spec.name,
            expected=f"a finite {name}",
            found=str(value),
            remedy="Export the model again with `python -m export.to_onnx`.",
        )
    return value
