"""ONNX Runtime: the portable way to run an ONNX model, on CPUs and on NVIDIA GPUs."""

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
    """Execution providers and their options, the first one first.

    Parameters
    ----------
    provider
        "cpu", "cuda" or "tensorrt".
    precision
        "fp32", or with "tensorrt" "fp16" or "bf16". With "cuda" fp32 is that, no
        TF32. With "tensorrt" TF32 cannot be switched off for one session, so
        that fp32 may be TF32 there.
    input_shape
        Of an image.
    """
    least, best, largest = (
        f"image:{'x'.join(map(str, (batch, *input_shape)))}" for batch in PROFILE
    )
    cuda = {
        "use_tf32": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        # without it a workspace for the quickest convolution may not be taken
        "cudnn_conv_use_max_workspace": "1",
    }
    tensorrt = {
        "trt_fp16_enable": str(precision == "fp16"),
        "trt_bf16_enable": str(precision == "bf16"),
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_engine_cache_path": str(_engines()),
        "trt_timing_cache_path": str(_engines()),
        # one engine for all sizes of batch, instead of a new one for each that is larger
        "trt_profile_min_shapes": least,
        "trt_profile_opt_shapes": best,
        "trt_profile_max_shapes": largest,
    }
    options = {"cpu": {}, "cuda": cuda, "tensorrt": tensorrt}
    order = {
        "cpu": ("cpu",),
        "cuda": ("cuda", "cpu"),
        "tensorrt": ("tensorrt", "cuda", "cpu"),
    }
    return [(PROVIDERS[name], options[name]) for name in order[provider]]


def _engines() -> Path:
    """Where ONNX Runtime's TensorRT keeps the engines that it builds."""
    return engines_folder() / "onnxruntime"


class OnnxRuntimeBackend(Backend):
    """One ONNX model in an ONNX Runtime session.

    Parameters
    ----------
    model
        What to run.
    provider
        "cpu", "cuda" or "tensorrt".
    precision
        "auto" is fp32; "int8" runs the model's int8 form, if there is one.
    threads
        CPU threads; 0 lets ONNX Runtime choose.

    Raises
    ------
    BackendUnavailable
        The installed ONNX Runtime has no such provider or it does not start,
        there is no GPU, or no TensorRT for "tensorrt".
    EngineMismatch
        Others may write where ONNX Runtime keeps the engines it builds.
    RuntimeError
        ONNX Runtime fails, such as for want of memory.
    """

    def __init__(
        self, model: Model, provider: str = "cpu", precision: str = "auto", threads: int = 0
    ) -> None:
        _require_one_flavour()
        import onnxruntime

        precision = "fp32" if precision == "auto" else precision
        device = "CPU" if provider == "cpu" else require_gpu().name
        _require_provider(onnxruntime, provider)
        if provider != "cpu":
            _load_libraries(onnxruntime, provider)
        if provider == "tensorrt":
            private_folder(_engines())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.name = "onnxruntime-tensorrt" if provider == "tensorrt" else "onnxruntime"
        self.spec = model.spec
        # scan by scan on a CPU: peak memory grows with the batch, speed does not
        self._largest = 1 if provider == "cpu" else PROFILE[2]
        graph = str(model.graph(precision))
        providers = provider_options(provider, precision, model.spec.input_shape)
        with _errors_of_ours():
            self._session = onnxruntime.InferenceSession(graph, options, providers=providers)
        # a provider that fails to start is left out by ONNX Runtime without a word
        if PROVIDERS[provider] not in self._session.get_providers():
            raise BackendUnavailable(
                subject="backend",
                expected=f"an ONNX Runtime whose {PROVIDERS[provider]} starts",
                found="it does not start here",
                remedy="Check the driver (`nvidia-smi`), and that the CUDA, cuDNN and TensorRT "
                "libraries are of the versions that this ONNX Runtime was built with.",
            )
        self.details = {
            "library": f"onnxruntime {onnxruntime.__version__}",
            "device": device,
            "precision": precision,
            "threads": str(threads or "auto"),
        }

    def run(self, images: ImageBatch) -> OutputBatch:
        """See `Backend.run`."""
        images = check_images(images, self.spec)
        starts = range(0, len(images), self._largest)
        parts = [self._run(images[i : i + self._largest]) for i in starts]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.spec.outputs}

    def _run(self, images: ImageBatch) -> OutputBatch:
        """Bound input and outputs: of all that is on a GPU, only these leave it."""
        binding = self._session.io_binding()
        binding.bind_cpu_input("image", images)
        for name in self.spec.outputs:
            binding.bind_output(name)
        with _errors_of_ours():
            self._session.run_with_iobinding(binding)
        return dict(zip(self.spec.outputs, binding.copy_outputs_to_cpu(), strict=True))

    def close(self) -> None:
        """Let go of the session."""
        del self._session


@contextlib.contextmanager
def _errors_of_ours() -> Iterator[None]:
    """Failures of ONNX Runtime, whose classes derive from Exception alone, as RuntimeError."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

    try:
        yield
    except (Fail, RuntimeException) as error:
        raise RuntimeError(str(error)) from error


def _require_one_flavour() -> None:
    """Two distributions of ONNX Runtime write over each other's files."""
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
        raise _missing(provider, f"only {', '.join(onnxruntime.get_available_providers())}")


def _load_libraries(onnxruntime: Any, provider: str) -> None:
    """Load CUDA's and TensorRT's libraries from their wheels, where ONNX Runtime does not look."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    if provider == "tensorrt":
        load_flavour("tensorrt")


def _missing(provider: str, found: str) -> BackendUnavailable:
    return BackendUnavailable(
        subject="backend",
        expected=f"an ONNX Runtime with {PROVIDERS[provider]}",
        found=found,
        remedy="`pip uninstall -y onnxruntime`, then `pip install 'neurobento[gpu]'`.",
    )
