"""The latency benchmark: every candidate and batch in one run, with its samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.inference.latency import main
from benchmarks.inference.rounds import time_batch
from benchmarks.runs import Run
from neurobento.errors import ConfigError
from tests.neurobento.anomaly.known_anomaly import write_known_model


@pytest.fixture
def arguments(
    known_model: Path,
    known_labels: Callable[[int], Any],
    write_nifti: Callable[..., Path],
    tmp_path: Path,
    own_environment: None,
) -> list[str]:
    """A quick measurement of the known model."""
    image = write_nifti(known_labels(0) / np.float32(116), np.eye(4), name="image.nii")
    return [
        *(str(image), "-o", str(tmp_path / "run.json"), "--rounds", "2", "--threads", "1"),
        *("--turn", "0"),
        *("--models-folder", str(known_model.parent)),
    ]


def test_a_slow_candidate_is_measured_as_slow() -> None:
    images = np.zeros((1, 1, 2, 2, 2), np.float32)
    assert time_batch(lambda _: time.sleep(0.03), images)["seconds"] >= 0.03
    assert time_batch(lambda _: None, images)["seconds"] < 0.03


@pytest.mark.usefixtures("idle_backends")
def test_a_run_holds_every_candidate_and_batch(arguments: list[str], tmp_path: Path) -> None:
    assert main([*arguments, "--batches", "1", "2"]) == 0
    run = Run.read(tmp_path / "run.json")
    assert list(run.entries) == [
        *("regions pytorch fp32", "regions pytorch fp32 batch 2"),
        *("regions openvino fp32", "regions openvino fp32 batch 2", "regions openvino bf16"),
    ]
    assert all(len(entry.samples["seconds"]) == 2 for entry in run.entries.values())
    assert run.entries["regions openvino fp32 batch 2"].facts["batch"] == 2
    assert set(run.left_out) == {"regions tensorrt fp16", "regions openvino bf16 batch 2"}
    assert run.scenario["threads"] == 1
    assert len(run.models["regions"]) == 64


@pytest.mark.usefixtures("idle_backends")
def test_a_run_is_never_measured_over_another(arguments: list[str]) -> None:
    main(arguments)
    with pytest.raises(ConfigError, match="--resume"):
        main(arguments)
    main([*arguments, "--resume", "--rounds", "3"])
    run = Run.read(Path(arguments[2]))
    assert len(run.entries["regions pytorch fp32"].samples["seconds"]) == 3


@pytest.mark.usefixtures("idle_backends")
@pytest.mark.parametrize("extra", [[], ["--end-to-end", "scan.nii.gz"]])
def test_an_image_or_a_scan_is_measured_not_both(extra: list[str], arguments: list[str]) -> None:
    with pytest.raises(ConfigError, match="Give one of them"):
        main([*(arguments[:1] if extra else ()), *arguments[1:], *extra])


@pytest.mark.usefixtures("idle_backends")
def test_a_candidate_that_is_quick_gives_more_samples(arguments: list[str]) -> None:
    main([*arguments, "--turn", "0.05"])
    entries = Run.read(Path(arguments[2])).entries
    assert all(len(entry.samples["seconds"]) > 4 for entry in entries.values())
    assert {entry.facts["rounds"] for entry in entries.values()} == {2}


def test_a_real_backend_takes_part(arguments: list[str], tmp_path: Path) -> None:
    main([*arguments, "--backends", "openvino", "--precisions", "fp32"])
    samples: Any = Run.read(tmp_path / "run.json").entries["regions openvino fp32"].samples
    assert len(samples["seconds"]) == 2
    assert min(samples["seconds"]) > 0


def test_slices_are_measured_with_models_for_anomalies_alone(
    known_model: Path, tmp_path: Path, own_environment: None
) -> None:
    write_known_model(tmp_path / "models")
    (tmp_path / "models" / "regions").symlink_to(known_model)
    image = tmp_path / "slice.png"
    Image.fromarray(np.random.default_rng(0).integers(1, 255, (64, 64), np.uint8)).save(image)
    command = ["--slice", str(image), "-o", str(tmp_path / "run.json"), "--rounds", "1"]
    command += ["--threads", "1", "--turn", "0", "--backends", "openvino", "--batches", "1", "3"]
    assert main([*command, "--models-folder", str(tmp_path / "models")]) == 0
    run = Run.read(tmp_path / "run.json")
    assert run.kind == "slices"
    assert set(run.models) == {name.split()[0] for name in run.entries}
    assert "regions" not in run.models
    assert {entry.facts["batch"] for entry in run.entries.values()} == {1, 3}
