"""A checkpoint becomes a model, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from export import to_onnx, verify
from export.to_onnx import OPSET, SMALL, _metrics, main, publish, publish_again
from neurobento.backends import BackendConfig, list_backend_configs
from neurobento.errors import ConfigError, ParityFailure
from neurobento.networks.weights import load_network, read_values
from neurobento.registry import open_model
from neurobento.spec import ModelSpec

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


def graph_of(published: Any) -> Any:
    import onnx

    return onnx.load(published.folder / "model.onnx")


def run(published: Any, images: Any) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(published.folder / "model.onnx")
    return session.run(["labels"], {"image": images})[0]


def published_again(published: Any, folder: Path, **changes: Any) -> ModelSpec:
    given: dict[str, Any] = {
        "checkpoint": published.checkpoint,
        "name": "compact",
        "version": "9.1.0",
        "scans": published.scans,
        "metrics": {},
        "licence": "",
    }
    return publish(**{**given, **changes}, folder=folder)


@pytest.fixture
def old_folder(tmp_path: Path) -> Path:
    """A model that is there already."""
    folder = tmp_path / "models" / "compact"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"old")
    (folder / "spec.json").write_text("old")
    return folder


@pytest.fixture
def no_export(published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that was exported once stands in for each export."""

    def copy(checkpoint: Path, onnx_path: Path) -> None:
        shutil.copy(published.folder / "model.onnx", onnx_path)

    monkeypatch.setattr(to_onnx, "export_onnx", copy)


@pytest.fixture
def one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph that disagrees is to be found in one way to run it."""
    monkeypatch.setattr(
        verify, "list_backend_configs", lambda: [BackendConfig("openvino", "cpu", "fp32")]
    )


@pytest.fixture
def no_verification(published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was verified once stands in for each verification."""
    monkeypatch.setattr(to_onnx, "verify", lambda *_: published.spec.verification)


def test_the_folder_holds_a_model_that_matches_its_spec(published: Any) -> None:
    assert list(contents(published.folder)) == ["model.onnx", "spec.json", "weights.pt"]
    assert open_model(published.folder).spec == published.spec
    assert list(published.folder.parent.iterdir()) == [published.folder]


def test_the_spec_is_complete(published: Any) -> None:
    spec = published.spec
    assert (spec.name, spec.version, spec.network) == ("compact", "9.1.0", "compact")
    assert spec.onnx_sha256 == sha256(published.folder / "model.onnx")
    assert spec.checkpoint_sha256 == sha256(published.checkpoint)
    assert spec.weights_sha256 == sha256(published.folder / "weights.pt")
    assert spec.opset == OPSET
    assert spec.metrics == {"cohort": {"mean": 0.75}}
    assert spec.licence == "none to note"


def test_the_spec_tells_of_the_training(published: Any) -> None:
    training = published.spec.training
    assert training["recipe"] == {"network": "compact", "seed": 7}
    assert (training["steps"], training["hours"]) == (120, 2.0)
    assert (training["best_step"], training["best_validation_dice"]) == (100, 0.8124)


