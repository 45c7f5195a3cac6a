"""Choose a backend and open a model with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from neurobento.backends.base import Backend
from neurobento.backends.cuda import find_gpu, require_gpu
from neurobento.backends.table import BACKENDS, DEVICES, BackendConfig
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch, ModelError
from neurobento.registry import Model

__all__ = ["AUTO_ORDER", "open_backend"]

AUTO_ORDER = (
    ("tensorrt", "cuda"),
    ("tensorrt-rtx", "cuda"),
    ("onnxruntime", "cuda"),
    ("openvino", "cpu"),
    ("onnxruntime", "cpu"),
    ("pytorch", "cpu"),
)
"""The backends and devices that "auto" tries, fastest first."""

logger = logging.getLogger(__name__)


def open_backend(
    model: Model,
    backend: str = "auto",
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    unverified: bool = False,
) -> Backend:
    """Return the named backend with the model loaded; BackendUnavailable or EngineMismatch if not.

    "auto" takes a visible NVIDIA GPU if a backend runs the model on it, else the first CPU backend
    that is installed. With 0 `threads` the library chooses. `unverified` allows int8 untested.
    """
    _require_known("backend", backend, BACKENDS)
    _require_known("device", device, DEVICES)
    if backend == "auto":
        return _open_first(model, device, precision, threads, unverified)
    if not BACKENDS[backend].is_installed():
        raise _not_installed(backend)
    device = _choose_device(backend, device)
    _require_precision(backend, device, precision)
    return _open(model, BackendConfig(backend, device, precision), threads, unverified)


def _open(model: Model, config: BackendConfig, threads: int, unverified: bool) -> Backend:
    if config.precision == "int8" and not unverified:
        _require_verified(model, config)
    opened = BACKENDS[config.backend].open(
        model, device=config.device, precision=config.precision, threads=threads
    )
    opened.atlas = model.atlas()
    return opened


def _require_verified(model: Model, config: BackendConfig) -> None:
    result = model.spec.verification.get(str(config), {})
    if not result.get("passed", False):
        raise BackendUnavailable(
            subject="precision",
            expected=f"{model.spec.name} verified in {config}",
            found="a failed verification" if "passed" in result else "no such result in its spec",
            remedy="Choose --precision fp32; `python -m export.quantise` makes an int8 form and "
            "verifies it.",
        )


def _open_first(
    model: Model, device: str, precision: str, threads: int, unverified: bool
) -> Backend:
    """Return the first backend of `AUTO_ORDER` that can run the model here."""
    # Keep the entries that support the device and the precision.
    if device == "cuda":
        require_gpu()
    devices = [d for d in DEVICES if device in ("auto", d)]
    if device == "auto" and find_gpu() is None:
        devices = ["cpu"]
    on_device = [(n, d) for n, d in AUTO_ORDER if d in devices]
    candidates = [(n, d) for n, d in on_device if precision in ("auto", *BACKENDS[n].precisions[d])]
    if not candidates:
        _require_precision(on_device[0][0], on_device[0][1], precision)
    # Try them in order; a GPU backend may fail, and the next one takes over.
    failures: list[ModelError] = []
    for name, candidate_device in candidates:
        if not BACKENDS[name].is_installed():
            continue
        if candidate_device == "cpu" and candidates[0][1] == "cuda":
            logger.warning("a GPU is visible, but %s runs on the CPU", name)
        try:
            config = BackendConfig(name, candidate_device, precision)
            return _open(model, config, threads, unverified)
        except (BackendUnavailable, EngineMismatch) as error:
            # An installed CPU backend must work, or the caller must see why it does not.
            if candidate_device == "cpu":
                raise
            logger.warning("%s left out: %s", name, error.public_message)
            failures.append(error)
    raise failures[0] if failures else _none_installed([name for name, _ in candidates])


def _require_known(subject: str, value: str, known: Iterable[str], used_for: str = "") -> None:
    known = tuple(known)
    if value not in ("auto", *known):
        raise ConfigError(
            subject=subject,
            expected=f"auto or one of {', '.join(known)}{used_for}",
            found=repr(value),
            remedy=f"Choose one of them{', or another backend' if used_for else ''}.",
        )


def _choose_device(backend: str, device: str) -> str:
    supported = BACKENDS[backend].precisions
    if device == "auto":
        gpu_only = "cpu" not in supported
        return "cuda" if gpu_only or ("cuda" in supported and find_gpu()) else "cpu"
    _require_known("device", device, supported, f" for the backend {backend}")
    return device


def _require_precision(backend: str, device: str, precision: str) -> None:
    precisions = BACKENDS[backend].precisions[device]
    _require_known("precision", precision, precisions, f" for {backend} on {device}")


def _none_installed(backends: list[str]) -> BackendUnavailable:
    packages = [BACKENDS[name].package for name in backends]
    return BackendUnavailable(
        subject="backend",
        expected=f"one of the packages {', '.join(packages)}",
        found="none of them installed",
        remedy=f"Install one: `pip install {packages[0]}`.",
    )


def _not_installed(backend: str) -> BackendUnavailable:
    entry = BACKENDS[backend]
    package = f"'neurobento[{entry.extra}]'" if entry.extra else entry.package
    return BackendUnavailable(
        subject="backend",
        expected=f"the package {entry.package}",
        found="no such package",
        remedy=f"Install it: `pip install {package}`.",
    )
