"""ONNX Runtime: the portable way to run an ONNX model, on CPUs and on NVIDIA GPUs."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from neurobento.backends.base import Images, Labels, check_images
from neurobento.backends.cuda import require_gpu
from neurobento.backends.engine import engines_folder, private_folder
from neurobento.errors import BackendUnavailable
from neurobento.registry import Model

__all__ = ["OnnxRuntimeBackend", "provider_options"]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


def provider_options(provider: str, precision: str) -> list[tuple[str, dict[str, Any]]]:
    """Execution providers and their options, the first one first.

    Parameters
    ----------
    provider
        "cpu", "cuda" or "tensorrt".
    precision
        "fp32", or with "tensorrt" "fp16" or "bf16". fp32 is that: no TF32.
    """
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


class OnnxRuntimeBackend:
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
        The installed ONNX Runtime has no such provider, or there is no GPU.
    EngineMismatch
        Others may write where ONNX Runtime keeps the engines it builds.
    """

    def __init__(
        self, model: Model, provider: str = "cpu", precision: str = "auto", threads: int = 0
    ) -> None:
        _require_one_flavour()
        import onnxruntime

        precision = "fp32" if precision == "auto" else precision
        device = "CPU" if provider == "cpu" else require_gpu().name
        _require_provider(onnxruntime, provider)
        if provider == "tensorrt":
            private_folder(_engines())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.name = "onnxruntime-tensorrt" if provider == "tensorrt" else "onnxruntime"
        self.spec = model.spec
        self._on_gpu = provider != "cpu"
        self._session = onnxruntime.InferenceSession(
            str(model.graph(precision)), options, providers=provider_options(provider, precision)
        )
        # a provider that fails to start is left out by ONNX Runtime without a word
        if PROVIDERS[provider] not in self._session.get_providers():
            raise _missing(provider, "it does not start here")
        self.details = {
            "library": f"onnxruntime {onnxruntime.__version__}",
            "device": device,
            "precision": precision,
            "threads": str(threads or "auto"),
        }

    def infer(self, images: Images) -> Labels:
        """Labels of a batch; see `Backend.infer`."""
        images = check_images(images)
        if self._on_gpu:
            return self._run(images)
        # scan by scan: peak memory grows with the batch, speed on a CPU does not
        return np.concatenate([self._run(images[i : i + 1]) for i in range(len(images))])

    def _run(self, images: Images) -> Labels:
        """Bound input and output: of all that is on a GPU, only the labels leave it."""
        binding = self._session.io_binding()
        binding.bind_cpu_input("image", images)
        binding.bind_output("labels")
        self._session.run_with_iobinding(binding)
        labels: Labels = binding.copy_outputs_to_cpu()[0]
        return labels

    def close(self) -> None:
        """Let go of the session."""
        del self._session


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


def _missing(provider: str, found: str) -> BackendUnavailable:
    return BackendUnavailable(
        subject="backend",
        expected=f"an ONNX Runtime with {PROVIDERS[provider]}",
        found=found,
        remedy="`pip uninstall -y onnxruntime`, then `pip install 'neurobento[gpu]'`.",
    )
