"""A spec survives its file, and a spec that does not fit is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from neurobento.errors import SpecMismatch
from neurobento.files import file_sha256
from neurobento.spec import SPEC_FORMAT, ModelSpec

ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""Of the three bytes "abc": FIPS 180-2, appendix B.1."""


def spec_of_abc(**fields: Any) -> ModelSpec:
    return ModelSpec("tiny", "1.2.3", "compact", ABC_SHA256, "0" * 64, opset=17, **fields)


@pytest.fixture
def onnx(tmp_path: Path) -> Path:
    """A model file of three bytes; nothing here opens it as ONNX."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"abc")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spec.json"


def test_the_hash_of_a_file_is_the_standards(onnx: Path) -> None:
    assert file_sha256(onnx) == ABC_SHA256


def test_a_spec_survives_its_file(path: Path) -> None:
    spec = spec_of_abc(
        training={"scans": 17, "recipe": {"steps": 3}},
        metrics={"dice": {"mean": 0.8, "sd": None}},
        verification={"agreement": 1.0},
        licence="CC0, não só",
    )
    spec.write(path)
    assert ModelSpec.read(path) == spec


def test_shapes_are_tuples_again_after_reading(path: Path) -> None:
    spec_of_abc().write(path)
    spec = ModelSpec.read(path)
    assert spec.input_shape == (1, 91, 122, 123)
    assert spec.output_shape == (91, 122, 123)


def test_the_file_is_json_and_names_its_format(path: Path) -> None:
    spec_of_abc().write(path)
    values = json.loads(path.read_text())
    assert values["format"] == SPEC_FORMAT == 1
    assert set(values) == {"format", *(f.name for f in dataclasses.fields(ModelSpec))}


def test_writing_replaces_and_leaves_nothing_beside_it(path: Path) -> None:
    spec_of_abc().write(path)
    newer = dataclasses.replace(spec_of_abc(), version="2.0.0")
    newer.write(path)
    assert ModelSpec.read(path) == newer
    assert list(path.parent.iterdir()) == [path]


def test_specs_do_not_share_their_preprocessing() -> None:
    first, second = spec_of_abc(), spec_of_abc()
    first.preprocessing["version"] = -1
    assert second.preprocessing["version"] != -1


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "3", '"spec"', "[]", "{}", '{"format": 1}', '{"format": 99}'],
)
def test_what_is_no_spec_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(SpecMismatch, match="a model spec of format 1") as caught:
        ModelSpec.read(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize(
    "change",
    [
        {"format": SPEC_FORMAT + 1},
        {"format": None},
        {"input_shape": 5},
        {"output_shape": None},
        {"colour": "blue"},
    ],
    ids=str,
)
def test_a_spec_with_one_wrong_entry_is_refused(path: Path, change: dict[str, Any]) -> None:
    spec_of_abc().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SpecMismatch):
        ModelSpec.read(path)


@pytest.mark.parametrize("key", ["format", "name", "onnx_sha256", "opset", "input_shape"])
def test_a_spec_without_a_needed_entry_is_refused(path: Path, key: str) -> None:
    spec_of_abc().write(path)
    values = json.loads(path.read_text())
    del values[key]
    path.write_text(json.dumps(values))
    with pytest.raises(SpecMismatch):
        ModelSpec.read(path)


def test_bytes_that_are_no_text_are_refused(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(SpecMismatch):
        ModelSpec.read(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [("JANE", "a file that is not JSON"), ("[]", "another format"), ('{"format": 9}', "another f")],
)
def test_the_message_says_what_was_found(path: Path, text: str, found: str) -> None:
    path.write_text(text)
    with pytest.raises(SpecMismatch, match=f"found {found}"):
        ModelSpec.read(path)


def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(SpecMismatch, match="found no such file"):
        ModelSpec.read(path)


def test_the_file_a_spec_describes_matches(onnx: Path) -> None:
    spec_of_abc().require_match(onnx)


def test_another_file_does_not_match(onnx: Path) -> None:
    onnx.write_bytes(b"abd")
    with pytest.raises(SpecMismatch, match=r"SHA-256 of the ONNX file") as caught:
        spec_of_abc().require_match(onnx)
    assert ABC_SHA256 in caught.value.expected
    assert caught.value.found == file_sha256(onnx)
    assert caught.value.subject == str(onnx)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"region_table_sha256": "f" * 64}, "region table"),
        ({"output_shape": (96, 128, 128)}, "network grid"),
        ({"input_shape": (1, 96, 128, 128)}, "grid"),
        ({"classes": 95}, "number of classes"),
        ({"preprocessing": {"version": 99}}, "preprocessing version"),
        ({"preprocessing": {}}, "preprocessing version"),
    ],
    ids=str,
)
def test_a_model_made_for_something_else_does_not_match(
    onnx: Path, fields: dict[str, Any], what: str
) -> None:
    with pytest.raises(SpecMismatch, match=what):
        spec_of_abc(**fields).require_match(onnx)
