"""Fakes of CUDA and TensorRT in NumPy, and a model with weights."""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurobento.files import file_sha256
from neurobento.registry import Model, open_model

Work = Callable[[], None]

SCRATCH = 4096
"""Bytes that contexts of an engine need."""


class NumpyCuda:
    """`cuda.bindings.runtime`, as far as it is used: each call gives a status and results.

    Work on a stream is done when the stream is waited for, and not before.
    """

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self) -> None:
        self.gpus = [SimpleNamespace(name=b"NVIDIA GeForce RTX 4090\0\0", major=8, minor=9)]
        # function -> status that it gives from now on
        self.failing: dict[str, int] = {}
        # by address or handle: what was created and not yet freed
        self.memory: dict[int, Any] = {}
        self.streams: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.runnables: dict[int, list[Work]] = {}
        self.launches: list[int] = []
        self._handles = itertools.count(1)
        self._recording: dict[int, list[Work]] = {}

    def __getattribute__(self, name: str) -> Any:
        failing = object.__getattribute__(self, "__dict__").get("failing", {})
        if name in failing:
            return lambda *_: (failing[name], None)
        return object.__getattribute__(self, name)

    @property
    def held(self) -> int:
        return sum(map(len, (self.memory, self.streams, self.graphs, self.runnables)))

    def put(self, stream: int, work: Work) -> None:
        self._recording.get(stream, self.streams[stream]).append(work)

    def _created(self, kind: dict[int, list[Work]], work: list[Work]) -> tuple[int, int]:
        kind[handle := next(self._handles)] = work
        return 0, handle

    def is_recording(self, stream: int) -> bool:
        return stream in self._recording

    def at(self, address: int, size: int) -> Any:
        assert size <= self.memory[address].nbytes, "beyond the end of a buffer"
        return self.memory[address][:size]

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"out of luck (%d)" % status

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return 0, len(self.gpus)

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return 0, self.gpus[device]

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        buffer = np.full(size, 255, np.uint8)
        self.memory[buffer.ctypes.data] = buffer
        return 0, buffer.ctypes.data

    def cudaFree(self, address: int) -> tuple[int]:
        del self.memory[address]
        return (0,)

    def cudaStreamCreate(self) -> tuple[int, int]:
        return self._created(self.streams, [])

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        del self.streams[stream]
        return (0,)

    def cudaMemcpyAsync(self, to: int, come_from: int, size: int, kind: int, stream: int) -> Any:
        assert not self.is_recording(stream), "memory of the host cannot be recorded"
        self.at(to if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else come_from, size)
        self.put(stream, lambda: ctypes.memmove(to, come_from, size) and None)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert not self.is_recording(stream), "a recording is no work that ends"
        for work in self.streams[stream]:
            work()
        self.streams[stream].clear()
        return (0,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[int]:
        assert not self.is_recording(stream)
        self._recording[stream] = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:
        return self._created(self.graphs, self._recording.pop(stream))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        return self._created(self.runnables, list(self.graphs[graph]))

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.graphs[graph]
        return (0,)

    def cudaGraphExecDestroy(self, runnable: int) -> tuple[int]:
        del self.runnables[runnable]
        return (0,)

    def cudaGraphLaunch(self, runnable: int, stream: int) -> tuple[int]:
        self.launches.append(runnable)
        for work in self.runnables[runnable]:
            self.put(stream, work)
        return (0,)


class NumpyContext:
    """An execution context of an engine that has the known model's rule."""

    def __init__(self, library: NumpyTensorRT, *, brings_memory: bool) -> None:
        self._library = library
        self._brings_memory = brings_memory
        self._memory = (0, 0)
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._is_prepared = False

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_device_memory(self, address: int, size: int) -> None:
        assert not self._brings_memory
        assert size >= SCRATCH
        self._memory = (address, size)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        assert 1 <= shape[0] <= 8, "beyond the profile"
        self._shape, self._is_prepared = shape, False
        return True

    def execute_async_v3(self, stream: int) -> bool:
        cuda, shape = self._library.cuda, self._shape
        if self._library.refuses_work or (cuda.is_recording(stream) and not self._is_prepared):
            return False
        self._is_prepared = True
        self._library.executed.append(shape[0])

        def work() -> None:
            if not self._brings_memory:
                cuda.at(*self._memory)[:] = shape[0]
            voxels = int(np.prod(shape))
            image = cuda.at(self._addresses["image"], 4 * voxels).view(np.float32)
            cuda.at(self._addresses["labels"], voxels)[:] = np.round(image * 116)

        cuda.put(stream, work)
        return True


class NumpyTensorRT:
    """The module of a TensorRT flavour that loads any engine but `refused`."""

    def __init__(self, cuda: NumpyCuda) -> None:
        self.cuda = cuda
        self.__version__ = "1.7.1.116"
        self.__spec__ = ModuleSpec("tensorrt", None)  # by which it counts as installed
        # batch sizes that were enqueued
        self.executed: list[int] = []
        self.loaded: list[bytes] = []
        self.refused = b""
        self.refuses_work = False
        # whether its engines can be given memory, as they can by later versions
        self.has_runtime_config = True
        self.has_memory = True
        self.configs: list[Any] = []
        self.contexts: list[NumpyContext] = []
        self.ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
        self.DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER=1)
        self.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, preprocessing: None})

    def Runtime(self, logger: Any) -> Any:
        return SimpleNamespace(deserialize_cuda_engine=self._load)

    def _load(self, engine: bytes) -> Any:
        if engine == self.refused:
            return None
        self.loaded.append(engine)
        engine = SimpleNamespace(create_execution_context=self._create_context)
        if self.has_runtime_config:
            engine.create_runtime_config = self._create_config
            engine.device_memory_size_v2 = SCRATCH
        return engine

    def _create_config(self) -> Any:
        config = SimpleNamespace(strategy=0, dynamic_shapes_kernel_specialization_strategy=0)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(
            config, "strategy", strategy
        )
        self.configs.append(config)
        return config

    def _create_context(self, config: Any = None) -> Any:
        if not self.has_memory:
            return None
        self.contexts.append(NumpyContext(self, brings_memory=config is None))
        return self.contexts[-1]


