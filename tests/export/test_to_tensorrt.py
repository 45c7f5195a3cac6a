"""Models become engines, without a GPU where the library can, and only once."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import onnx
import pytest

from export import to_tensorrt
from export.to_tensorrt import build_engine, main
from neurobento.backends.cuda import Gpu
from neurobento.backends.engine import FLAVOURS, PROFILE, read_engine, read_facts
from neurobento.errors import BackendUnavailable, ConfigError, EngineMismatch
from neurobento.files import file_sha256
from neurobento.registry import Model, open_model

MODELS = Path(__file__).resolve().parents[2] / "models"
NETWORKS = ("compact", "unet", "highresnet")
SMS = ("8.9", "12.0")
GPU = Gpu("NVIDIA L4", "8.9")

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="needs the extra rtx: no engine is built",
)


@pytest.fixture(scope="module")
def known(known_model: Path) -> Model:
    return open_model(known_model)


@pytest.fixture
def no_build(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call a build is an error."""
    fail = MagicMock(side_effect=AssertionError("built again"))
    return lambda: monkeypatch.setattr(to_tensorrt, "_build", fail)


@needs_rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_becomes_an_engine_for_two_gpus_without_one(
    network: str, precision: str, tmp_path: Path
) -> None:
    import tensorrt_rtx

    model = open_model(MODELS / network)
    folder = build_engine(model, "tensorrt-rtx", precision, SMS, tmp_path)
    facts = read_facts(folder)
    assert (facts.flavour, facts.library) == ("tensorrt-rtx", tensorrt_rtx.__version__)
    assert facts.targets == ("sm_120", "sm_89")
    assert (facts.precision, facts.profile) == (precision, (1, 1, 8))
    assert facts.onnx_sha256 == model.spec.onnx_sha256
    assert facts.engine_sha256 == file_sha256(folder / "engine.plan")
    assert folder == tmp_path / network / facts.key
    assert len(read_engine(folder)) > (MODELS / network / "weights.pt").stat().st_size / 2


@needs_rtx
@pytest.mark.parametrize("sm", SMS)
def test_an_engine_may_be_for_one_gpu(known: Model, sm: str, tmp_path: Path) -> None:
    folder = build_engine(known, "tensorrt-rtx", "fp32", [sm], tmp_path)
    assert read_facts(folder).targets == (f"sm_{sm.replace('.', '')}",)


@needs_rtx
def test_half_precision_makes_a_smaller_engine(tmp_path: Path) -> None:
    model = open_model(MODELS / "highresnet")
    sizes = {
        precision: len(read_engine(build_engine(model, "tensorrt-rtx", precision, SMS, tmp_path)))
        for precision in ("fp32", "fp16", "bf16")
    }
    assert max(sizes["fp16"], sizes["bf16"]) < 0.8 * sizes["fp32"]


@needs_rtx
@pytest.mark.slow
def test_a_small_network_is_built_in_bf16(published: Any, tmp_path: Path) -> None:
    model = open_model(published.folder)
    folder = build_engine(model, "tensorrt-rtx", "bf16", SMS, tmp_path)
    assert read_facts(folder).precision == "bf16"


@needs_rtx
def test_an_engine_that_is_there_is_not_built_again(
    known: Model, tmp_path: Path, no_build: Callable[[], None]
) -> None:
    first = build_engine(known, "tensorrt-rtx", "fp32", SMS, tmp_path)
    no_build()
    assert build_engine(known, "tensorrt-rtx", "fp32", SMS, tmp_path) == first
    # Also in another order, named twice, and for some of the GPUs.
    assert build_engine(known, "tensorrt-rtx", "fp32", [*SMS[::-1], "8.9"], tmp_path) == first
    assert build_engine(known, "tensorrt-rtx", "fp32", ["8.9"], tmp_path) == first


@needs_rtx
def test_an_engine_for_other_gpus_is_built_beside_it(known: Model, tmp_path: Path) -> None:
    first = build_engine(known, "tensorrt-rtx", "fp32", ["8.9"], tmp_path)
    second = build_engine(known, "tensorrt-rtx", "fp32", SMS, tmp_path)
    assert sorted((tmp_path / "regions").iterdir()) == sorted([first, second])


