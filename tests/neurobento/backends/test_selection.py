"""Choose a backend by name, or let "auto" choose."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from neurobento.backends import BACKENDS, BackendEntry, open_backend, selection
from neurobento.backends.cuda import Gpu
from neurobento.backends.selection import AUTO_ORDER
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch
from neurobento.registry import Model

INSTALLED = [
    name for name, entry in BACKENDS.items() if "cpu" in entry.precisions and entry.is_installed()
]

GPU = Gpu("NVIDIA GeForce RTX 4090", "8.9")


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    find = importlib.util.find_spec

    def hide_packages(*packages: str) -> None:
        def find_others(name: str, package: str | None = None) -> Any:
            return None if name in packages else find(name, package)

        monkeypatch.setattr(importlib.util, "find_spec", find_others)

    return hide_packages


def test_an_unknown_backend_or_device_is_refused_and_the_known_ones_named(model: Model) -> None:
    with pytest.raises(ConfigError) as caught:
        open_backend(model, "abacus")
    assert all(name in caught.value.expected for name in BACKENDS)
    assert "abacus" in caught.value.found
    with pytest.raises(ConfigError, match="auto or one of cpu, cuda; found 'tpu'"):
        open_backend(model, device="tpu")


@pytest.mark.parametrize("name", INSTALLED)
def test_an_unknown_precision_is_refused_and_the_known_ones_named(model: Model, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_backend(model, name, device="cpu", precision="fp7")
    assert all(precision in caught.value.expected for precision in BACKENDS[name].precisions["cpu"])
    assert "fp7" in caught.value.found


def test_a_precision_of_another_backend_or_device_is_refused(model: Model) -> None:
    for name, device, precision in (
        ("onnxruntime", "cpu", "bf16"),
        ("onnxruntime", "cuda", "fp16"),
        ("openvino", "cpu", "fp16"),
        ("pytorch", "cpu", "fp16"),
    ):
        with pytest.raises(ConfigError, match=f"for {name} on {device}"):
            open_backend(model, name, device=device, precision=precision)


def test_a_device_that_a_backend_does_not_serve_is_refused(model: Model, fakes: Fakes) -> None:
    for name, device, served in (
        ("openvino", "cuda", "cpu"),
        ("tensorrt", "cpu", "cuda"),
        ("tensorrt-rtx", "cpu", "cuda"),
        ("onnxruntime-tensorrt", "cpu", "cuda"),
    ):
        with pytest.raises(ConfigError, match=f"auto or one of {served} for the backend {name}"):
            open_backend(model, name, device=device)
    assert fakes.attempts == []


@pytest.mark.parametrize("name", BACKENDS)
def test_what_is_not_installed_is_an_error_that_says_how_to_install_it(
    model: Model, hide: Callable[..., None], name: str
) -> None:
    entry = BACKENDS[name]
    hide(entry.package)
    with pytest.raises(BackendUnavailable, match="pip install") as caught:
        open_backend(model, name)
    assert entry.package in caught.value.expected
    assert (f"neurobento[{entry.extra}]" if entry.extra else entry.package) in caught.value.remedy


@pytest.mark.parametrize("name", [n for n, d in AUTO_ORDER if d == "cpu" and n in INSTALLED])
def test_auto_takes_the_one_that_is_installed_and_without_any_ends_with_an_error(
    model: Model, hide: Callable[..., None], name: str
) -> None:
    packages = {entry.package for entry in BACKENDS.values()}
    hide("cuda", *(packages - {BACKENDS[name].package}))
    opened = open_backend(model, "auto")
    assert opened.name == name
    opened.close()
    hide("cuda", *packages)
    with pytest.raises(BackendUnavailable, match="pip install openvino"):
        open_backend(model)


class Fakes:
    """Fakes of all backends, installed and working unless a test says otherwise."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        # backend, device, precision and threads of each call
        self.attempts: list[tuple[str, str, str, int]] = []
        # by backend and device
        self.unable: dict[tuple[str, str], Exception] = {}
        self._entries = {
            name: BackendEntry("numpy", entry.extra, self._opener(name), entry.precisions)
            for name, entry in BACKENDS.items()
        }
        patch.setattr(selection, "BACKENDS", self._entries)
        self.have_gpu(None)

    def _opener(self, name: str) -> Callable[..., Any]:
        def open_it(model: Model, device: str, precision: str, threads: int) -> Any:
            self.attempts.append((name, device, precision, threads))
            if (name, device) in self.unable:
                raise self.unable[name, device]
            return SimpleNamespace(name=name, device=device, precision=precision)

        return open_it

    def have_gpu(self, gpu: Gpu | None) -> None:
        def require() -> Gpu:
            if gpu is None:
                raise error(BackendUnavailable, "no GPU")
            return gpu

        self._patch.setattr(selection, "find_gpu", lambda: gpu)
        self._patch.setattr(selection, "require_gpu", require)

    def leave_out(self, *names: str) -> None:
        for name in names:
            entry = dataclasses.replace(self._entries[name], package="no_such_package")
            self._entries[name] = entry