def install(monkeypatch: pytest.MonkeyPatch, name: str, **values: Any) -> None:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in values.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> NumpyCuda:
    """A machine with one GPU, an RTX 4090."""
    runtime = NumpyCuda()
    install(monkeypatch, "cuda")
    install(monkeypatch, "cuda.bindings", runtime=runtime)
    return runtime


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, cuda: NumpyCuda, tmp_path: Path) -> NumpyTensorRT:
    """Both flavours of TensorRT, and an empty folder of engines."""
    library = NumpyTensorRT(cuda)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.setenv("NEUROBENTO_ENGINES", str(tmp_path / "engines"))
    return library


def known_network() -> Any:
    """The known model's rule with its one weight, for PyTorch."""
    import torch

    class Known(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classes = torch.nn.Parameter(torch.zeros(()))

        def labels(self, image: Any) -> Any:
            return torch.round(image[:, 0] * self.classes).to(torch.uint8)

    return Known()


@pytest.fixture(scope="module")
def model(known_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """The known model with weights beside it."""
    import torch

    folder = tmp_path_factory.mktemp("weighted") / "compact"
    shutil.copytree(known_model, folder)
    average = {"classes": torch.tensor(116.0)}
    values = {"format": 1, "recipe": {"network": "known"}, "average": average}
    torch.save(values, folder / "weights.pt")
    spec = dataclasses.replace(
        open_model(known_model).spec, weights_sha256=file_sha256(folder / "weights.pt")
    )
    spec.write(folder / "spec.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("neurobento.networks.weights.build", lambda _: known_network())
        yield open_model(folder)
