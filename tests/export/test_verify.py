"""The command prints and writes what was verified, and keeps what is known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from export import verify as verify_module
from export.verification import configs as configs_module
from export.verify import keep_known, main
from neurobento.backends import BackendConfig
from neurobento.errors import ParityFailure, SpecMismatch
from neurobento.registry import Model, open_model
from neurobento.spec import ModelSpec


def test_results_of_another_machine_are_kept() -> None:
    known = {"tensorrt fp16": {"passed": True, "dice": 0.8}, "scans": 3}
    verified = {"tensorrt fp16": {"not_verified": "no GPU"}, "scans": 4}
    assert keep_known(verified, known) == {"tensorrt fp16": known["tensorrt fp16"], "scans": 4}


@pytest.mark.parametrize("passed", [True, False])
def test_new_results_replace_known_ones(passed: bool) -> None:
    known = {"openvino fp32": {"passed": not passed}, "gone fp32": {"passed": True}}
    verified = {"openvino fp32": {"passed": passed}}
    assert keep_known(verified, known) == verified


@pytest.mark.parametrize("known", [{"least_agreement": 1.0}, {"not_verified": "long ago"}, 7])
def test_results_that_neither_passed_nor_failed_are_not_kept(known: Any) -> None:
    verified = {"tensorrt fp16": {"not_verified": "no GPU"}}
    assert keep_known(verified, {"tensorrt fp16": known}) == verified


@pytest.fixture
def copied(published: Any, tmp_path: Path) -> Path:
    """The published model, to be written to."""
    folder = tmp_path / "compact"
    shutil.copytree(published.folder, folder)
    return folder


@pytest.fixture
def two_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify in a config that every machine has, and one that it lacks."""
    configs = [BackendConfig("openvino", "cpu", "fp32"), BackendConfig("tensorrt", "cuda", "fp16")]
    monkeypatch.setattr(configs_module, "list_backend_configs", lambda: configs)


@pytest.mark.slow
@pytest.mark.usefixtures("two_configs")
def test_the_command_prints_the_result_and_writes_nothing(
    published: Any, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied / "spec.json").read_bytes()
    assert main([str(copied), "--scans", *map(str, published.scans)]) == 0
    printed = json.loads(capsys.readouterr().out)["compact"]
    assert printed.items() <= published.spec.verification.items()
    assert (copied / "spec.json").read_bytes() == before


@pytest.mark.slow
def test_the_command_can_verify_some_backends_only(
    published: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scans = [str(path) for path in published.scans]
    assert main([str(published.folder), "--scans", *scans, "--backends", "onnxruntime"]) == 0
    (result,) = json.loads(capsys.readouterr().out).values()
    assert result["onnxruntime fp32"]["passed"]
    assert not any(name.startswith("openvino") for name in result)


def test_the_command_prints_one_document_and_writes_no_regions(
    known_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Results before a failure are printed too."""
    result = {"scans": 3, "openvino fp32": {"passed": True, "dice_by_region": [1.0, None]}}
    folders = [tmp_path / name for name in ("compact", "unet", "highresnet")]
    for folder in folders:
        shutil.copytree(known_model, folder)
        spec = ModelSpec.read(folder / "spec.json")
        dataclasses.replace(spec, name=folder.name).write(folder / "spec.json")

    def answer(_: Any, model: Model, *__: Any, by_region: bool) -> dict[str, Any]:
        assert by_region
        if model.spec.name == "highresnet":
            raise ParityFailure(subject="it", expected="labels", found="others", remedy="None.")
        return result

    for name in ("read_images", "read_labels", "open_weights", "load_network"):
        monkeypatch.setattr(verify_module, name, lambda given: given)
    monkeypatch.setattr(verify_module, "verify_labels", answer)
    with pytest.raises(ParityFailure):
        main([*map(str, folders), "--scans", "scan.nii.gz", "--write"])
    assert json.loads(capsys.readouterr().out) == {"compact": result, "unet": result}
    written = open_model(folders[1]).spec.verification
    assert written == {"scans": 3, "openvino fp32": {"passed": True}}


@pytest.mark.slow
@pytest.mark.usefixtures("two_configs")
def test_on_demand_the_command_writes_the_result_beside_known_ones(
    published: Any, copied: Path
) -> None:
    spec = ModelSpec.read(copied / "spec.json")
    known = {"tensorrt fp16": {"passed": True, "dice": 0.8}, "openvino fp32": {"passed": False}}
    dataclasses.replace(spec, verification=known).write(copied / "spec.json")
    assert main([str(copied), "--scans", *map(str, published.scans), "--write"]) == 0
    written = open_model(copied).spec
    assert written.verification["tensorrt fp16"] == known["tensorrt fp16"]
    assert written.verification["openvino fp32"] == spec.verification["openvino fp32"]
    assert dataclasses.replace(written, verification={}) == dataclasses.replace(
        spec, verification={}
    )


@pytest.mark.slow
def test_the_command_takes_no_other_weights_than_the_specs(published: Any, copied: Path) -> None:
    with (copied / "weights.pt").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(SpecMismatch, match="SHA-256"):
        main([str(copied), "--scans", *map(str, published.scans), "--write"])
