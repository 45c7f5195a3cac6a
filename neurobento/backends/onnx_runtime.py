"""Run models with ONNX Runtime, on CPUs and on NVIDIA GPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from neurobento.backends.base import Backend, ImageBatch, OutputBatch, check_images
from neurobento.backends.cuda import require_gpu
from neurobento.backends.engine import PROFILE, private_folder
from neurobento.backends.tensorrt import load_flavour
from neurobento.environment import engines_folder
from neurobento.errors import BackendUnavailable
from neurobento.registry import Model

__all__ = ["OnnxRuntimeBackend", "provider_options"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def provider_options(
    provider: str, precision: str, input_shape: tuple[int, ...]
) -> list[tuple[str, dict[str, Any]]]:
    """Return the execution providers in order, each with its options."""
    smallest, optimal, largest = (
        f"image:{'x'.join(map(str, (batch, *input_shape)))}" for batch in PROFILE
    )
    cuda = {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # Without it ONNX Runtime may refuse the workspace of the fastest convolution.
        "cudnn_conv_use_max_workspace": "1",
    }
    # TensorRT cannot switch TF32 off for one session, so fp32 may be TF32 there.
    tensorrt = {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_bf16_enable": str(precision == "bf16"),
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_engine_cache_path": str(_engine_cache()),
        "trt_timing_cache_path": str(_engine_cache()),
        # Build one engine for all batch sizes instead of a new one for each larger batch.
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": optimal,
        "trt_profile_max_shapes": largest,
    }
    options = {"cpu": {}, "cuda": cuda, "tensorrt": tensorrt}
    order = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}
    return [(PROVIDERS[name], options[name]) for name in order[provider]]


def _engine_cache() -> Path:
    """Return the folder of the engines that ONNX Runtime builds."""
    return engines_folder() / "onnxruntime"


class OnnxRuntimeBackend(Backend):
    """An ONNX model in an ONNX Runtime session, on "cpu", "cuda" or "tensorrt"; "auto" is fp32."""

    def __init__(
        self, model: Model, provider: str = "cpu", precision: str = "auto", threads: int = 0
    ) -> None:
        _require_one_distribution()
        import onnxruntime

        # Check the provider and what it needs.

        precision = "fp32" if precision == "auto" else precision
        device = "CPU" if provider == "cpu" else require_gpu().name
        _require_provider(onnxruntime, provider)
        if provider != "cpu":
            _load_libraries(onnxruntime, provider)
        if provider == "tensorrt":
            private_folder(_engine_cache())
        # Open the session.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.name = "onnxruntime-tensorrt" if provider == "tensorrt" else "onnxruntime"
        self.spec = model.spec
        # On a CPU a larger batch takes more memory and is no faster.
        self._largest_batch = 1 if provider == "cpu" else PROFILE[2]
        graph = str(model.graph(precision))
        providers = provider_options(provider, precision, model.spec.input_shape)
        with _as_runtime_error():
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        _require_started(self._session, provider)
        self.details = {
            "library": f"onnxruntime {onnxruntime.__version__}",
            "device": device,
            "precision": precision,
            "threads": str(threads or "auto"),
        }

    def run(self, images: ImageBatch) -> OutputBatch:
        images = check_images(images, self.spec)
        starts = range(0, len(images), self._largest_batch)
        parts = [self._run(images[i : i + self._largest_batch]) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.spec.outputs}

    def _run(self, images: ImageBatch) -> OutputBatch:
        """Run with bound input and outputs, so that nothing else is copied from the GPU."""
        binding = self._session.io_binding()
        binding.bind_cpu_input("image", images)
        for name in self.spec.outputs:
            binding.bind_output(name)
        with _as_runtime_error():
            self._session.run_with_iobinding(binding)
        return dict(zip(self.spec.outputs, binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        del self._session


@contextlib.contextmanager
def _as_runtime_error() -> Iterator[None]:
    """Raise ONNX Runtime's failures, which derive from Exception alone, as RuntimeError."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

    try:
        yield
    except (Fail, RuntimeException) as error:
        raise RuntimeError(str(error)) from error


def _require_one_distribution() -> None:
    """Refuse two distributions of ONNX Runtime: each overwrites the other's files."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml")
    installed = [name for name in names if _is_installed(name)]
    if len(installed) > 1:
        raise BackendUnavailable(
            subject="backend",
            expected="one distribution of ONNX Runtime",
            found=f"{' and '.join(installed)}, installed over each other",
            remedy=f"`pip uninstall -y {' '.join(installed)}`, then install the one you want.",
        )


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _require_provider(onnxruntime: Any, provider: str) -> None:
    if PROVIDERS[provider] not in onnxruntime.get_available_providers():
        raise BackendUnavailable(
            subject="backend",
            expected=f"an ONNX Runtime with {PROVIDERS[provider]}",
            found=f"only {', '.join(onnxruntime.get_available_providers())}",
            remedy="`pip uninstall -y onnxruntime`, then `pip install 'neurobento[gpu]'`.",
        )


def _require_started(session: Any, provider: str) -> None:
    """Raise BackendUnavailable if ONNX Runtime has silently dropped a provider."""
    if PROVIDERS[provider] not in session.get_providers():
        raise BackendUnavailable(
            subject="backend",
            expected=f"an ONNX Runtime whose {PROVIDERS[provider]} starts",
            found="a provider that does not start here",
            remedy="Check the driver (`nvidia-smi`), and that the CUDA, cuDNN and TensorRT "
            "libraries are of the versions that this ONNX Runtime was built with.",
        )


def _load_libraries(onnxruntime: Any, provider: str) -> None:
    """Load CUDA's and TensorRT's libraries from their wheels; ONNX Runtime does not search them."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if provider == "tensorrt":
        load_flavour("tensorrt")
