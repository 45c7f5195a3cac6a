"""The table of backends: their packages, devices and precisions."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from neurobento.backends.base import Backend
from neurobento.registry import Model

__all__ = ["BACKENDS", "DEVICES", "BackendConfig", "BackendEntry", "list_backend_configs"]

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class BackendEntry:
    """A backend that can be chosen by name."""

    # The module that must be importable.
    package: str
    # The extra of this project that installs the package; empty for core dependencies.
    extra: str
    # Loads a model; takes `device`, `precision` and `threads`.
    open: Callable[..., Backend]
    # Device -> precisions; some machines support only a part of them.
    precisions: Mapping[str, tuple[str, ...]]

    def is_installed(self) -> bool:
        """Return True if the package can be imported."""
        return importlib.util.find_spec(self.package) is not None


# Each opener imports its backend when it is called, so that the table itself is light.


def _open_openvino(model: Model, precision: Any, threads: int, **_: Any) -> Backend:
    from neurobento.backends.openvino import OpenVINOBackend

    return OpenVINOBackend(model, precision, threads)


def _onnx_runtime_opener(gpu_provider: str) -> Callable[..., Backend]:
    def open_model(model: Model, device: str, **options: Any) -> Backend:
        from neurobento.backends.onnx_runtime import OnnxRuntimeBackend

        return OnnxRuntimeBackend(model, gpu_provider if device == "cuda" else "cpu", **options)

    return open_model


def _tensorrt_opener(flavour: str) -> Callable[..., Backend]:
    def open_model(model: Model, precision: str, **_: Any) -> Backend:
        from neurobento.backends.tensorrt import TensorRTBackend

        return TensorRTBackend(model, flavour, precision)

    return open_model


def _pytorch_opener(*, compiled: bool) -> Callable[..., Backend]:
    def open_model(model: Model, **options: Any) -> Backend:
        from neurobento.backends.pytorch import PyTorchBackend

        return PyTorchBackend(model, compiled=compiled, **options)

    return open_model


_OPENVINO = {"cpu": ("fp32", "bf16", "int8")}
_ONNX_RUNTIME = {"cpu": ("fp32", "int8"), "cuda": ("fp32",)}
_ON_GPU = {"cuda": ("fp32", "fp16", "bf16")}
_PYTORCH = {"cpu": ("fp32", "bf16"), **_ON_GPU}

BACKENDS: Mapping[str, BackendEntry] = MappingProxyType(
    {
        "tensorrt": BackendEntry("tensorrt", "gpu", _tensorrt_opener("tensorrt"), _ON_GPU),
        "tensorrt-rtx": BackendEntry(
            "tensorrt_rtx", "rtx", _tensorrt_opener("tensorrt-rtx"), _ON_GPU
        ),
        "openvino": BackendEntry("openvino", "", _open_openvino, _OPENVINO),
        "onnxruntime": BackendEntry(
            "onnxruntime", "cpu", _onnx_runtime_opener("cuda"), _ONNX_RUNTIME
        ),
        "onnxruntime-tensorrt": BackendEntry(
            "onnxruntime", "gpu", _onnx_runtime_opener("tensorrt"), _ON_GPU
        ),
        "pytorch": BackendEntry("torch", "export", _pytorch_opener(compiled=False), _PYTORCH),
        "pytorch-compiled": BackendEntry(
            "torch", "export", _pytorch_opener(compiled=True), _PYTORCH
        ),
    }
)


class BackendConfig(NamedTuple):
    """A backend with a device and a precision; its text names results, as "openvino fp32"."""

    backend: str
    device: str
    precision: str

    def __str__(self) -> str:
        has_choice = len(BACKENDS[self.backend].precisions) > 1
        device = [self.device] if has_choice and self.device != "cpu" else []
        return " ".join([self.backend, self.precision, *device])


def list_backend_configs() -> list[BackendConfig]:
    """Return every backend with each of its devices and precisions, installed or not."""
    return [
        BackendConfig(name, device, precision)
        for name, entry in BACKENDS.items()
        for device, precisions in entry.precisions.items()
        for precision in precisions
    ]