@pytest.mark.usefixtures("no_verification")
def test_the_graph_is_made_from_the_weights_beside_it(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from the checkpoint, whose weights are not rounded."""
    given = []

    def copy(checkpoint: Path, onnx_path: Path) -> None:
        given.append((checkpoint.parent == onnx_path.parent, sha256(checkpoint)))
        shutil.copy(published.folder / "model.onnx", onnx_path)

    monkeypatch.setattr(to_onnx, "export_onnx", copy)
    spec = published_again(published, tmp_path / "models" / "compact")
    assert given == [(True, spec.weights_sha256)]


def test_the_graph_keeps_in_half_precision_what_the_weights_file_does(published: Any) -> None:
    """And in single what was never rounded, or is too small to matter."""
    from onnx import TensorProto, numpy_helper

    tensors = graph_of(published).graph.initializer
    single, half = (
        [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == kind]
        for kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
    )
    assert all(array.size >= SMALL for array in half)
    large = [array for array in single if array.size >= SMALL]
    assert large
    assert not any(np.array_equal(array.astype(np.float16), array) for array in large)
    average = read_values(published.folder / "weights.pt")["average"]
    convolutions = [w.numpy() for w in average.values() if w.shape[2:] == (3, 3, 3)]
    assert convolutions
    found = {array.tobytes() for array in half}
    assert {w.tobytes() for w in convolutions if w.size >= SMALL} <= found


def test_every_backend_and_precision_was_compared(published: Any) -> None:
    verification = published.spec.verification
    for way in list_backend_configs():
        if not way.backend.startswith("pytorch"):
            assert len(verification[str(way)].keys() & {"passed", "not_verified"}) == 1
    assert verification["scans"] == 3
    for name in ("openvino fp32", "onnxruntime fp32"):
        assert verification[name]["passed"]
        assert verification[name]["least_agreement"] >= verification["required_agreement"]


def test_the_verification_names_no_folder_of_the_machine(published: Any) -> None:
    text = json.dumps(published.spec.verification)
    assert "not_verified" in text
    assert str(published.folder.parent) not in text
    assert ".export-" not in text


def test_onnx_gives_the_labels_of_the_network(published: Any) -> None:
    """Of the weights that are shipped beside it."""
    import nibabel as nib
    import torch

    images = np.stack(
        [nib.load(path).get_fdata(dtype=np.float32)[None] for path in published.scans]
    )
    with torch.inference_mode():
        network: Any = load_network(published.folder / "weights.pt")
        truth = network.labels(torch.from_numpy(images)).numpy()
    found = run(published, images)
    assert found.dtype == np.uint8
    assert len(np.unique(truth)) > 3
    assert (found == truth).mean() > 0.999


@pytest.mark.parametrize("count", [1, 3])
def test_the_batch_is_free(published: Any, count: int) -> None:
    """The export's own example is a batch of two."""
    images = np.random.default_rng(3).random((count, 1, 91, 122, 123), dtype=np.float32)
    found = run(published, images)
    assert found.shape == (count, 91, 122, 123)
    assert np.array_equal(found[-1:], run(published, images[-1:]))


def test_names_and_types_are_those_of_the_contract(published: Any) -> None:
    import onnx

    graph = graph_of(published).graph
    (image,), (labels,) = graph.input, graph.output
    assert (image.name, labels.name) == ("image", "labels")
    types = [value.type.tensor_type for value in (image, labels)]
    assert [t.elem_type for t in types] == [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8]
    image_shape, labels_shape = ([d.dim_value for d in t.shape.dim] for t in types)
    assert (image_shape, labels_shape) == ([0, 1, 91, 122, 123], [0, 91, 122, 123])


def test_the_weights_are_inside(published: Any) -> None:
    from onnx import TensorProto

    for tensor in graph_of(published).graph.initializer:
        assert tensor.data_location != TensorProto.EXTERNAL
        assert not tensor.external_data


def test_nothing_of_the_machine_is_inside(published: Any) -> None:
    model = graph_of(published)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # weights are bytes that may spell anything
    text = model.SerializeToString()
    for trace in (str(ROOT), str(published.checkpoint.parent), "site-packages", ".py", "Traceback"):
        assert trace.encode() not in text, trace


def test_the_exporters_notes_are_gone(published: Any) -> None:
    model = graph_of(published)
    graph = model.graph
    entries = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    assert not model.metadata_props
    assert not graph.metadata_props
    assert not any(entry.metadata_props or entry.doc_string for entry in entries)
    assert not any(f.doc_string or f.metadata_props for f in model.functions)


@pytest.mark.usefixtures("no_export", "one_way")
def test_a_graph_that_disagrees_leaves_the_old_model_as_it_was(
    published: Any, old_folder: Path, small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = small(1)
    monkeypatch.setattr(to_onnx, "load_network", lambda _: other)
    before = contents(old_folder)
    with pytest.raises(ParityFailure, match="Nothing was published"):
        published_again(published, old_folder)
    assert contents(old_folder) == before
    assert list(old_folder.parent.iterdir()) == [old_folder]


@pytest.mark.usefixtures("no_export", "no_verification")
def test_a_new_model_replaces_the_old_one(published: Any, old_folder: Path) -> None:
    spec = published_again(published, old_folder, version="9.2.0")
    assert open_model(old_folder).spec == spec
    assert spec.version == "9.2.0"
    assert list(old_folder.parent.iterdir()) == [old_folder]


@pytest.mark.usefixtures("no_export")
def test_a_graph_made_anew_leaves_all_else_as_it_was(published: Any, tmp_path: Path) -> None:
    folder = tmp_path / "compact"
    shutil.copytree(published.folder, folder)
    (folder / "model.onnx").write_bytes(b"of an earlier program")
    stale = dataclasses.replace(
        published.spec, onnx_sha256=sha256(folder / "model.onnx"), verification={}
    )
    stale.write(folder / "spec.json")
    scans = [str(path) for path in published.scans]
    assert main([str(folder), "--scans", *scans]) == 0
    assert open_model(folder).spec == published.spec
    assert contents(folder) == contents(published.folder)


@pytest.mark.usefixtures("no_export", "one_way")
def test_a_graph_made_anew_that_disagrees_changes_nothing(
    published: Any, tmp_path: Path, small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "compact"
    shutil.copytree(published.folder, folder)
    other = small(1)
    monkeypatch.setattr(to_onnx, "load_network", lambda _: other)
    with pytest.raises(ParityFailure):
        publish_again(folder, published.scans)
    assert contents(folder) == contents(published.folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_checkpoint_needs_a_name_and_a_place(
    published: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(published.checkpoint), "--scans", *map(str, published.scans)])
    assert "--name and --output" in capsys.readouterr().err


def test_fewer_than_three_scans_are_refused_before_anything_is_made(
    published: Any, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="at least 3 scans; found 2"):
        published_again(published, tmp_path / "new" / "compact", scans=published.scans[:2])
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_checkpoint_leaves_the_old_model_as_it_was(
    published: Any, old_folder: Path, tmp_path: Path
) -> None:
    text = tmp_path / "best.pt"
    text.write_text("not a checkpoint")
    before = contents(old_folder)
    with pytest.raises(ConfigError, match="a checkpoint of format"):
        published_again(published, old_folder, checkpoint=text)
    assert contents(old_folder) == before
    assert list(old_folder.parent.iterdir()) == [old_folder]


def test_a_model_too_large_to_ship_is_refused(
    published: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx_ir

    monkeypatch.setattr(to_onnx, "LARGEST_MODEL_BYTES", 10)
    proto = graph_of(published)

    class Program:
        model_proto = proto
        model = onnx_ir.from_proto(proto)

    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: Program)
    with pytest.raises(ConfigError, match="at most 10 bytes"):
        published_again(published, tmp_path / "models" / "compact")
    assert not (tmp_path / "models" / "compact").exists()


def test_figures_of_the_checkpoints_own_network_are_taken(tmp_path: Path) -> None:
    checkpoint, report = tmp_path / "best.pt", tmp_path / "anomaly.json"
    torch.save({"format": 1, "recipe": {"network": "mirror"}}, checkpoint)
    methods = {name: {"by": {"chosen": {"auroc": name}}} for name in ("mirror", "others")}
    report.write_text(json.dumps({"methods": methods}))
    assert _metrics(report, checkpoint) == {"test": {"auroc": "mirror"}}
    report.write_text(json.dumps({"methods": {"others": {}}}))
    with pytest.raises(ConfigError, match="figures of mirror; found of others"):
        _metrics(report, checkpoint)
    report.write_text(json.dumps({"summary": {"ds": 1}}))
    assert _metrics(report, checkpoint) == {"ds": 1}
