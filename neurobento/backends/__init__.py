"""Ways to run a model.

What was asked for by name and is not there is an error, never a fallback.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from neurobento.backends.base import Backend, Images, Labels
from neurobento.errors import BackendUnavailable, ConfigError
from neurobento.registry import Model

__all__ = ["BACKENDS", "Backend", "Images", "Labels", "open_backend"]


def _openvino(model: Model, **options: Any) -> Backend:
    from neurobento.backends.openvino import OpenVINOBackend

    return OpenVINOBackend(model, **options)


def _onnxruntime(model: Model, **options: Any) -> Backend:
    from neurobento.backends.onnx_runtime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(model, **options)


BACKENDS: dict[str, tuple[str, Callable[..., Backend], tuple[str, ...]]] = {
    "openvino": ("openvino", _openvino, ("fp32", "bf16")),
    "onnxruntime": ("onnxruntime", _onnxruntime, ("fp32",)),
}
"""Name -> the package it needs, how to open it, and its precisions; the first one that is
installed is "auto"."""


def open_backend(
    model: Model,
    backend: str = "auto",
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
) -> Backend:
    """The backend of that name with a model loaded.

    Parameters
    ----------
    model
        What to run; `neurobento.registry` finds it.
    backend
        "auto" takes the first of `BACKENDS` that is installed.
    device
        "auto" or "cpu", the only device of these backends.
    precision
        "auto", or one of the backend's.
    threads
        CPU threads; 0 lets the library choose.

    Raises
    ------
    BackendUnavailable
        What was asked for is not installed here.
    ConfigError
        There is no such backend, device or precision.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(
            subject="device",
            expected="auto or cpu",
            found=repr(device),
            remedy="Choose one of them.",
        )
    name = _choose(backend)
    _, opener, precisions = BACKENDS[name]
    if precision not in ("auto", *precisions):
        raise ConfigError(
            subject="precision",
            expected=f"auto or one of {', '.join(precisions)} for the backend {name}",
            found=repr(precision),
            remedy="Choose another precision or backend.",
        )
    return opener(model, precision=precision, threads=threads)


def _choose(backend: str) -> str:
    if backend not in ("auto", *BACKENDS):
        raise ConfigError(
            subject="backend",
            expected=f"auto or one of {', '.join(BACKENDS)}",
            found=repr(backend),
            remedy="Choose one of them.",
        )
    wanted = list(BACKENDS) if backend == "auto" else [backend]
    for name in wanted:
        if importlib.util.find_spec(BACKENDS[name][0]) is not None:
            return name
    packages = " or ".join(BACKENDS[name][0] for name in wanted)
    raise BackendUnavailable(
        subject="backend",
        expected=f"the package {packages}",
        found="it is not installed",
        remedy=f"Install it: `pip install {packages}`.",
    )