def error(kind: type[Any], found: str) -> Any:
    return kind(subject="test", expected="another", found=found, remedy="None.")


NO_ENGINE = error(EngineMismatch, "no engine")

NO_PROVIDER = error(BackendUnavailable, "no provider")

GPU_ORDER = [("tensorrt", "cuda"), ("tensorrt-rtx", "cuda"), ("onnxruntime", "cuda")]


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    return Fakes(monkeypatch)


@pytest.mark.parametrize("unable", range(4))
def test_auto_takes_the_first_on_the_gpu_that_can_run_the_model(
    model: Model, fakes: Fakes, unable: int
) -> None:
    """If none can, a CPU backend runs it."""
    fakes.have_gpu(GPU)
    fakes.unable = dict.fromkeys(GPU_ORDER[:unable], NO_ENGINE)
    opened: Any = open_backend(model)
    expected = [*GPU_ORDER, ("openvino", "cpu")]
    assert (opened.name, opened.device) == expected[unable]
    assert [(name, device) for name, device, *_ in fakes.attempts] == expected[: unable + 1]


def test_auto_passes_over_what_is_not_installed(model: Model, fakes: Fakes) -> None:
    fakes.have_gpu(GPU)
    fakes.leave_out("tensorrt", "tensorrt-rtx")
    assert open_backend(model).name == "onnxruntime"
    assert len(fakes.attempts) == 1


