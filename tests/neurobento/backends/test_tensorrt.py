"""Run engines with fakes of CUDA and TensorRT, and with the real ones if they are available."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurobento.backends import open_backend
from neurobento.backends.engine import FLAVOURS, PRECISIONS, RECIPE, EngineFacts, write_engine
from neurobento.backends.tensorrt import TensorRTBackend, load_flavour, wanted_engine
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch
from neurobento.registry import Model, open_model

NETWORK = (91, 122, 123)
Draw = Callable[[int], Any]


@pytest.fixture(scope="module")
def model(known_model: Path) -> Model:
    return open_model(known_model)


@pytest.fixture(params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def engines(tensorrt: Any, model: Model, flavour: str) -> dict[str, Path]:
    """Precision -> the folder of an engine in it for this machine."""
    return {
        precision: write_engine(
            model, wanted_engine(model, flavour, precision), f"{precision} engine".encode()
        )
        for precision in PRECISIONS
    }


@pytest.fixture
def backend(engines: Any, model: Model, flavour: str) -> TensorRTBackend:
    return TensorRTBackend(model, flavour, "fp32")


@pytest.fixture(scope="module")
def batch_of(known_labels: Draw) -> Callable[..., tuple[Any, Any]]:
    """Images and the labels that the known model answers."""

    def draw(count: int, first: int = 0) -> tuple[Any, Any]:
        labels = np.stack([known_labels(first + i) for i in range(count)])
        return (labels[:, None] / np.float32(116)).astype(np.float32), labels

    return draw


def verified_in(model: Model, flavour: str, **passed: bool) -> Model:
    results = {f"{flavour} {name}": {"passed": value} for name, value in passed.items()}
    return dataclasses.replace(model, spec=dataclasses.replace(model.spec, verification=results))


@pytest.mark.parametrize(
    ("count", "executed"), [(1, [1]), (3, [3]), (8, [8]), (11, [8, 3]), (16, [8, 8])]
)
def test_labels_are_the_models_in_batches_cut_to_what_the_engine_takes(
    backend: TensorRTBackend, tensorrt: Any, batch_of: Any, count: int, executed: list[int]
) -> None:
    images, labels = batch_of(count)
    found = backend.infer(images)
    assert found.dtype == np.uint8
    assert np.array_equal(found, labels)
    assert tensorrt.executed == executed


def test_sizes_that_alternate_are_replayed_each_from_its_own_recording(
    backend: TensorRTBackend, tensorrt: Any, cuda: Any, batch_of: Any
) -> None:
    launched = []
    for first, count in enumerate((1, 2, 1, 2, 1, 2, 1)):
        images, labels = batch_of(count, first)
        assert np.array_equal(backend.infer(images), labels)
        launched.append(len(cuda.launches))
    assert launched == [0, 0, 1, 2, 3, 4, 5]
    # each once by itself and once for its recording
    assert tensorrt.executed == [1, 2, 1, 2]
    assert len(cuda.runnables) == len(tensorrt.contexts) == 2
    one, two = cuda.launches[:2]
    assert cuda.launches == [one, two, one, two, one]
    # sizes may follow each other in any order
    for first, count in enumerate((1, 1, 3, 1, 1, 1, 3, 3, 3, 2)):
        images, labels = batch_of(count, first)
        assert np.array_equal(backend.infer(images), labels)


def test_a_second_batch_of_a_size_is_recorded_and_replayed_from_then_on(
    backend: TensorRTBackend, tensorrt: Any, cuda: Any, batch_of: Any
) -> None:
    for first in range(4):
        images, labels = batch_of(2, first)
        assert np.array_equal(backend.infer(images), labels)
        assert len(cuda.launches) == first
    # once by itself and once for the recording
    assert tensorrt.executed == [2, 2]
    assert len(set(cuda.launches)) == 1


def test_all_sizes_share_one_block_of_memory(
    backend: TensorRTBackend, flavour: str, tensorrt: Any, cuda: Any, batch_of: Any
) -> None:
    held = len(cuda.memory)
    for count in (1, 2, 3):
        backend.infer(batch_of(count)[0])
    assert len(tensorrt.contexts) == 3
    assert len(cuda.memory) == held
    (config,) = tensorrt.configs
    assert config.strategy == 2
    eager = config.dynamic_shapes_kernel_specialization_strategy
    assert eager == (flavour == "tensorrt-rtx")


def test_a_library_that_cannot_be_given_memory_brings_its_own(
    engines: Any, model: Model, flavour: str, tensorrt: Any, cuda: Any, batch_of: Any
) -> None:
    tensorrt.has_runtime_config = False
    backend = TensorRTBackend(model, flavour, "fp32")
    assert len(cuda.memory) == 2
    for count in (1, 2, 1, 2):
        images, labels = batch_of(count)
        assert np.array_equal(backend.infer(images), labels)
    assert len(cuda.launches) == 2


def test_without_room_for_a_context_the_error_says_so(
    backend: TensorRTBackend, flavour: str, tensorrt: Any, batch_of: Any
) -> None:
    backend.infer(batch_of(1)[0])
    tensorrt.has_memory = False
    with pytest.raises(RuntimeError, match=f"{flavour}: too little GPU memory for a batch of 2"):
        backend.infer(batch_of(2)[0])
    images, labels = batch_of(1, 3)
    assert np.array_equal(backend.infer(images), labels)


def test_without_cuda_graphs_nothing_is_recorded(
    engines: Any, model: Model, flavour: str, tensorrt: Any, cuda: Any, batch_of: Any
) -> None:
    backend = TensorRTBackend(model, flavour, "fp32", cuda_graph=False)
    for first in range(3):
        images, labels = batch_of(1, first)
        assert np.array_equal(backend.infer(images), labels)
    assert tensorrt.executed == [1, 1, 1]
    assert (cuda.launches, cuda.runnables) == ([], {})


@pytest.mark.parametrize("successes", [0, 1])
def test_after_a_refusal_the_size_is_prepared_again(
    backend: TensorRTBackend, tensorrt: Any, batch_of: Any, successes: int
) -> None:
    """Otherwise a recording would include the preparation. The second batch is recorded."""
    images, labels = batch_of(1)
    for _ in range(successes):
        backend.infer(images)
    tensorrt.refuses_work = True
    with pytest.raises(RuntimeError, match="TensorRT refused the work"):
        backend.infer(images)
    tensorrt.refuses_work = False
    for _ in range(3):
        assert np.array_equal(backend.infer(images), labels)


@pytest.mark.parametrize(
    "function", ["cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamEndCapture"]
)
def test_an_error_of_cuda_is_raised(
    backend: TensorRTBackend, cuda: Any, batch_of: Any, function: str
) -> None:
    images, _ = batch_of(1)
    backend.infer(images)
    cuda.failing[function] = 700
    with pytest.raises(RuntimeError, match=rf"{function}: out of luck \(700\)"):
        backend.infer(images)


def test_memory_is_that_of_the_largest_batch_until_all_is_let_go_of(
    backend: TensorRTBackend, cuda: Any, batch_of: Any
) -> None:
    voxels = 91 * 122 * 123
    sizes = [4096, 8 * voxels, 8 * voxels * 4]
    assert sorted(b.nbytes for b in cuda.memory.values()) == sizes
    backend.infer(batch_of(8)[0])
    assert len(cuda.memory) == 3
    for count in (1, 2, 1, 2):
        backend.infer(batch_of(count)[0])
    # the stream, three buffers and two recordings
    assert cuda.held == 6
    backend.close()
    gc.collect()
    assert cuda.held == 0


def test_too_little_memory_is_an_error_that_leaves_nothing_behind(
    engines: Any, model: Model, flavour: str, cuda: Any
) -> None:
    cuda.failing["cudaMalloc"] = 2
    with pytest.raises(RuntimeError, match="cudaMalloc"):
        TensorRTBackend(model, flavour, "fp32")
    gc.collect()
    assert cuda.held == 0


@pytest.mark.parametrize("shape", [NETWORK, (1, *NETWORK), (1, 2, *NETWORK)], ids=str)
def test_other_shapes_are_refused(backend: TensorRTBackend, shape: Any) -> None:
    with pytest.raises(ValueError, match="expected float32 images of shape"):
        backend.infer(np.zeros(shape, np.float32))


def test_details_say_how_the_model_is_run(
    backend: TensorRTBackend, model: Model, flavour: str
) -> None:
    assert (backend.name, backend.spec) == (flavour, model.spec)
    assert backend.details == {
        "library": f"{flavour} 1.7.1.116",
        "device": "NVIDIA GeForce RTX 4090",
        "precision": "fp32",
        "threads": "1",
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_engine_is_the_one_of_the_precision(
    engines: Any, model: Model, flavour: str, tensorrt: Any, precision: str
) -> None:
    opened = open_backend(model, flavour, precision=precision)
    assert opened.details["precision"] == precision
    assert tensorrt.loaded == [f"{precision} engine".encode()]


@pytest.mark.parametrize(
    ("passed", "expected"),
    [
        ({}, "fp32"),
        ({"fp16": True, "bf16": True}, "fp16"),
        ({"fp16": False, "bf16": True}, "bf16"),
        ({"fp16": False}, "fp32"),
    ],
)
def test_by_itself_it_takes_the_quickest_precision_that_was_verified(
    engines: Any, model: Model, flavour: str, passed: dict[str, bool], expected: str
) -> None:
    """What was verified on the other flavour does not count."""
    (other,) = FLAVOURS.keys() - {flavour}
    for verified, precision in ((flavour, expected), (other, "fp32")):
        opened = TensorRTBackend(verified_in(model, verified, **passed), flavour)
        assert opened.details["precision"] == precision


def test_without_an_engine_nothing_else_is_taken(tensorrt: Any, model: Model, flavour: str) -> None:
    with pytest.raises(EngineMismatch, match=r"found no engine.*python -m export.to_tensorrt"):
        open_backend(model, flavour)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda library, _: vars(library.cuda.gpus[0]).update(major=8, minor=6),
            r"for .*sm_89 instead of .*sm_86",
        ),
        (
            lambda library, _: vars(library).update(__version__="1.8.0.7"),
            r"library 1\.7\.1\.116 instead of 1\.8\.0\.7",
        ),
        (
            lambda library, _: vars(library).update(refused=b"fp32 engine"),
            r"an engine that it refuses.*build it again",
        ),
        (lambda _, engine: engine.chmod(0o777), "only this user can write"),
    ],
    ids=["another GPU", "another version", "refused by the library", "written by others"],
)
def test_an_engine_that_does_not_fit_this_machine_is_not_loaded(
    engines: dict[str, Path], model: Model, flavour: str, tensorrt: Any, spoil: Any, message: str
) -> None:
    spoil(tensorrt, engines["fp32"])
    with pytest.raises(EngineMismatch, match=message):
        open_backend(model, flavour, precision="fp32")
    assert tensorrt.loaded == []


def test_an_engine_of_another_model_is_refused_and_every_engine_without_a_gpu(
    engines: Any, model: Model, flavour: str, cuda: Any
) -> None:
    spec = dataclasses.replace(model.spec, onnx_sha256="f" * 64)
    with pytest.raises(EngineMismatch, match=r"onnx_sha256 .* instead of f"):
        open_backend(dataclasses.replace(model, spec=spec), flavour, precision="fp32")
    cuda.gpus.clear()
    with pytest.raises(BackendUnavailable, match="an NVIDIA GPU"):
        open_backend(model, flavour)


def test_what_is_wanted_is_what_this_machine_has(tensorrt: Any, model: Model, flavour: str) -> None:
    target = {"tensorrt": "NVIDIA GeForce RTX 4090 sm_89", "tensorrt-rtx": "sm_89"}[flavour]
    assert wanted_engine(model, flavour, "bf16") == EngineFacts(
        *(flavour, "1.7.1.116", (target,), "bf16", (1, 1, 8), model.spec.onnx_sha256, RECIPE)
    )


@pytest.mark.parametrize(("name", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_a_missing_library_is_an_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, name: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, FLAVOURS[name], None)
    with pytest.raises(BackendUnavailable, match=rf"neurobento\[{extra}\]"):
        load_flavour(name)


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_real_gpu_gives_the_models_labels(
    model: Model,
    flavour: str,
    cuda_graph: bool,
    batch_of: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if importlib.util.find_spec(FLAVOURS[flavour]) is None:
        pytest.skip(f"{flavour} is not installed")
    from export.to_tensorrt import build_engine

    monkeypatch.setenv("NEUROBENTO_ENGINES", str(tmp_path))
    try:
        build_engine(model, flavour)
    except ConfigError as error:
        pytest.skip(f"not on this GPU: {error.message}")
    backend = TensorRTBackend(model, flavour, "fp32", cuda_graph=cuda_graph)
    for count in (1, 3, 1, 3, 1, 3, 11, 11, 8, 8):
        images, labels = batch_of(count)
        assert np.array_equal(backend.infer(images), labels)
    backend.close()
