"""Every model in every backend and precision is a candidate, or there is a reason."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inference.candidates import REFERENCE, add_choices, choose_candidates, open_all
from neurobento.errors import ConfigError, ModelNotFound
from neurobento.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("idle_backends")


@pytest.fixture
def two_models(known_model: Path, tmp_path: Path) -> Path:
    """A folder of the models regions and unet."""
    for name in ("regions", "unet"):
        shutil.copytree(known_model, tmp_path / name)
        spec = ModelSpec.read(tmp_path / name / "spec.json")
        dataclasses.replace(spec, name=name).write(tmp_path / name / "spec.json")
    return tmp_path


def chosen(folder: Path, *extra: str) -> list[Any]:
    """Return the candidates that the options choose among the folder's models."""
    parser = argparse.ArgumentParser()
    add_choices(parser)
    return choose_candidates(parser.parse_args(["--models-folder", str(folder), *extra]))


def test_every_model_and_backend_takes_part_once(two_models: Path) -> None:
    names = [candidate.name for candidate in chosen(two_models)]
    ways = ("pytorch fp32", "openvino fp32", "openvino bf16", "tensorrt fp16")
    assert sorted(names) == sorted(f"{m} {way}" for m in ("regions", "unet") for way in ways)


def test_yardsticks_always_take_part(two_models: Path) -> None:
    few = ("--models", "regions", "--backends", "openvino", "--precisions", "bf16")
    names = [candidate.name for candidate in chosen(two_models, *few)]
    assert names == [REFERENCE, "regions pytorch fp32", "regions openvino bf16"]


def test_without_a_unet_there_is_no_reference(known_model: Path) -> None:
    (only,) = chosen(known_model.parent, "--backends", "pytorch")
    assert only.name == "regions pytorch fp32"


def test_on_a_device_only_what_it_serves_takes_part(two_models: Path) -> None:
    names = {
        device: [candidate.name for candidate in chosen(two_models, "--device", device)]
        for device in ("cpu", "cuda")
    }
    assert {name.split(" ", 1)[1] for name in names["cuda"]} == {"pytorch fp32", "tensorrt fp16"}
    assert not any("tensorrt" in name for name in names["cpu"])


def test_unknown_names_are_refused(two_models: Path) -> None:
    for option in ("--backends", "--precisions"):
        with pytest.raises(ConfigError, match="steam"):
            chosen(two_models, option, "steam")
    with pytest.raises(ModelNotFound):
        chosen(two_models, "--models", "steam")


def test_candidates_that_cannot_run_are_left_out_with_the_reason(
    two_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened, left_out = open_all(chosen(two_models, "--models", "regions"), threads=1)
    assert [candidate.backend for candidate, _ in opened] == [
        *("pytorch", "pytorch", "openvino", "openvino")
    ]
    reason = "expected a GPU; found none. Buy one."
    assert left_out == {"regions tensorrt fp16": reason}
    assert reason in capsys.readouterr().out
