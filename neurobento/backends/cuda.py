"""The parts of CUDA that a backend needs, through NVIDIA's cuda-bindings instead of torch."""

from __future__ import annotations

import importlib.util
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from neurobento.errors import BackendUnavailable

__all__ = ["Buffer", "Gpu", "Graph", "Stream", "find_gpu", "require_gpu"]

NO_DEVICE = 100
"""The status of CUDA with a driver but without a GPU: cudaErrorNoDevice."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU."""

    # Such as "NVIDIA H100".
    name: str
    # Compute capability, such as "9.0".
    capability: str

    @property
    def memory_bytes(self) -> int:
        """The whole memory of the GPU, used or not."""
        return int(_call("cudaGetDeviceProperties", 0).totalGlobalMem)


def find_gpu() -> Gpu | None:
    """Return the first visible GPU, or None if there is no GPU or no binding."""
    count, error = _count_gpus()
    if error:
        logger.debug("no GPU found: %s", error)
    if not count:
        return None
    gpu = _call("cudaGetDeviceProperties", 0)
    name = gpu.name.decode() if isinstance(gpu.name, bytes) else str(gpu.name)
    return Gpu(name.rstrip("\0"), f"{gpu.major}.{gpu.minor}")


def require_gpu() -> Gpu:
    """Return the first visible GPU; raise BackendUnavailable without a GPU or binding."""
    gpu = find_gpu()
    if gpu is None:
        raise BackendUnavailable(
            subject="device",
            expected="an NVIDIA GPU with its driver, and the package cuda-bindings",
            found=_count_gpus()[1] or "no visible GPU",
            remedy="Choose --device cpu, or run on a machine with a GPU (`nvidia-smi` shows it).",
        )
    return gpu


def _count_gpus() -> tuple[int, str]:
    """Return the number of visible GPUs, and CUDA's error if it cannot tell (an old driver)."""
    # Check "cuda" first: find_spec raises for a submodule of a missing package.
    if not all(importlib.util.find_spec(name) for name in ("cuda", "cuda.bindings")):
        return 0, ""
    status, count = _runtime().cudaGetDeviceCount()
    if int(status) in (0, NO_DEVICE):
        return 0 if int(status) else int(count), ""
    return 0, f"cudaGetDeviceCount: {_error_text(status)}"


def _error_text(status: Any) -> str:
    _, text = _runtime().cudaGetErrorString(status)
    return text.decode() if isinstance(text, bytes) else str(text)


def _runtime() -> Any:
    from cuda.bindings import runtime

    return runtime


def _call(name: str, *args: Any) -> Any:
    """Call a function of the CUDA runtime; raise RuntimeError unless its status is success."""
    status, *values = getattr(_runtime(), name)(*args)
    if int(status):
        raise RuntimeError(f"{name}: {_error_text(status)}")
    return values[0] if len(values) == 1 else None


class Buffer:
    """Memory on the GPU, freed with the object."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = int(_call("cudaMalloc", size_bytes))
        weakref.finalize(self, _runtime().cudaFree, self.address)


class Graph:
    """Executable recorded work, destroyed with the object."""

    def __init__(self, recording: Any) -> None:
        self.handle = _call("cudaGraphInstantiate", recording, 0)
        weakref.finalize(self, _runtime().cudaGraphExecDestroy, self.handle)


class Stream:
    """A queue of work on the GPU, destroyed with the object."""

    def __init__(self) -> None:
        self._handle = _call("cudaStreamCreate")
        self.address = int(self._handle)
        weakref.finalize(self, _runtime().cudaStreamDestroy, self._handle)

    def upload(self, array: NDArray[Any], buffer: Buffer) -> None:
        """Copy a contiguous array to the beginning of a buffer."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        source, size = array.ctypes.data, array.nbytes
        _call("cudaMemcpyAsync", buffer.address, source, size, kind, self._handle)

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copy the beginning of a buffer into a contiguous array."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        target, size = array.ctypes.data, array.nbytes
        _call("cudaMemcpyAsync", target, buffer.address, size, kind, self._handle)

    def wait(self) -> None:
        """Wait until all work is done."""
        _call("cudaStreamSynchronize", self._handle)

    def record(self, work: Callable[[], None]) -> Graph:
        """Record the work that a function queues here, without doing it, for `launch`."""
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self._handle, mode)
        try:
            work()
        except BaseException:
            # A stream that still records accepts no other work.
            _runtime().cudaStreamEndCapture(self._handle)
            raise
        recording = _call("cudaStreamEndCapture", self._handle)
        try:
            return Graph(recording)
        finally:
            _call("cudaGraphDestroy", recording)

    def launch(self, graph: Graph) -> None:
        """Queue recorded work."""
        _call("cudaGraphLaunch", graph.handle, self._handle)
