"""Ways to run a model.

What was asked for by name and is not there is an error, never a fallback.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from neurobento.backends.base import Backend, Images, Labels, Outputs
from neurobento.backends.cuda import find_gpu, require_gpu
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch, ModelError
from neurobento.registry import Model

__all__ = [
    "BACKENDS",
    "DEVICES",
    "Backend",
    "BackendEntry",
    "Images",
    "Labels",
    "Outputs",
    "Way",
    "list_ways",
    "open_backend",
]

DEVICES = ("cpu", "cuda")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BackendEntry:
    """A way to run a model.

    Attributes
    ----------
    package
        The module it needs.
    extra
        Of this project, that installs it; empty for what the core needs anyway.
    open
        Loads a model; takes `device`, `precision` and `threads`.
    precisions
        Device -> what it computes in there, not all of it on every machine.
    """

    package: str
    extra: str
    open: Callable[..., Backend]
    precisions: Mapping[str, tuple[str, ...]]

    def is_installed(self) -> bool:
        """Whether the package can be imported."""
        return importlib.util.find_spec(self.package) is not None


def _openvino(model: Model, precision: Any, threads: int, **_: Any) -> Backend:
    from neurobento.backends.openvino import OpenVINOBackend

    return OpenVINOBackend(model, precision, threads)


def _onnx_runtime(provider: str) -> Callable[..., Backend]:
    def open_it(model: Model, device: str, **options: Any) -> Backend:
        from neurobento.backends.onnx_runtime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(model, provider if device == "cuda" else "cpu", **options)

    return open_it


def _tensorrt(flavour: str) -> Callable[..., Backend]:
    def open_it(model: Model, precision: str, **_: Any) -> Backend:
        from neurobento.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(model, flavour, precision)

    return open_it


def _pytorch(*, compiled: bool) -> Callable[..., Backend]:
    def open_it(model: Model, **options: Any) -> Backend:
        from neurobento.backends.pytorch import PyTorchBackend

        return PyTorchBackend(model, compiled=compiled, **options)

    return open_it


_ON_GPU = {"cuda": ("fp32", "fp16", "bf16")}
_PYTORCH = {"cpu": ("fp32", "bf16"), **_ON_GPU}

BACKENDS: Mapping[str, BackendEntry] = MappingProxyType(
    {
        "tensorrt": BackendEntry("tensorrt", "gpu", _tensorrt("tensorrt"), _ON_GPU),
        "tensorrt-rtx": BackendEntry("tensorrt_rtx", "rtx", _tensorrt("tensorrt-rtx"), _ON_GPU),
        "openvino": BackendEntry("openvino", "", _openvino, {"cpu": ("fp32", "bf16", "int8")}),
        "onnxruntime": BackendEntry(
            "onnxruntime",
            "cpu",
            _onnx_runtime("cuda"),
            {"cpu": ("fp32", "int8"), "cuda": ("fp32",)},
        ),
        "onnxruntime-tensorrt": BackendEntry(
            "onnxruntime", "gpu", _onnx_runtime("tensorrt"), _ON_GPU
        ),
        "pytorch": BackendEntry("torch", "", _pytorch(compiled=False), _PYTORCH),
        "pytorch-compiled": BackendEntry("torch", "", _pytorch(compiled=True), _PYTORCH),
    }
)
"""By name."""


class Way(NamedTuple):
    """One way to compute; as text it names results, such as "openvino fp32"."""

    backend: str
    device: str
    precision: str

    def __str__(self) -> str:
        where = [self.device] if len(BACKENDS[self.backend].precisions) > 1 else []
        return " ".join([self.backend, self.precision, *(d for d in where if d != "cpu")])


def list_ways() -> list[Way]:
    """Every backend with each of its devices and precisions, whether this machine has it or not."""
    return [
        Way(name, device, precision)
        for name, entry in BACKENDS.items()
        for device, precisions in entry.precisions.items()
        for precision in precisions
    ]


AUTO = (
    *(("tensorrt", "cuda"), ("tensorrt-rtx", "cuda"), ("onnxruntime", "cuda")),
    *(("openvino", "cpu"), ("onnxruntime", "cpu"), ("pytorch", "cpu")),
)
"""What "auto" tries, in this order."""


def open_backend(
    model: Model,
    backend: str = "auto",
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int = 0,
    unverified: bool = False,
) -> Backend:
    """The backend of that name with a model loaded.

    Parameters
    ----------
    model
        What to run; `neurobento.registry` finds it.
    backend
        "auto" takes an NVIDIA GPU where there is one and something that runs
        the model on it, else the first CPU backend that is installed.
    device
        "auto", "cpu" or "cuda".
    precision
        "auto", or one of the backend's.
    threads
        CPU threads; 0 lets the library choose.
    unverified
        Whether int8 is run before verification has found it good enough;
        for that verification.

    Raises
    ------
    BackendUnavailable
        What was asked for is not installed or not possible here, or it is int8
        and the model was not verified in it.
    EngineMismatch
        A TensorRT flavour was asked for by name and has no engine for the model.
    ConfigError
        There is no such backend, device or precision.
    """
    _require_known("backend", backend, BACKENDS)
    _require_known("device", device, DEVICES)
    if backend == "auto":
        return _open_first(model, device, precision, threads, unverified)
    if not BACKENDS[backend].is_installed():
        raise _not_installed(backend)
    place = _device_of(backend, device)
    way = Way(backend, place, _require_precision(backend, place, precision))
    return _open(model, way, threads, unverified)


def _open(model: Model, way: Way, threads: int, unverified: bool) -> Backend:
    if way.precision == "int8" and not unverified:
        _require_verified(model, way)
    return BACKENDS[way.backend].open(
        model, device=way.device, precision=way.precision, threads=threads
    )


def _require_verified(model: Model, way: Way) -> None:
    result = model.spec.verification.get(str(way), {})
    if not result.get("passed", False):
        raise BackendUnavailable(
            subject="precision",
            expected=f"{model.spec.name} verified in {way}",
            found="that it did not pass" if "passed" in result else "no such result in its spec",
            remedy="Choose --precision fp32; `python -m export.quantise` makes an int8 form and "
            "verifies it.",
        )


def _open_first(
    model: Model, device: str, precision: str, threads: int, unverified: bool
) -> Backend:
    """The first of `AUTO` that serves the device and precision and can run the model here."""
    devices = [d for d in DEVICES if device in ("auto", d)]
    if device == "auto" and find_gpu() is None:
        devices = ["cpu"]
    if device == "cuda":
        require_gpu()
    wanted = [(n, d) for n, d in AUTO if d in devices]
    able = [(n, d) for n, d in wanted if precision in ("auto", *BACKENDS[n].precisions[d])]
    if not able:
        _require_precision(wanted[0][0], wanted[0][1], precision)
    nothing_installed = BackendUnavailable(
        subject="backend",
        expected=f"one of the packages {', '.join(BACKENDS[n].package for n, _ in able)}",
        found="none of them",
        remedy=f"Install one: `pip install {BACKENDS[able[0][0]].package}`.",
    )
    failures: list[ModelError] = []
    for name, place in able:
        if BACKENDS[name].is_installed():
            if place == "cpu" and able[0][1] == "cuda":
                logger.warning("a GPU is visible, but %s runs on the CPU", name)
            try:
                return _open(model, Way(name, place, precision), threads, unverified)
            except (BackendUnavailable, EngineMismatch) as error:
                # on a CPU nothing is left to chance: what is installed there works or says why
                if place == "cpu":
                    raise
                logger.warning("%s left out: %s", name, error.public_message)
                failures.append(error)
    raise [*failures, nothing_installed][0]


def _require_known(subject: str, value: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    if value not in ("auto", *known):
        raise ConfigError(
            subject=subject,
            expected=f"auto or one of {', '.join(known)}",
            found=repr(value),
            remedy="Choose one of them.",
        )


def _device_of(backend: str, device: str) -> str:
    served = BACKENDS[backend].precisions
    if device == "auto":
        # a GPU for what can use one, if there is one
        return "cuda" if "cpu" not in served or ("cuda" in served and find_gpu()) else "cpu"
    if device not in served:
        raise ConfigError(
            subject="device",
            expected=f"auto or one of {', '.join(served)} for the backend {backend}",
            found=repr(device),
            remedy="Choose another device or backend.",
        )
    return device


def _require_precision(backend: str, device: str, precision: str) -> str:
    precisions = BACKENDS[backend].precisions[device]
    if precision not in ("auto", *precisions):
        raise ConfigError(
            subject="precision",
            expected=f"auto or one of {', '.join(precisions)} for {backend} on {device}",
            found=repr(precision),
            remedy="Choose another precision or backend.",
        )
    return precision


def _not_installed(backend: str) -> BackendUnavailable:
    entry = BACKENDS[backend]
    what = f"'neurobento[{entry.extra}]'" if entry.extra else entry.package
    return BackendUnavailable(
        subject="backend",
        expected=f"the package {entry.package}",
        found="it is not installed",
        remedy=f"Install it: `pip install {what}`.",
    )