def test_auto_warns_of_what_it_left_out_and_of_a_visible_gpu_that_is_not_used(
    model: Model, fakes: Fakes, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.have_gpu(GPU)
    fakes.unable = {("tensorrt", "cuda"): NO_ENGINE}
    open_backend(model)
    fakes.leave_out("tensorrt", "tensorrt-rtx", "onnxruntime")
    fakes.have_gpu(None)
    open_backend(model)
    fakes.have_gpu(GPU)
    open_backend(model, device="cpu")
    assert len(caplog.records) == 1
    open_backend(model)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    left_out, unused = (record.message for record in caplog.records)
    assert "tensorrt left out: expected another; found no engine" in left_out
    assert unused == "a GPU is visible, but openvino runs on the CPU"


@pytest.mark.parametrize(
    "verification",
    [
        {},
        {"openvino int8": {"not_verified": "no labels"}, "onnxruntime int8": {"passed": True}},
        {"openvino int8": {"passed": False}},
    ],
)
@pytest.mark.parametrize("name", ["openvino", "auto"])
def test_int8_runs_only_where_it_was_verified(
    model: Model, fakes: Fakes, name: str, verification: dict[str, Any]
) -> None:
    """The verification itself may run it as well."""
    spec = dataclasses.replace(model.spec, verification=verification)
    model = dataclasses.replace(model, spec=spec)
    with pytest.raises(BackendUnavailable, match=r"verified in openvino int8.*export\.quantise"):
        open_backend(model, name, precision="int8")
    assert fakes.attempts == []
    open_backend(model, name, precision="int8", unverified=True)
    assert fakes.attempts == [("openvino", "cpu", "int8", 0)]


def test_int8_that_was_verified_runs(model: Model, fakes: Fakes) -> None:
    verification = {"onnxruntime int8": {"passed": True}}
    spec = dataclasses.replace(model.spec, verification=verification)
    open_backend(dataclasses.replace(model, spec=spec), "onnxruntime", precision="int8")
    assert fakes.attempts == [("onnxruntime", "cpu", "int8", 0)]


def test_auto_uses_no_gpu_that_is_missing_or_not_asked_for(model: Model, fakes: Fakes) -> None:
    opened: Any = open_backend(model, threads=3)
    assert (opened.name, opened.device) == ("openvino", "cpu")
    fakes.have_gpu(GPU)
    open_backend(model, device="cpu")
    assert fakes.attempts == [("openvino", "cpu", "auto", threads) for threads in (3, 0)]


def test_auto_does_not_hide_that_an_installed_cpu_backend_fails(model: Model, fakes: Fakes) -> None:
    fakes.unable = {("openvino", "cpu"): NO_PROVIDER}
    with pytest.raises(BackendUnavailable, match="no provider"):
        open_backend(model)
    assert len(fakes.attempts) == 1


def test_a_missing_gpu_and_a_precision_that_none_has_are_refused_before_any_backend_is_tried(
    model: Model, fakes: Fakes
) -> None:
    with pytest.raises(BackendUnavailable, match="no GPU"):
        open_backend(model, device="cuda")
    assert fakes.attempts == []
    with pytest.raises(ConfigError, match="'fp16'"):
        open_backend(model, precision="fp16")
    assert fakes.attempts == []


def test_nothing_replaces_a_requested_gpu_or_precision(model: Model, fakes: Fakes) -> None:
    """With nothing installed for the GPU the error names what there is."""
    fakes.have_gpu(GPU)
    fakes.unable = {**dict.fromkeys(GPU_ORDER, NO_PROVIDER), GPU_ORDER[0]: NO_ENGINE}
    with pytest.raises(EngineMismatch, match="no engine"):
        open_backend(model, device="cuda")
    assert [(name, device) for name, device, *_ in fakes.attempts] == GPU_ORDER
    fakes.attempts.clear()
    fakes.unable = dict.fromkeys(GPU_ORDER, NO_ENGINE)
    with pytest.raises(EngineMismatch):
        open_backend(model, precision="fp16")
    assert [name for name, *_ in fakes.attempts] == ["tensorrt", "tensorrt-rtx"]
    fakes.leave_out("tensorrt", "tensorrt-rtx", "onnxruntime")
    with pytest.raises(BackendUnavailable, match=r"one of the packages .*found none of them"):
        open_backend(model, device="cuda")


@pytest.mark.parametrize(
    ("gpu", "precision", "expected"),
    [
        (GPU, "fp16", "tensorrt cuda"),
        (None, "bf16", "openvino cpu"),
        (None, "fp32", "openvino cpu"),
    ],
)
def test_auto_takes_only_what_has_the_precision(
    model: Model, fakes: Fakes, gpu: Gpu | None, precision: str, expected: str
) -> None:
    fakes.have_gpu(gpu)
    opened: Any = open_backend(model, precision=precision)
    assert (opened.name, opened.device, opened.precision) == (*expected.split(), precision)


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_replaces_a_backend_that_was_named(model: Model, fakes: Fakes, name: str) -> None:
    fakes.have_gpu(GPU)
    fakes.unable = dict.fromkeys([(name, "cpu"), (name, "cuda")], NO_ENGINE)
    with pytest.raises(EngineMismatch, match="no engine"):
        open_backend(model, name)
    assert [tried for tried, *_ in fakes.attempts] == [name]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("gpu", [GPU, None], ids=["gpu", "no-gpu"])
def test_a_backend_takes_the_gpu_if_it_can_and_there_is_one(
    model: Model, fakes: Fakes, name: str, gpu: Gpu | None
) -> None:
    """A backend without another device takes it too, and says what is missing."""
    fakes.have_gpu(gpu)
    open_backend(model, name)
    served: Mapping[str, Any] = BACKENDS[name].precisions
    takes_gpu = "cpu" not in served or (gpu is not None and "cuda" in served)
    assert fakes.attempts == [(name, "cuda" if takes_gpu else "cpu", "auto", 0)]
