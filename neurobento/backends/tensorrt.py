"""TensorRT and TensorRT-RTX: engines built for one kind of GPU."""

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
    """The flavour's module; both have the same interface.

    Raises
    ------
    BackendUnavailable
        It is not there.
    """
    try:
        return importlib.import_module(FLAVOURS[flavour])
    except (ImportError, OSError):
        extra = "rtx" if flavour == "tensorrt-rtx" else "gpu"
        raise BackendUnavailable(
            subject=flavour,
            expected=f"the package {flavour}",
            found="it is not installed, or its libraries cannot be loaded",
            remedy=f"Install it: `pip install 'neurobento[{extra}]'`.",
        ) from None


def wanted_engine(model: Model, flavour: str, precision: str) -> EngineFacts:
    """What an engine must be to run a model on this machine's GPU.

    Raises
    ------
    BackendUnavailable
        There is no such library or no GPU.
    """
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
class _Prepared:
    """What runs batches of one size: a context and, once it was used, its recording."""

    context: Any
    graph: Graph | None = None


class TensorRTBackend(Backend):
    """One engine with its buffers on the GPU; only images go up and outputs come down.

    Each size of batch has a context and a recording of its own, so that sizes may
    alternate. Work is serial on one stream: all contexts share one block of memory
    where the library can be given one.

    Parameters
    ----------
    model
        What to run; `export.to_tensorrt` builds its engine.
    flavour
        A key of `FLAVOURS`.
    precision
        "auto" takes the quickest that the model was verified in, else fp32.
    cuda_graph
        Whether work is recorded when a size of batch comes a second time, and replayed
        from then on.

    Raises
    ------
    BackendUnavailable
        There is no such library or no GPU.
    EngineMismatch
        No engine was built for this model, library and GPU.
    RuntimeError
        The GPU has too little memory.
    """

    def __init__(
        self,
        model: Model,
        flavour: str,
        precision: str = "auto",
        *,
        cuda_graph: bool = True,
    ) -> None:
        if precision == "auto":
            precision = _verified_precision(model, flavour)
        wanted = wanted_engine(model, flavour, precision)
        engine = read_engine(find_engine(model, wanted))
        module = load_flavour(flavour)
        self.name = flavour
        self.spec = model.spec
        self._runtime = module.Runtime(module.Logger(module.Logger.ERROR))
        self._engine = self._runtime.deserialize_cuda_engine(engine)
        if self._engine is None:
            raise EngineMismatch(
                subject=f"{model.spec.name} on {flavour}",
                expected=f"an engine that {flavour} {module.__version__} can load",
                found="one that it refuses",
                remedy="Remove it and build it again with `python -m export.to_tensorrt`.",
            )
        self._stream = Stream()
        sizes = {"image": 4 * math.prod(model.spec.input_shape)} | {
            name: math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
            for name, tensor in model.spec.outputs.items()
        }
        self._buffers = {name: Buffer(PROFILE[2] * size) for name, size in sizes.items()}
        self._config = _runtime_config(module, flavour, self._engine)
        self._scratch = None
        if self._config is not None:
            # an engine may need none, and no block has no bytes
            self._scratch = Buffer(max(self._engine.device_memory_size_v2, 1))
        self._cuda_graph = cuda_graph
        self._prepared: dict[int, _Prepared] = {}
        self.details = {
            "library": f"{flavour} {module.__version__}",
            "device": require_gpu().name,
            "precision": precision,
            "threads": "1",
        }

    def run(self, images: ImageBatch) -> OutputBatch:
        """See `Backend.run`."""
        images = check_images(images, self.spec)
        found = empty_outputs(self.spec, len(images))
        for start in range(0, len(images), PROFILE[2]):
            part = slice(start, start + PROFILE[2])
            self._stream.upload(images[part], self._buffers["image"])
            self._execute(len(images[part]))
            for name, each in found.items():
                self._stream.download(self._buffers[name], each[part])
        self._stream.wait()
        return found

    def _execute(self, batch: int) -> None:
        known = self._prepared.get(batch)
        if known is None:
            context = self._context(batch)
            # the first call of a context prepares what a recording must not hold
            self._enqueue(context)
            self._prepared[batch] = _Prepared(context)
            return
        if self._cuda_graph and known.graph is None:
            known.graph = self._stream.record(lambda: self._enqueue(known.context))
        if known.graph is None:
            self._enqueue(known.context)
        else:
            self._stream.launch(known.graph)

    def _context(self, batch: int) -> Any:
        """A context for batches of one size, with its memory."""
        given = [] if self._config is None else [self._config]
        context = self._engine.create_execution_context(*given)
        if context is None:
            raise RuntimeError(f"{self.name}: too little GPU memory for a batch of {batch}")
        if self._scratch is not None:
            context.set_device_memory(self._scratch.address, self._scratch.size)
        for name, buffer in self._buffers.items():
            context.set_tensor_address(name, buffer.address)
        context.set_input_shape("image", (batch, *self.spec.input_shape))
        return context

    def _enqueue(self, context: Any) -> None:
        if not context.execute_async_v3(self._stream.address):
            raise RuntimeError("TensorRT refused the work; its log says why")

    def close(self) -> None:
        """Let go of the engine and its memory."""
        del self._prepared, self._config, self._engine, self._runtime
        del self._buffers, self._scratch, self._stream


def _runtime_config(module: Any, flavour: str, engine: Any) -> Any:
    """Has contexts take the memory they are given; none where the library cannot be told so."""
    if not hasattr(engine, "create_runtime_config"):
        return None
    config = engine.create_runtime_config()
    strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
    config.set_execution_context_allocation_strategy(strategy)
    if flavour == "tensorrt-rtx":
        # kernels for a size are made when it first comes, not while it is replayed
        eager = module.DynamicShapesKernelSpecializationStrategy.EAGER
        config.dynamic_shapes_kernel_specialization_strategy = eager
    return config


def _verified_precision(model: Model, flavour: str) -> str:
    for precision in ("fp16", "bf16"):
        if model.spec.verification.get(f"{flavour} {precision}", {}).get("passed", False):
            return precision
    return "fp32"
