"""As much of CUDA as a runner needs: which GPU there is, memory on it, a stream, a graph.

Calls go through NVIDIA's own thin binding (cuda-bindings), so that a runner
holds no torch.
"""

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
"""CUDA's status where there is a driver and no GPU: cudaErrorNoDevice."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU.

    Attributes
    ----------
    name
        Such as "NVIDIA H100".
    capability
        Compute capability, such as "9.0".
    """

    name: str
    capability: str

    @property
    def memory_bytes(self) -> int:
        """All of its memory, used or not."""
        return int(_call("cudaGetDeviceProperties", 0).totalGlobalMem)


def find_gpu() -> Gpu | None:
    """The first GPU that is visible, or nothing where there is none or no binding."""
    count, error = _count_gpus()
    if error:
        logger.debug("no GPU is found: %s", error)
    if not count:
        return None
    found = _call("cudaGetDeviceProperties", 0)
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Gpu(name.rstrip("\0"), f"{found.major}.{found.minor}")


def require_gpu() -> Gpu:
    """The first GPU that is visible.

    Raises
    ------
    BackendUnavailable
        There is none, or the binding is missing.
    """
    gpu = find_gpu()
    if gpu is None:
        raise BackendUnavailable(
            subject="device",
            expected="an NVIDIA GPU with its driver, and the package cuda-bindings",
            found=_count_gpus()[1] or "none of them visible",
            remedy="Choose --device cpu, or run on a machine with a GPU (`nvidia-smi` shows it).",
        )
    return gpu


def _count_gpus() -> tuple[int, str]:
    """How many GPUs are visible, and why CUDA cannot say, if so (a driver that is too old)."""
    # "cuda" first: the search for a part of a package that is not there raises
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
    """What a function of the CUDA runtime gives beside its status.

    Raises
    ------
    RuntimeError
        Its status is not success.
    """
    status, *values = getattr(_runtime(), name)(*args)
    if int(status):
        raise RuntimeError(f"{name}: {_error_text(status)}")
    return values[0] if len(values) == 1 else None


class Buffer:
    """Bytes on the GPU, let go of with the object.

    Parameters
    ----------
    size
        Bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.address = int(_call("cudaMalloc", size))
        weakref.finalize(self, _runtime().cudaFree, self.address)


class Graph:
    """Recorded work, let go of with the object.

    Parameters
    ----------
    recorded
        What the end of a recording gave.
    """

    def __init__(self, recorded: Any) -> None:
        self.handle = _call("cudaGraphInstantiate", recorded, 0)
        weakref.finalize(self, _runtime().cudaGraphExecDestroy, self.handle)


class Stream:
    """A queue of work on the GPU, let go of with the object."""

    def __init__(self) -> None:
        self._handle = _call("cudaStreamCreate")
        self.address = int(self._handle)
        weakref.finalize(self, _runtime().cudaStreamDestroy, self._handle)

    def upload(self, array: NDArray[Any], buffer: Buffer) -> None:
        """Copy a contiguous array to the beginning of a buffer."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyHostToDevice
        _call(
            *("cudaMemcpyAsync", buffer.address, array.ctypes.data, array.nbytes),
            *(kind, self._handle),
        )

    def download(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copy the beginning of a buffer into a contiguous array."""
        kind = _runtime().cudaMemcpyKind.cudaMemcpyDeviceToHost
        _call(
            *("cudaMemcpyAsync", array.ctypes.data, buffer.address, array.nbytes),
            *(kind, self._handle),
        )

    def wait(self) -> None:
        """Return when all work is done."""
        _call("cudaStreamSynchronize", self._handle)

    def record(self, work: Callable[[], None]) -> Graph:
        """What a function would have this stream do, for `launch`; none of it is done."""
        mode = _runtime().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call("cudaStreamBeginCapture", self._handle, mode)
        try:
            work()
        except BaseException:
            # a stream that goes on recording takes no other work
            _runtime().cudaStreamEndCapture(self._handle)
            raise
        recorded = _call("cudaStreamEndCapture", self._handle)
        try:
            return Graph(recorded)
        finally:
            _call("cudaGraphDestroy", recorded)

    def launch(self, graph: Graph) -> None:
        """Do what was recorded."""
        _call("cudaGraphLaunch", graph.handle, self._handle)
