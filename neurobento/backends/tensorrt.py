"""Run models with TensorRT and TensorRT-RTX, whose engines are built for one kind of GPU."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurobento.backends.base import Backend, ImageBatch, OutputBatch, check_images, empty_outputs
from neurobento.backends.cuda import Buffer, Graph, Stream, require_gpu
from neurobento.backends.engine import (
    FLAVOURS,
    PROFILE,
    RECIPE,
    EngineFacts,
    find_engine,
    gpu_target,
    read_engine,
)
from neurobento.errors import BackendUnavailable, EngineMismatch
from neurobento.registry import Model

__all__ = ["TensorRTBackend", "load_flavour", "wanted_engine"]


def load_flavour(flavour: str) -> Any:
    """Import the flavour's module; both have the same interface."""
    try:
        return importlib.import_module(FLAVOURS[flavour])
    except (ImportError, OSError):
        extra = "rtx" if flavour == "tensorrt-rtx" else "gpu"
        raise BackendUnavailable(
            subject=flavour,
            expected=f"the package {flavour}",
            found="no such package, or libraries that cannot be loaded",
            remedy=f"Install it: `pip install 'neurobento[{extra}]'`.",
        ) from None


def wanted_engine(model: Model, flavour: str, precision: str) -> EngineFacts:
    """Return the facts of an engine that runs the model on this machine's GPU."""
    return EngineFacts(
        flavour=flavour,
        library=load_flavour(flavour).__version__,
        targets=(gpu_target(flavour, require_gpu()),),
        precision=precision,
        profile=PROFILE,
        onnx_sha256=model.spec.onnx_sha256,
        recipe=RECIPE,
    )


@dataclass
class _BatchContext:
    """The context for batches of one size and, after its first use, its recording."""

    context: Any
    graph: Graph | None = None


class TensorRTBackend(Backend):
    """An engine, built by `export.to_tensorrt`, with its buffers on the GPU.

    Each batch size has its own context and, with `cuda_graph`, a recording from its second use on.
    All share one stream and, if the library allows it, one block of memory. Precision "auto" is the
    fastest that the model was verified in, else fp32.
    """

    def __init__(
        self, model: Model, flavour: str, precision: str = "auto", *, cuda_graph: bool = True
    ) -> None:
        if precision == "auto":
            precision = _verified_precision(model, flavour)
        module = load_flavour(flavour)
        self.name = flavour
        self.spec = model.spec
        self._runtime = module.Runtime(module.Logger(module.Logger.ERROR))
        self._engine = self._load_engine(model, wanted_engine(model, flavour, precision))
        # Allocate memory on the GPU.
        self._stream = Stream()
        sizes = {"image": 4 * math.prod(model.spec.input_shape)} | {
            name: math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
            for name, tensor in model.spec.outputs.items()
        }
        self._buffers = {name: Buffer(PROFILE[2] * size) for name, size in sizes.items()}
        self._config = _runtime_config(module, flavour, self._engine)
        self._scratch = None
        if self._config is not None:
            # An engine may need no memory, but a buffer cannot be empty.
            self._scratch = Buffer(max(self._engine.device_memory_size_v2, 1))
        self._cuda_graph = cuda_graph
        self._contexts: dict[int, _BatchContext] = {}
        self.details = {
            "library": f"{flavour} {module.__version__}",
            "device": require_gpu().name,
            "precision": precision,
            "threads": "1",
        }

    def _load_engine(self, model: Model, wanted: EngineFacts) -> Any:
        engine = self._runtime.deserialize_cuda_engine(read_engine(find_engine(model, wanted)))
        if engine is None:
            raise EngineMismatch(
                subject=f"{model.spec.name} on {wanted.flavour}",
                expected=f"an engine that {wanted.flavour} {wanted.library} can load",
                found="an engine that it refuses",
                remedy="Remove it and build it again with `python -m export.to_tensorrt`.",
            )
        return engine

    def run(self, images: ImageBatch) -> OutputBatch:
        images = check_images(images, self.spec)
        outputs = empty_outputs(self.spec, len(images))
        for start in range(0, len(images), PROFILE[2]):
            part = slice(start, start + PROFILE[2])
            self._stream.upload(images[part], self._buffers["image"])
            self._execute(len(images[part]))
            for name, each in outputs.items():
                self._stream.download(self._buffers[name], each[part])
        self._stream.wait()
        return outputs

    def _execute(self, batch: int) -> None:
        known = self._contexts.get(batch)
        if known is None:
            context = self._new_context(batch)
            # The first call allocates, which must not be recorded.
            self._enqueue(context)
            self._contexts[batch] = _BatchContext(context)
            return
        if self._cuda_graph and known.graph is None:
            known.graph = self._stream.record(lambda: self._enqueue(known.context))
        if known.graph is None:
            self._enqueue(known.context)
        else:
            self._stream.launch(known.graph)

    def _new_context(self, batch: int) -> Any:
        options = [] if self._config is None else [self._config]
        context = self._engine.create_execution_context(*options)
        if context is None:
            raise RuntimeError(f"{self.name}: too little GPU memory for a batch of {batch}")
        if self._scratch is not None:
            context.set_device_memory(self._scratch.address, self._scratch.size_bytes)
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.address)
        context.set_input_shape("image", (batch, *self.spec.input_shape))
        return context

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.address):
            raise RuntimeError("TensorRT refused the work; its log says why")

    def close(self) -> None:
        del self._contexts, self._config, self._engine, self._runtime
        del self._buffers, self._scratch, self._stream


def _runtime_config(module: Any, flavour: str, engine: Any) -> Any:
    """Return options that make contexts share memory, or None if the library has none."""
    if not hasattr(engine, "create_runtime_config"):
        return None
    config = engine.create_runtime_config()
    strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
    config.set_execution_context_allocation_strategy(strategy)
    if flavour == "tensorrt-rtx":
        # Compile the kernels of a batch size at its first use, not during a replay.
        eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
    return config


def _verified_precision(model: Model, flavour: str) -> str:
    for precision in ("fp16", "bf16"):
        if model.spec.verification.get(f"{flavour} {precision}", {}).get("passed", False):
            return precision
    return "fp32"
