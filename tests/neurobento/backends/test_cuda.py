"""Find the GPU, and use its memory, streams and recordings."""

from __future__ import annotations

import gc
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurobento.backends.cuda import Buffer, Gpu, Stream, find_gpu, require_gpu
from neurobento.errors import BackendUnavailable


def test_the_first_of_several_gpus_is_found_with_its_memory(cuda: Any) -> None:
    assert require_gpu() == find_gpu() == Gpu("NVIDIA GeForce RTX 4090", "8.9")
    cuda.gpus[0].totalGlobalMem = 24 << 30
    assert require_gpu().memory_bytes == 24 << 30
    cuda.gpus.insert(0, SimpleNamespace(name="NVIDIA H100", major=9, minor=0))
    assert find_gpu() == Gpu("NVIDIA H100", "9.0")


def another_package_called_cuda(cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("cuda")
    module.__spec__ = ModuleSpec("cuda", None, is_package=True)
    module.__path__ = []
    monkeypatch.setitem(sys.modules, "cuda", module)
    monkeypatch.delitem(sys.modules, "cuda.bindings")


LACKS = {
    "no GPU": lambda cuda, _: cuda.gpus.clear(),
    "no device": lambda cuda, _: cuda.failing.update(cudaGetDeviceCount=100),
    "no binding": lambda _, monkeypatch: monkeypatch.setitem(sys.modules, "cuda", None),
    "another package": another_package_called_cuda,
}


@pytest.mark.parametrize("lack", LACKS.values(), ids=LACKS)
def test_where_no_gpu_can_be_used_none_is_found(
    cuda: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, lack: Any
) -> None:
    lack(cuda, monkeypatch)
    with caplog.at_level(logging.DEBUG):
        assert find_gpu() is None
    assert caplog.records == []
    with pytest.raises(
        BackendUnavailable, match=r"an NVIDIA GPU with its driver.*found no visible GPU"
    ):
        require_gpu()


@pytest.mark.parametrize("status", [3, 35, 999])
def test_why_cuda_finds_no_gpu_is_told(
    cuda: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    """Without a driver the status is always 35, so there is no warning."""
    cuda.failing["cudaGetDeviceCount"] = status
    with caplog.at_level(logging.DEBUG):
        assert find_gpu() is None
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert f"cudaGetDeviceCount: out of luck ({status})" in record.message
    with pytest.raises(BackendUnavailable) as caught:
        require_gpu()
    assert caught.value.found == f"cudaGetDeviceCount: out of luck ({status})"


def test_what_goes_up_comes_down(cuda: Any) -> None:
    stream, buffer = Stream(), Buffer(4000)
    sent, received = np.arange(700, dtype=np.float32), np.zeros(700, np.float32)
    stream.upload(sent, buffer)
    stream.download(buffer, received)
    stream.wait()
    assert np.array_equal(received, sent)


def test_memory_streams_and_recordings_are_let_go_of_with_their_objects(cuda: Any) -> None:
    stream, buffer = Stream(), Buffer(10)
    assert cuda.held == 2
    del buffer
    gc.collect()
    assert cuda.held == 1
    del stream
    gc.collect()
    assert cuda.held == 0
    stream = Stream()
    graph = stream.record(lambda: None)
    assert (len(cuda.runnables), len(cuda.graphs)) == (1, 0)
    del graph
    gc.collect()
    assert cuda.runnables == {}


def test_recorded_work_is_done_when_it_is_launched_and_each_time(cuda: Any) -> None:
    stream, done = Stream(), []
    graph = stream.record(lambda: cuda.put(stream.address, lambda: done.append(1)))
    stream.wait()
    assert done == []
    for _ in range(2):
        stream.launch(graph)
    stream.wait()
    assert done == [1, 1]


def test_work_that_cannot_run_or_fails_leaves_no_recording_behind(cuda: Any) -> None:
    stream = Stream()
    cuda.failing["cudaGraphInstantiate"] = 2
    with pytest.raises(RuntimeError, match="cudaGraphInstantiate"):
        stream.record(lambda: None)
    assert (cuda.runnables, cuda.graphs) == ({}, {})
    with pytest.raises(ZeroDivisionError):
        stream.record(lambda: 1 / 0)
    assert not cuda.is_recording(stream.address)


@pytest.mark.parametrize(
    ("function", "use"),
    [
        ("cudaMalloc", lambda stream, buffer: Buffer(1)),
        ("cudaStreamCreate", lambda stream, buffer: Stream()),
        ("cudaMemcpyAsync", lambda stream, buffer: stream.upload(np.zeros(1), buffer)),
        ("cudaMemcpyAsync", lambda stream, buffer: stream.download(buffer, np.zeros(1))),
        ("cudaStreamSynchronize", lambda stream, buffer: stream.wait()),
        ("cudaStreamBeginCapture", lambda stream, buffer: stream.record(int)),
        ("cudaStreamEndCapture", lambda stream, buffer: stream.record(int)),
        ("cudaGraphLaunch", lambda stream, buffer: stream.launch(stream.record(int))),
    ],
)
def test_an_error_of_cuda_is_raised_with_its_name_and_text(
    cuda: Any, function: str, use: Any
) -> None:
    stream, buffer = Stream(), Buffer(8)
    cuda.failing[function] = 2
    with pytest.raises(RuntimeError, match=rf"{function}: out of luck \(2\)"):
        use(stream, buffer)


@pytest.mark.gpu
def test_a_real_gpu_gives_back_what_it_was_given() -> None:
    stream, buffer = Stream(), Buffer(1 << 20)
    sent = np.random.default_rng(0).integers(0, 256, 1 << 20, dtype=np.uint8)
    received = np.zeros_like(sent)
    stream.upload(sent, buffer)
    stream.download(buffer, received)
    stream.wait()
    assert np.array_equal(received, sent)
    assert float(require_gpu().capability) >= 7
    assert require_gpu().memory_bytes > 1 << 30


@pytest.mark.gpu
def test_a_real_gpu_without_room_says_so() -> None:
    with pytest.raises(RuntimeError, match="cudaMalloc: out of memory"):
        Buffer(1 << 50)