@needs_rtx
@pytest.mark.parametrize("name", ["engine.plan", "engine.json"])
def test_a_broken_engine_is_built_again(known: Model, name: str, tmp_path: Path) -> None:
    folder = build_engine(known, "tensorrt-rtx", "fp32", SMS, tmp_path)
    (folder / name).write_bytes(b"{")
    assert build_engine(known, "tensorrt-rtx", "fp32", SMS, tmp_path) == folder
    assert len(read_engine(folder)) > 1000


@needs_rtx
@pytest.mark.parametrize("sm", ["9.0", "12.7", "x"])
def test_an_unknown_capability_is_refused_and_the_known_ones_named(
    known: Model, sm: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"one of .*sm_120.*sm_89") as caught:
        build_engine(known, "tensorrt-rtx", "fp32", ["8.9", sm], tmp_path)
    assert caught.value.found == f"sm_{sm.replace('.', '')}"
    assert "current" not in caught.value.expected
    assert list(tmp_path.iterdir()) == []


def test_tensorrt_takes_no_capability(known: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", MagicMock(__version__="10.13.0"))
    with pytest.raises(ConfigError, match=r"found 8\.9, 12\.0\. Omit --sm"):
        build_engine(known, "tensorrt", "fp32", SMS)


@pytest.mark.parametrize(("flavour", "extra"), [("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")])
def test_a_missing_library_is_an_error_that_names_the_extra(
    known: Model, monkeypatch: pytest.MonkeyPatch, flavour: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, FLAVOURS[flavour], None)
    with pytest.raises(BackendUnavailable, match=rf"pip install 'neurobento\[{extra}\]'"):
        build_engine(known, flavour, "fp32", SMS if extra == "rtx" else ())


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_a_capability_a_gpu_is_needed(
    known: Model, monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    monkeypatch.setitem(sys.modules, FLAVOURS[flavour], MagicMock(__version__="10.13.0"))
    monkeypatch.setattr("neurobento.backends.cuda.find_gpu", lambda: None)
    with pytest.raises(BackendUnavailable, match="an NVIDIA GPU"):
        build_engine(known, flavour)


@needs_rtx
def test_without_a_capability_it_is_that_of_the_gpu(
    known: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(to_tensorrt, "require_gpu", lambda: Gpu("NVIDIA RTX", "12.0"))
    assert read_facts(build_engine(known, "tensorrt-rtx", root=tmp_path)).targets == ("sm_120",)


def unreadable_model(known: Model, folder: Path) -> Model:
    """Return the known model with an operator that no runtime has."""
    shutil.copytree(known.folder, folder)
    graph = onnx.load(folder / "model.onnx")
    graph.graph.node[2].op_type = "Guess"
    onnx.save(graph, folder / "model.onnx")
    sha256 = file_sha256(folder / "model.onnx")
    return Model(folder, dataclasses.replace(known.spec, onnx_sha256=sha256))


@needs_rtx
def test_a_model_that_the_library_cannot_read_is_refused(
    known: Model, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = unreadable_model(known, tmp_path / "regions")
    with pytest.raises(EngineMismatch, match="nothing was written") as caught:
        build_engine(model, "tensorrt-rtx", "fp32", SMS, tmp_path / "engines")
    assert "Guess" in caught.value.found
    assert not (tmp_path / "engines").exists()


def fake_tensorrt(engine: bytes | None, timings: bytes) -> MagicMock:
    """Return a TensorRT whose builder gives this engine, and whose cache these timings."""
    library = MagicMock(__version__="10.13.0")
    library.NetworkDefinitionCreationFlag.STRONGLY_TYPED = 1
    builder = library.Builder.return_value
    builder.build_serialized_network.return_value = engine
    config = builder.create_builder_config.return_value
    config.get_timing_cache.return_value.serialize.return_value = timings
    return library


def cached_timings(library: MagicMock) -> bytes:
    """Return the timings that a build began with."""
    config = library.Builder.return_value.create_builder_config.return_value
    (timings,) = config.create_timing_cache.call_args.args
    assert config.set_timing_cache.call_args.args[0] is config.create_timing_cache.return_value
    return bytes(timings)


@pytest.fixture
def build_with(
    known: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Path]:
    """Return a function that builds with a given TensorRT, on a machine with an L4."""
    monkeypatch.setattr(to_tensorrt, "require_gpu", lambda: GPU)

    def build(library: MagicMock, precision: str = "fp32") -> Path:
        monkeypatch.setitem(sys.modules, "tensorrt", library)
        return build_engine(known, "tensorrt", precision, root=tmp_path)

    return build


def test_tensorrt_builds_for_the_gpu_it_runs_on(build_with: Callable[..., Path]) -> None:
    folder = build_with(fake_tensorrt(b"engine", b"timings"), "fp16")
    facts = read_facts(folder)
    assert (facts.flavour, facts.library, facts.precision) == ("tensorrt", "10.13.0", "fp16")
    assert facts.targets == ("NVIDIA L4 sm_89",)
    assert read_engine(folder) == b"engine"


def test_the_graph_decides_the_types_and_tf32_is_off(build_with: Callable[..., Path]) -> None:
    library = fake_tensorrt(b"engine", b"")
    build_with(library)
    builder = library.Builder.return_value
    builder.create_network.assert_called_once_with(1 << 1)
    config = builder.create_builder_config.return_value
    config.clear_flag.assert_called_once_with(library.BuilderFlag.TF32)
    profile = builder.create_optimization_profile.return_value
    profile.set_shape.assert_called_once_with(
        "image", *((batch, 1, 91, 122, 123) for batch in PROFILE)
    )


def test_timings_of_one_build_serve_the_next(
    build_with: Callable[..., Path], tmp_path: Path
) -> None:
    first, second = fake_tensorrt(b"one", b"some"), fake_tensorrt(b"two", b"more")
    build_with(first)
    build_with(second, "fp16")
    assert (cached_timings(first), cached_timings(second)) == (b"", b"some")
    cache = timings_in(tmp_path)
    assert cache.name == "10.13.0-NVIDIA-L4-sm_89.cache"
    assert cache.read_bytes() == b"more"
    assert cache.stat().st_mode & 0o777 == 0o600


def timings_in(root: Path) -> Path:
    (cache,) = (root / "tensorrt").iterdir()
    return cache


@pytest.mark.parametrize("version", ["10.13.0", "10.14.1"])
@pytest.mark.parametrize("gpu", [GPU, Gpu("NVIDIA H100", "9.0")])
def test_timings_are_of_one_gpu_and_one_version(
    build_with: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, version: str, gpu: Gpu
) -> None:
    build_with(fake_tensorrt(b"one", b"some"))
    library = fake_tensorrt(b"two", b"more")
    library.__version__ = version
    monkeypatch.setattr(to_tensorrt, "require_gpu", lambda: gpu)
    build_with(library, "fp16")
    same = (version, gpu) == ("10.13.0", GPU)
    assert cached_timings(library) == (b"some" if same else b"")


@pytest.mark.parametrize("unreadable", [False, True])
def test_timings_that_the_library_refuses_are_not_used(
    build_with: Callable[..., Path], tmp_path: Path, unreadable: bool
) -> None:
    build_with(fake_tensorrt(b"one", b"some"))
    library = fake_tensorrt(b"two", b"more")
    config = library.Builder.return_value.create_builder_config.return_value
    if unreadable:
        config.create_timing_cache.side_effect = lambda timings: None if timings else timings
    else:
        config.set_timing_cache.side_effect = [False, True]
    build_with(library, "fp16")
    assert [call.args for call in config.create_timing_cache.call_args_list] == [(b"some",), (b"",)]
    assert timings_in(tmp_path).read_bytes() == b"more"


@pytest.mark.parametrize("fails", [False, True])
def test_no_timings_are_kept_of_none_or_of_a_failed_build(
    build_with: Callable[..., Path], tmp_path: Path, fails: bool
) -> None:
    library = fake_tensorrt(b"engine", b"some")
    builder = library.Builder.return_value
    if fails:
        builder.build_serialized_network.side_effect = RuntimeError("out of memory")
        with pytest.raises(RuntimeError, match="out of memory"):
            build_with(library)
    else:
        builder.create_builder_config.return_value.get_timing_cache.return_value = None
        build_with(library)
    assert list((tmp_path / "tensorrt").iterdir()) == []


def test_nothing_is_built_where_others_may_write_timings_or_engines(
    build_with: Callable[..., Path], tmp_path: Path, no_build: Callable[[], None]
) -> None:
    library = fake_tensorrt(b"engine", b"some")
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt").chmod(0o777)
    with pytest.raises(EngineMismatch, match="only this user can write"):
        build_with(library)
    library.Builder.return_value.build_serialized_network.assert_not_called()
    (tmp_path / "tensorrt").chmod(0o700)
    build_with(library).chmod(0o777)
    no_build()
    with pytest.raises(EngineMismatch, match="only this user can write"):
        build_with(library)


def test_a_builder_that_gives_no_engine_writes_none(
    build_with: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(EngineMismatch, match="the builder gave no engine"):
        build_with(fake_tensorrt(None, b"timings"))
    assert not (tmp_path / "regions").exists()


@needs_rtx
def test_the_command_builds_every_model_in_every_precision(known: Model, tmp_path: Path) -> None:
    options = ["--flavour", "tensorrt-rtx", "--precision", "fp32", "fp16", "--sm", *SMS]
    assert main([str(known.folder), *options, "--engines", str(tmp_path)]) == 0
    sidecars = [json.loads(path.read_text()) for path in tmp_path.glob("regions/*/engine.json")]
    assert sorted(sidecar["precision"] for sidecar in sidecars) == ["fp16", "fp32"]
    assert all(sidecar["targets"] == ["sm_120", "sm_89"] for sidecar in sidecars)


@pytest.mark.parametrize(("gpu", "expected"), [(GPU, "tensorrt"), (None, "tensorrt-rtx")])
def test_the_command_takes_the_flavour_that_can_build_here(
    known: Model, monkeypatch: pytest.MonkeyPatch, gpu: Gpu | None, expected: str
) -> None:
    built = []
    monkeypatch.setattr(to_tensorrt, "find_gpu", lambda: gpu)
    monkeypatch.setattr(to_tensorrt, "build_engine", lambda *given: built.append(given))
    main([str(known.folder)])
    assert [(flavour, precision) for _, flavour, precision, *_ in built] == [(expected, "fp32")]


def test_one_refused_engine_does_not_end_the_command(
    known: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    built = []

    def build(model: Model, flavour: str, precision: str, *_: Any) -> Path:
        built.append(precision)
        if precision == "bf16":
            raise EngineMismatch(
                subject="regions", expected="a graph", found="too many bits", remedy="Try fp32."
            )
        return Path("engine")

    monkeypatch.setattr(to_tensorrt, "build_engine", build)
    assert main([str(known.folder), "--precision", "bf16", "fp16"]) == 1
    assert built == ["bf16", "fp16"]
    assert "regions bf16: " in caplog.text
    assert "too many bits" in caplog.text


def test_the_command_refuses_what_is_not_installed(
    known: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BackendUnavailable, match="the package tensorrt-rtx"):
        main([str(known.folder), "--flavour", "tensorrt-rtx", "--sm", *SMS])


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("cuda_graph", [False, True])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_real_gpu_gives_the_labels_that_a_cpu_gives(
    published: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flavour: str, cuda_graph: bool
) -> None:
    from export.verification.labels import read_images
    from neurobento.backends import open_backend
    from neurobento.backends.tensorrt import TensorRTBackend

    pytest.importorskip(FLAVOURS[flavour])
    monkeypatch.setenv("NEUROBENTO_ENGINES", str(tmp_path))
    model, images = open_model(published.folder), read_images(published.scans)
    truth = open_backend(model, "onnxruntime", device="cpu").infer(images)
    try:
        build_engine(model, flavour)
    except ConfigError as error:
        pytest.skip(f"not on this GPU: {error.message}")
    backend = TensorRTBackend(model, flavour, "fp32", cuda_graph=cuda_graph)
    for _ in range(3):
        assert (backend.infer(images) == truth).mean() > 0.999
    backend.close()
