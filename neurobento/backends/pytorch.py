"""Run models with PyTorch, the reference for all other backends."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from neurobento.backends.base import Backend, ImageBatch, OutputBatch, check_images
from neurobento.errors import BackendUnavailable
from neurobento.extras import naming_extra
from neurobento.networks import task_function
from neurobento.registry import WEIGHTS_FILE, Model
from neurobento.spec import require_sha256

__all__ = ["PyTorchBackend", "open_weights"]


class PyTorchBackend(Backend):
    """A model's network as it was trained, from weights.pt beside its ONNX file.

    Precision "auto" is fp32; "fp16" and "bf16" are autocast. Threads are the whole process's.
    """

    def __init__(
        self,
        model: Model,
        device: str = "cpu",
        precision: str = "auto",
        threads: int = 0,
        *,
        compiled: bool = False,
    ) -> None:
        with naming_extra("export", "backend"):
            import torch

            from neurobento.networks.weights import load_network

        if device == "cuda":
            _require_cuda(torch)
        weights = open_weights(model)
        if threads:
            torch.set_num_threads(threads)
        self.name = "pytorch-compiled" if compiled else "pytorch"
        self.spec = model.spec
        self._device = device
        self._precision = "fp32" if precision == "auto" else precision
        # The network's file imports MONAI.
        with naming_extra("export", "backend"):
            network: Any = load_network(weights).to(device)
        labels_alone = list(model.spec.outputs) == ["labels"]
        infer = network.labels if labels_alone else task_function(network)
        self._infer = _compile(torch, infer) if compiled else infer
        self.details = {
            "library": f"torch {torch.__version__}",
            "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
            "precision": self._precision,
            "threads": str(torch.get_num_threads()),
        }

    def run(self, images: ImageBatch) -> OutputBatch:
        import torch

        half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self._precision)
        # Copy, because torch refuses a read-only array.
        batch = torch.from_numpy(np.array(check_images(images, self.spec)))
        with (
            torch.inference_mode(),
            torch.autocast(self._device, dtype=half, enabled=half is not None),
        ):
            parts = [batch] if self._device == "cuda" else torch.split(batch, 1)
            results = [self._infer(part.to(self._device)) for part in parts]
        # A network returns one tensor, or one for each output.
        tuples = [each if isinstance(each, tuple) else (each,) for each in results]
        tensors = zip(*tuples, strict=True)
        return {
            name: np.concatenate([part.cpu().numpy() for part in each])
            for name, each in zip(self.spec.outputs, tensors, strict=True)
        }

    def close(self) -> None:
        del self._infer


def open_weights(model: Model) -> Path:
    """Return the path of a model's weights after a check of their hash."""
    path = model.folder / WEIGHTS_FILE
    if not path.is_file():
        raise BackendUnavailable(
            subject="backend",
            expected=f"{WEIGHTS_FILE} beside the ONNX file of {model.spec.name}",
            found="no such file",
            remedy="Choose another backend; the weights come with a clone of the repository.",
        )
    require_sha256(path, model.spec.weights_sha256)
    return path


def _require_cuda(torch: Any) -> None:
    if not torch.cuda.is_available():
        raise BackendUnavailable(
            subject="device",
            expected="a GPU and a PyTorch built with CUDA",
            found=f"torch {torch.__version__} without a GPU",
            remedy="Choose --device cpu.",
        )
    # Compute fp32 in fp32, not in TF32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def _compile(torch: Any, infer: Any) -> Any:
    if shutil.which("g++") is None and shutil.which("c++") is None:
        raise BackendUnavailable(
            subject="backend",
            expected="a C++ compiler for torch.compile",
            found="neither g++ nor c++",
            remedy="Install one (`apt install g++`), or choose the backend pytorch.",
        )
    return torch.compile(infer, dynamic=False)
