"""A checkpoint becomes a model, whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from export import publish as publish_module
from export.graph import onnx_file
from export.graph.onnx_file import OPSET
from export.publish import publish, publish_again
from export.to_onnx import main
from export.verification import configs
from neurobento.backends import BackendConfig, list_backend_configs
from neurobento.errors import ConfigError, ParityFailure
from neurobento.registry import open_model
from neurobento.spec import ModelSpec

pytestmark = pytest.mark.slow


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def contents(folder: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(folder.iterdir())}


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
    """An existing model."""
    folder = tmp_path / "models" / "compact"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"old")
    (folder / "spec.json").write_text("old")
    return folder


@pytest.fixture
def no_export(published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the published graph instead of exporting."""

    def copy(checkpoint: Path, onnx_path: Path) -> None:
        shutil.copy(published.folder / "model.onnx", onnx_path)

    monkeypatch.setattr(publish_module, "export_onnx", copy)


@pytest.fixture
def one_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify in one config only; a graph that disagrees differs in it too."""
    monkeypatch.setattr(
        configs, "list_backend_configs", lambda: [BackendConfig("openvino", "cpu", "fp32")]
    )


@pytest.fixture
def no_verification(published: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Return the published verification instead of verifying."""
    monkeypatch.setattr(publish_module, "verify_labels", lambda *_: published.spec.verification)


def test_the_folder_holds_a_model_that_matches_its_spec(published: Any) -> None:
    assert list(contents(published.folder)) == ["model.onnx", "spec.json", "weights.pt"]
    assert open_model(published.folder).spec == published.spec
    assert list(published.folder.parent.iterdir()) == [published.folder]


def test_the_spec_is_complete_and_describes_the_training(published: Any) -> None:
    spec = published.spec
    assert (spec.name, spec.version, spec.network) == ("compact", "9.1.0", "compact")
    assert spec.onnx_sha256 == sha256(published.folder / "model.onnx")
    assert spec.checkpoint_sha256 == sha256(published.checkpoint)
    assert spec.weights_sha256 == sha256(published.folder / "weights.pt")
    assert spec.opset == OPSET
    assert spec.metrics == {"cohort": {"mean": 0.75}}
    assert spec.licence == "none to note"
    training = spec.training
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

    monkeypatch.setattr(publish_module, "export_onnx", copy)
    spec = published_again(published, tmp_path / "models" / "compact")
    assert given == [(True, spec.weights_sha256)]


def test_every_backend_and_precision_was_compared_and_no_folder_is_named(published: Any) -> None:
    verification = published.spec.verification
    for config in list_backend_configs():
        if not config.backend.startswith("pytorch"):
            assert len(verification[str(config)].keys() & {"passed", "not_verified"}) == 1
    assert verification["scans"] == 3
    for name in ("openvino fp32", "onnxruntime fp32"):
        assert verification[name]["passed"]
        assert verification[name]["least_agreement"] >= verification["required_agreement"]
    text = json.dumps(verification)
    assert "not_verified" in text
    assert str(published.folder.parent) not in text
    assert ".export-" not in text


@pytest.mark.usefixtures("no_export", "one_config")
def test_a_graph_that_disagrees_leaves_the_old_model_as_it_was(
    published: Any, old_folder: Path, small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = small(1)
    monkeypatch.setattr(publish_module, "load_network", lambda _: other)
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
def test_a_graph_exported_again_changes_nothing_else(published: Any, tmp_path: Path) -> None:
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


@pytest.mark.usefixtures("no_export", "one_config")
def test_a_graph_exported_again_that_disagrees_changes_nothing(
    published: Any, tmp_path: Path, small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "compact"
    shutil.copytree(published.folder, folder)
    other = small(1)
    monkeypatch.setattr(publish_module, "load_network", lambda _: other)
    with pytest.raises(ParityFailure):
        publish_again(folder, published.scans)
    assert contents(folder) == contents(published.folder)
    assert list(folder.parent.iterdir()) == [folder]


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

    monkeypatch.setattr(onnx_file, "LARGEST_MODEL_BYTES", 10)
    proto = onnx.load(published.folder / "model.onnx")

    class Program:
        model_proto = proto
        model = onnx_ir.from_proto(proto)

    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: Program)
    with pytest.raises(ConfigError, match="at most 10 bytes"):
        published_again(published, tmp_path / "models" / "compact")
    assert not (tmp_path / "models" / "compact").exists()
