"""An int8 form is kept only if it is as good, and run only if it is the one that was verified."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from export import quantise as quantise_module
from export.quantise import main, publish_int8, quantise
from export.verification.labels import read_images
from neurobento.backends import open_backend
from neurobento.errors import BackendUnavailable, ConfigError, ParityFailure, SpecMismatch
from neurobento.registry import Model, open_model

pytestmark = pytest.mark.slow

FILES = {"model.onnx", "spec.json", "weights.pt"}


@pytest.fixture
def model(published: Any, tmp_path: Path) -> Model:
    shutil.copytree(published.folder, tmp_path / "models" / "compact")
    return open_model(tmp_path / "models" / "compact")


@pytest.fixture(scope="module")
def images(published: Any) -> Any:
    return read_images(published.scans)


@pytest.fixture(scope="module")
def truth(network_labels: Any) -> Any:
    """PyTorch's own labels: its Dice is 1."""
    return network_labels


@pytest.fixture(scope="module")
def faithful(
    published: Any, images: Any, truth: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a model with an int8 form beside it that rounds nothing."""
    folder = tmp_path_factory.mktemp("int8") / "models" / "compact"
    shutil.copytree(published.folder, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            quantise_module, "quantise", lambda source, _, target, **__: shutil.copy(source, target)
        )
        spec = publish_int8(folder, [], images, truth)
    assert open_model(folder).spec == spec
    return folder


def contents(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def is_by_channel(node: Any) -> bool:
    return any(a.name == "group" and a.i > 1 for a in node.attribute)


def is_rounded(graph: Any) -> list[bool]:
    """Of each convolution that mixes channels, in their order."""
    makers = {name: node.op_type for node in graph.node for name in node.output}
    layers = [n for n in graph.node if n.op_type == "Conv" and not is_by_channel(n)]
    return [makers.get(node.input[1]) == "DequantizeLinear" for node in layers]


def test_spared_ends_stay_in_single_precision(published: Any, tmp_path: Path) -> None:
    source, target = published.folder / "model.onnx", tmp_path / "int8.onnx"
    quantise(source, published.scans[:1], target, spare_ends=True)
    first, *middle, last = is_rounded(onnx.load(target).graph)
    assert middle
    assert (first, all(middle), last) == (False, True, False)


def test_convolutions_are_rounded_and_nothing_else(published: Any, tmp_path: Path) -> None:
    source, target = published.folder / "model.onnx", tmp_path / "int8.onnx"
    quantise(source, published.scans[:1], target)
    graph, before = onnx.load(target).graph, onnx.load(source).graph
    assert [v.name for v in (*graph.input, *graph.output)] == ["image", "labels"]
    assert list(graph.output) == list(before.output)
    makers = {name: node.op_type for node in graph.node for name in node.output}
    sources = {name: node.input[0] for node in graph.node for name in node.output if node.input}
    weights = set()
    for node in graph.node:
        rounded = [makers.get(name) == "DequantizeLinear" for name in node.input]
        if node.op_type == "Conv" and is_by_channel(node):
            assert not any(rounded)
        elif node.op_type == "Conv":
            assert all(rounded)
            weights.add(sources[node.input[1]])
        if node.op_type in ("InstanceNormalization", "MatMul", "ArgMax"):
            assert not any(rounded[1:])
    types = {c.data_type for c in graph.initializer if c.name in weights}
    assert types == {onnx.TensorProto.INT8}


def test_a_form_as_good_is_published_and_run_by_name(
    published: Any, faithful: Path, images: Any, truth: Any
) -> None:
    model = open_model(faithful)
    assert {path.name for path in faithful.iterdir()} == FILES | {"model_int8.onnx"}
    assert model.spec.int8_sha256 == contents(faithful)["model_int8.onnx"]
    assert model.spec.verification["openvino int8"]["passed"]
    before = published.spec.verification["openvino fp32"]
    assert model.spec.verification["openvino fp32"] == before
    backend = open_backend(model, "openvino", precision="int8", threads=1)
    assert backend.details["precision"] == "int8"
    assert (backend.infer(images[:1]) == truth[:1]).mean() > 0.99
    assert open_backend(model, "openvino").details["precision"] != "int8"


def test_a_form_that_is_worse_is_not_published(
    model: Model, published: Any, images: Any, truth: Any
) -> None:
    """A network that was never trained has no margin between its classes."""
    before = contents(model.folder)
    with pytest.raises(ParityFailure, match="not offered in int8"):
        publish_int8(model.folder, published.scans[:1], images, truth)
    assert contents(model.folder) == before
    assert list(model.folder.parent.iterdir()) == [model.folder]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_a_model_without_int8_says_so(model: Model, name: str) -> None:
    with pytest.raises(BackendUnavailable, match=r"export\.quantise"):
        open_backend(model, name, device="cpu", precision="int8")


def test_another_file_than_the_verified_one_is_refused(faithful: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(faithful, tmp_path / "models" / "compact")
    with (folder / "model_int8.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SpecMismatch, match="SHA-256"):
        open_backend(open_model(folder), "openvino", precision="int8")


def test_scans_without_labels_are_refused(
    model: Model, published: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = [str(path) for path in published.scans]
    with pytest.raises(ConfigError, match=r"training\.parcellation\.label"):
        main([str(model.folder), "--calibrate", scans[0], "--scans", *scans])
