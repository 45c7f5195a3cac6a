"""Thresholds of scans: set by healthy ones, tried on sources that did not set them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import ConfigError
from neurobento.imaging.scan import Scan
from neurobento.spec import ModelSpec
from tests.neurobento.anomaly.known_anomaly import write_known_model
from training.anomaly.scans import DIAMETERS_MM, main, measure, put_in_lesion, table

LOW = list(np.linspace(0.1, 0.2, 19))
HIGH = list(np.linspace(1.0, 1.1, 19))


@pytest.fixture
def scan(phantom: Any) -> Scan:
    return phantom.scan()


@pytest.mark.parametrize("diameter", DIAMETERS_MM)
def test_a_lesion_has_its_diameter_and_its_place_in_tissue(scan: Scan, diameter: float) -> None:
    changed = put_in_lesion(scan, diameter, np.random.default_rng(3))
    places = np.argwhere(changed.array != scan.array)
    assert len(places)
    spans = (np.ptp(places, axis=0) + 1) * scan.voxel_sizes_mm
    assert (spans <= diameter + 2 * np.array(scan.voxel_sizes_mm)).all()
    assert spans.max() >= diameter - 2 * max(scan.voxel_sizes_mm)
    assert changed.space == scan.space


def test_lesions_differ_by_draw_and_leave_the_scan_as_it_is(scan: Scan) -> None:
    before = scan.array.copy()
    random = np.random.default_rng(0)
    kinds = [put_in_lesion(scan, 30, random).array - before for _ in range(20)]
    assert np.array_equal(scan.array, before)
    assert any(kind.min() < 0 for kind in kinds) and any(kind.max() > 0 for kind in kinds)
    # balls and rings: a ring leaves its middle as it was
    assert len({int((kind != 0).sum()) for kind in kinds}) >= 2


def test_a_tenth_of_healthy_scans_is_to_be_expected_above() -> None:
    found = measure({"one": LOW, "other": LOW}, {})
    assert found["above"] == pytest.approx(0.1, abs=0.06)
    assert (found["scans"], found["false_positive_rate"]) == (38, 0.10)


def test_a_source_is_judged_by_the_others() -> None:
    sources = measure({"low": LOW, "high": HIGH}, {})["sources"]
    assert sources["high"]["above_the_others_threshold"] == 1
    assert sources["low"]["above_the_others_threshold"] == 0
    assert sources["low"]["median"] == pytest.approx(0.15)


def test_lesions_are_counted_by_size_and_source() -> None:
    healthy = {"one": LOW, "other": LOW}
    found = measure(healthy, {20.0: {"one": [0.5, 0.0], "other": [0.5, 0.5]}})["lesions"]
    assert found["20 mm"]["above"] == 0.75
    assert found["20 mm"]["by_source"] == {"one": 0.5, "other": 1.0}


@pytest.fixture
def command(tmp_path: Path, phantom: Any) -> list[str]:
    for name in ("a1", "a2", "b1", "b2"):
        image = nib.Nifti1Image(phantom.image, phantom.affine)
        image.set_sform(phantom.affine, 1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
    model = write_known_model(tmp_path)
    sources = [f"--source={name}={tmp_path}/{name}*.nii.gz" for name in "ab"]
    return [str(model), *sources, "-o", str(tmp_path / "scans.json")]


def test_the_command_writes_figures_and_table(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 0
    found = json.loads((tmp_path / "scans.json").read_text())
    assert {name: each["scans"] for name, each in found["sources"].items()} == {"a": 2, "b": 2}
    assert [*found["lesions"]] == ["10 mm", "20 mm", "30 mm", "40 mm"]
    assert found["model"]["name"] == "anomaly"
    assert table(found) in capsys.readouterr().out
    assert str(tmp_path) not in json.dumps(found)


def test_the_threshold_goes_into_the_spec_only_when_asked_for(
    command: list[str], tmp_path: Path
) -> None:
    before = ModelSpec.read(tmp_path / "anomaly/spec.json")
    main(command)
    assert ModelSpec.read(tmp_path / "anomaly/spec.json") == before
    main([*command, "--write"])
    after = ModelSpec.read(tmp_path / "anomaly/spec.json")
    found = json.loads((tmp_path / "scans.json").read_text())
    assert after.detection == before.detection | {"scan_threshold": found["threshold"]}


def test_one_source_is_not_enough_and_a_pattern_without_scans_is_refused(
    command: list[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="two sources"):
        main([each for each in command if not each.startswith("--source=b")])
    with pytest.raises(ConfigError, match="some scans match"):
        main([*command, f"--source=c={tmp_path}/none*"])
