"""The providers of ONNX Runtime, and the errors if one is missing."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from neurobento.backends import open_backend
from neurobento.backends.onnx_runtime import OnnxRuntimeBackend, provider_options
from neurobento.errors import BackendUnavailable, EngineMismatch
from neurobento.registry import Model, open_model

IMAGE = (1, 91, 122, 123)
onnxruntime = pytest.importorskip("onnxruntime")

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@pytest.fixture(scope="module")
def model(known_model: Path) -> Model:
    return open_model(known_model)


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """An ONNX Runtime with all providers; `started` are those that sessions have."""
    state = SimpleNamespace(started=[TENSORRT, CUDA, CPU], asked=[], preloaded=[])

    def open_session(path: str, options: Any, *, providers: Any) -> Any:
        state.asked.append(providers)
        return SimpleNamespace(get_providers=lambda: state.started)

    def preload() -> None:
        state.preloaded.append(len(state.asked))

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    return state


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("NEUROBENTO_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines" / "onnxruntime"


def install_distributions(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def version(name: str) -> str:
        if name not in names:
            raise metadata.PackageNotFoundError(name)
        return "1.31.1"

    monkeypatch.setattr(metadata, "version", version)


def test_two_distributions_over_each_other_are_refused_and_one_is_enough(
    monkeypatch: pytest.MonkeyPatch, model: Model
) -> None:
    for one, other in (
        ("onnxruntime", "onnxruntime-gpu"),
        ("onnxruntime", "onnxruntime-openvino"),
        ("onnxruntime-gpu", "onnxruntime-directml"),
    ):
        install_distributions(monkeypatch, one, other)
        with pytest.raises(BackendUnavailable) as caught:
            open_backend(model, "onnxruntime", device="cpu")
        assert caught.value.found == f"{one} and {other}, installed over each other"
        assert f"pip uninstall -y {one} {other}" in caught.value.remedy
    for name in ("onnxruntime", "onnxruntime-gpu"):
        install_distributions(monkeypatch, name)
        open_backend(model, "onnxruntime", device="cpu", threads=1).close()


def test_a_build_without_the_provider_or_without_tensorrt_is_refused(
    cuda: Any,
    providers: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    model: Model,
    engines: Path,
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(BackendUnavailable, match="the package tensorrt"):
            OnnxRuntimeBackend(model, "tensorrt")
    assert providers.asked == []
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    for provider, missing in (("cuda", CUDA), ("tensorrt", TENSORRT)):
        with pytest.raises(BackendUnavailable, match=f"with {missing}; found only {CPU}"):
            OnnxRuntimeBackend(model, provider)
    assert not engines.exists()


@pytest.mark.parametrize(
    ("provider", "started"), [("cuda", [CPU]), ("tensorrt", [CPU]), ("tensorrt", [CUDA, CPU])]
)
def test_a_provider_that_does_not_start_is_no_reason_to_take_another(
    cuda: Any,
    providers: SimpleNamespace,
    model: Model,
    engines: Path,
    provider: str,
    started: list[str],
) -> None:
    providers.started = started
    with pytest.raises(BackendUnavailable, match="does not start here") as caught:
        OnnxRuntimeBackend(model, provider)
    assert "nvidia-smi" in caught.value.remedy
    assert "pip" not in caught.value.remedy


def test_libraries_of_cuda_are_loaded_before_a_session_on_a_gpu(
    cuda: Any, providers: SimpleNamespace, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ONNX Runtime that loads no libraries is left to find them."""
    OnnxRuntimeBackend(model, "cpu")
    assert providers.preloaded == []
    OnnxRuntimeBackend(model, "cuda")
    # one session was open when the libraries were loaded
    assert providers.preloaded == [1]
    monkeypatch.delattr(onnxruntime, "preload_dlls")
    OnnxRuntimeBackend(model, "cuda")
    assert len(providers.asked) == 3


def test_a_failure_of_onnx_runtime_is_a_runtime_error(
    cuda: Any, providers: SimpleNamespace, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException("out of memory")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        OnnxRuntimeBackend(model, "cuda")


@pytest.mark.parametrize("name", ["onnxruntime", "onnxruntime-tensorrt"])
def test_without_a_gpu_there_is_none(
    cuda: Any, providers: SimpleNamespace, model: Model, name: str
) -> None:
    cuda.gpus.clear()
    with pytest.raises(BackendUnavailable, match="an NVIDIA GPU"):
        open_backend(model, name, device="cuda")
    assert providers.asked == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [("onnxruntime", [CUDA, CPU]), ("onnxruntime-tensorrt", [TENSORRT, CUDA, CPU])],
)
def test_details_name_the_gpu(
    cuda: Any,
    providers: SimpleNamespace,
    model: Model,
    engines: Path,
    name: str,
    expected: list[str],
) -> None:
    opened = open_backend(model, name, device="cuda")
    assert opened.name == name
    assert opened.details["device"] == "NVIDIA GeForce RTX 4090"
    assert opened.details["precision"] == "fp32"
    assert [provider for provider, _ in providers.asked[0]] == expected


def test_a_gpus_provider_computes_in_single_precision_and_the_cpu_has_nodes_that_it_lacks() -> None:
    (_, options), _ = provider_options("cuda", "fp32", IMAGE)
    assert options["use_tf32"] == "0"
    names = {p: [name for name, _ in provider_options(p, "fp32", IMAGE)] for p in ("cpu", "cuda")}
    assert names == {"cpu": [CPU], "cuda": [CUDA, CPU]}


@pytest.mark.parametrize(
    ("precision", "fp16", "bf16"),
    [("fp32", "False", "False"), ("fp16", "True", "False"), ("bf16", "False", "True")],
)
def test_tensorrt_builds_one_engine_of_the_precision_for_all_sizes_of_batch(
    precision: str, fp16: str, bf16: str
) -> None:
    (_, options), *_ = provider_options("tensorrt", precision, IMAGE)
    assert (options["trt_fp16_enable"], options["trt_bf16_enable"]) == (fp16, bf16)
    shapes = [options[f"trt_profile_{name}_shapes"] for name in ("min", "opt", "max")]
    assert shapes == [f"image:{batch}x1x91x122x123" for batch in (1, 1, 8)]


def test_engines_that_onnx_runtime_builds_are_kept_where_nobody_else_may_write(
    cuda: Any, providers: SimpleNamespace, model: Model, engines: Path
) -> None:
    OnnxRuntimeBackend(model, "tensorrt")
    assert engines.stat().st_mode & 0o777 == 0o700
    (_, options), *_ = providers.asked[0]
    assert {options["trt_engine_cache_path"], options["trt_timing_cache_path"]} == {str(engines)}
    engines.chmod(0o777)
    with pytest.raises(EngineMismatch, match="only this user can write"):
        OnnxRuntimeBackend(model, "tensorrt")


@pytest.mark.gpu
def test_a_real_gpu_gives_the_models_labels(model: Model, known_labels: Any) -> None:
    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDA")
    labels = known_labels(5)
    image = (labels / np.float32(116)).astype(np.float32)
    opened = open_backend(model, "onnxruntime", device="cuda")
    assert (opened.infer(image[None, None])[0] == labels).all()
    opened.close()
