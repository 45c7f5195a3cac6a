"""What a model is asked for must be what it is for."""

from __future__ import annotations

import math

from neurobento.errors import ConfigError, SpecMismatch
from neurobento.spec import ModelSpec

__all__ = ["require_task", "scan_threshold_of", "threshold_of"]

COMMANDS = {"parcellation": "parcellate", "anomaly": "anomaly"}


def require_task(spec: ModelSpec, task: str) -> None:
    """Check that a model is for a task, a key of `neurobento.spec.TASKS`.

    Raises
    ------
    ConfigError
        It is for another.
    """
    if spec.task != task:
        command = COMMANDS.get(spec.task)
        hint = f"; `neurobento {command}` runs this one" if command else ""
        raise ConfigError(
            subject="model",
            expected=f"a model for the task {task!r}",
            found=f"{spec.name!r}, for {spec.task!r}",
            remedy=f"Choose one that `neurobento models` lists for it{hint}.",
        )


def threshold_of(spec: ModelSpec) -> float:
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


def scan_threshold_of(spec: ModelSpec) -> float | None:
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
