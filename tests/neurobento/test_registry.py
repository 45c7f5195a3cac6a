"""Models are found by name, and refused if a file was changed."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

import neurobento.registry
from neurobento.errors import ModelNotFound, SpecMismatch
from neurobento.files import file_sha256
from neurobento.imaging.atlas import Atlas
from neurobento.registry import (
    Model,
    find_model,
    list_models,
    list_specs,
    model_tag,
    models_folder,
    open_model,
    read_atlas,
)
from neurobento.spec import ModelSpec


def add_model(root: Path, name: str) -> ModelSpec:
    """A model whose ONNX file is its name."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(name.encode())
    digest = hashlib.sha256(name.encode()).hexdigest()
    spec = ModelSpec(name, "1.0.0", "compact", digest, "0" * 64, opset=17)
    spec.write(folder / "spec.json")
    return spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two models, a stray file and an empty folder."""
    add_model(tmp_path, "zebra")
    add_model(tmp_path, "antelope")
    (tmp_path / "README.md").write_text("Models.")
    (tmp_path / "empty").mkdir()
    return tmp_path


def tamper(root: Path, name: str) -> None:
    """Flip one bit of the model's file."""
    path = root / name / "model.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_model_is_found_by_its_folders_name(root: Path) -> None:
    model = find_model("zebra", root)
    assert model.folder == root / "zebra"
    assert model.spec.name == "zebra"
    assert model.onnx.read_bytes() == b"zebra"


def test_finding_is_opening_the_folder(root: Path) -> None:
    assert find_model("antelope", root) == open_model(root / "antelope")


def test_models_and_specs_are_listed_by_name(root: Path) -> None:
    assert [model.spec.name for model in list_models(root)] == ["antelope", "zebra"]
    assert [spec.name for spec in list_specs(root)] == ["antelope", "zebra"]
    assert all(isinstance(model, Model) for model in list_models(root))


def test_a_folder_without_models_lists_none(tmp_path: Path) -> None:
    assert list_models(tmp_path) == list_specs(tmp_path) == []


def test_an_unknown_name_is_answered_with_the_known_ones(root: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"one of antelope, zebra; found 'gnu'"):
        find_model("gnu", root)


def test_an_unknown_name_among_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="the folder is empty"):
        find_model("gnu", tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "zebra/", "../models/zebra", "*"])
def test_a_path_or_a_pattern_is_no_name(root: Path, name: str) -> None:
    with pytest.raises(ModelNotFound):
        find_model(name, root)


def test_a_tampered_onnx_file_is_refused(root: Path) -> None:
    tamper(root, "zebra")
    with pytest.raises(SpecMismatch, match="SHA-256"):
        open_model(root / "zebra")
    with pytest.raises(SpecMismatch, match="SHA-256"):
        find_model("zebra", root)
    with pytest.raises(SpecMismatch, match="SHA-256"):
        list_models(root)


def test_a_tampered_model_does_not_keep_another_from_opening(root: Path) -> None:
    tamper(root, "zebra")
    assert find_model("antelope", root).spec.name == "antelope"


def test_listing_specs_does_not_look_at_the_models(root: Path) -> None:
    tamper(root, "zebra")
    assert [spec.name for spec in list_specs(root)] == ["antelope", "zebra"]


@pytest.mark.parametrize("lost", ["model.onnx", "spec.json"])
def test_half_a_model_is_no_model(root: Path, lost: str) -> None:
    (root / "zebra" / lost).unlink()
    with pytest.raises(ModelNotFound, match="a folder without them"):
        open_model(root / "zebra")


def test_no_folder_is_no_model(root: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such folder") as caught:
        open_model(root / "gnu")
    assert caught.value.subject == str(root / "gnu")


def test_a_broken_spec_is_refused(root: Path) -> None:
    (root / "zebra" / "spec.json").write_text("{")
    with pytest.raises(SpecMismatch):
        open_model(root / "zebra")


def test_without_a_folder_the_models_folder_is_meant(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neurobento.registry, "models_folder", lambda: root)
    assert find_model("zebra") == find_model("zebra", root)
    assert list_models() == list_models(root)
    assert list_specs() == list_specs(root)


def test_the_models_folder_lies_beside_the_package() -> None:
    package = Path(neurobento.registry.__file__).parent
    assert models_folder() == package.parent / "models"


def add_atlas(root: Path, name: str) -> Atlas:
    """Give a model an atlas."""
    atlas = Atlas(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.diag([-1.0, 1, 1, 1]))
    atlas.write(root / name / "atlas.npz")
    spec = ModelSpec.read(root / name / "spec.json")
    with_atlas = dataclasses.replace(spec, atlas_sha256=file_sha256(root / name / "atlas.npz"))
    with_atlas.write(root / name / "spec.json")
    return atlas


def test_a_model_with_an_atlas_gives_positions_that_refer_to_it(root: Path) -> None:
    atlas = add_atlas(root, "zebra")
    plain, mapped = find_model("antelope", root), find_model("zebra", root)
    assert plain.atlas() is None
    assert list(plain.spec.outputs) == ["labels"]
    assert list(mapped.spec.outputs) == ["labels", "positions"]
    assert (plain.spec.answer, mapped.spec.answer) == ("labels", "positions")
    for found in (mapped.atlas(), read_atlas(mapped.spec, root)):
        assert found is not None
        assert np.array_equal(found.labels, atlas.labels)
        assert np.array_equal(found.voxel_to_ras, atlas.voxel_to_ras)


def test_an_atlas_that_is_missing_or_another_one_is_refused(root: Path) -> None:
    add_atlas(root, "zebra")
    model = find_model("zebra", root)
    path = root / "zebra" / "atlas.npz"
    path.write_bytes(path.read_bytes() + b"0")
    with pytest.raises(SpecMismatch, match=r"atlas\.npz"):
        model.atlas()
    path.unlink()
    with pytest.raises(ModelNotFound, match="the atlas of zebra"):
        model.atlas()


def test_a_tag_is_the_name_and_the_beginning_of_the_hash(tmp_path: Path) -> None:
    spec = dataclasses.replace(add_model(tmp_path, "gnu"), onnx_sha256="0123456789abcdef" * 4)
    assert model_tag(spec) == "neurobento-gnu:0123456789abcdef"


def test_a_tag_changes_with_the_model_and_not_with_its_metrics(tmp_path: Path) -> None:
    spec = add_model(tmp_path, "gnu")
    measured = dataclasses.replace(spec, metrics={"dice": 0.9}, version="1.0.1")
    retrained = dataclasses.replace(spec, onnx_sha256="f" * 64)
    assert model_tag(measured) == model_tag(spec)
    assert model_tag(retrained) != model_tag(spec)
