"""The command `neurobento anomaly`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobento.cli.main import main
from tests.neurobento.anomaly.known_anomaly import SCAN_THRESHOLD, THRESHOLD, write_known_model
from tests.neurobento.cli.messages import FOUR_PARTS
from tests.neurobento.imaging.slices.files import dicom, encoded, grey, grey_png

Command = Callable[..., int]
CheckRefusal = Callable[..., re.Match[str]]

STAGES = "read ...\nfit ...\ninfer ...\nrestore ...\nwrite ...\n"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_known_model(tmp_path_factory.mktemp("models")).parent


@pytest.fixture
def anomaly(models: Path, tmp_path: Path) -> Callable[..., int]:
    """Run the command on files, output in `tmp_path`/out."""

    def run(*args: str | Path) -> int:
        out = str(tmp_path / "out")
        fixed = ["-o", out, "--models", str(models), "--threads", "1"]
        return main(["anomaly", *map(str, args), *fixed])

    return run


@pytest.fixture
def scan(write_nifti: Callable[..., Path], phantom: Any) -> Path:
    return write_nifti(phantom.image, phantom.affine, "sub-01_T1w.nii.gz")


def written(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir())


def outputs(name: str, heat_map: str) -> list[str]:
    return [f"{name}_anomaly.json", f"{name}_heatmap.{heat_map}", f"{name}_overlay.png"]


def test_a_scan_has_scores_and_a_heat_map_in_its_space(
    anomaly: Command, scan: Path, phantom: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anomaly(scan) == 0
    out = tmp_path / "out"
    assert written(out) == outputs("sub-01_T1w", "nii.gz")
    found = json.loads((out / "sub-01_T1w_anomaly.json").read_text())
    assert (found["threshold"], found["slice_threshold"]) == (SCAN_THRESHOLD, THRESHOLD)
    assert found["anomalous"] is (found["score"] > SCAN_THRESHOLD)
    assert found["axis"] == 2
    assert [*found["seconds"]] == ["read", "fit", "infer", "restore"]
    assert found["backend"]["name"] == "openvino"
    heat_map = nib.load(out / "sub-01_T1w_heatmap.nii.gz")
    assert np.array_equal(heat_map.affine, nib.load(scan).affine)
    index = found["slices"][len(found["slices"]) // 2]["index"]
    pair = heat_map.get_fdata()[:, :, index], phantom.image[:, :, index]
    assert np.corrcoef(*(each.ravel() for each in pair))[0, 1] > 0.97
    captured = capsys.readouterr()
    assert captured.out == f"{out / 'sub-01_T1w_anomaly.json'}\n"
    assert captured.err == STAGES


CONTENT = {
    "JANE.png": grey_png(grey()),
    "JANE.jpeg": encoded(Image.fromarray(grey()), "JPEG"),
    "JANE.PNG": grey_png(grey()),
    "JANE.dcm": dicom(grey()),
    "JANE": dicom(grey()),
}


@pytest.mark.parametrize("name", CONTENT)
def test_an_image_has_a_verdict_and_a_heat_map_on_its_pixels(
    name: str,
    anomaly: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENT[name])
    assert anomaly(path) == 0
    out = tmp_path / "out"
    assert written(out) == outputs("JANE", "png")
    found = json.loads((out / "JANE_anomaly.json").read_text())
    assert found["native_shape"] == list(grey().shape)
    assert "slices" not in found
    assert np.asarray(Image.open(out / "JANE_heatmap.png")).shape == grey().shape
    assert capsys.readouterr().out == f"{out / 'JANE_anomaly.json'}\n"
    assert "JANE" not in caplog.text
    assert not any(b"JANE" in (out / each).read_bytes() for each in written(out))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_scan_file_with_an_axis_of_length_1_is_a_slice(
    axis: int, anomaly: Command, write_nifti: Callable[..., Path], tmp_path: Path
) -> None:
    # whichever axis is thin, it runs upwards in the head
    affine = np.eye(4)[:, [*np.roll(range(3), axis - 2), 3]]
    assert anomaly(write_nifti(np.expand_dims(grey(), axis), affine, name="one.nii")) == 0
    assert written(tmp_path / "out") == outputs("one", "png")


def test_several_files_of_any_kind_and_a_bad_one_stops_no_other(
    anomaly: Command, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, image = tmp_path / "bad.nii.gz", tmp_path / "IM.0001"
    bad.write_text("not a scan")
    image.write_bytes(dicom(grey()))
    assert anomaly(bad, scan, image) == 1
    out = tmp_path / "out"
    captured = capsys.readouterr()
    names = ["sub-01_T1w_anomaly.json", "IM.0001_anomaly.json"]
    assert captured.out.splitlines() == [str(out / name) for name in names]
    assert len(written(out)) == 6
    (message,) = FOUR_PARTS.finditer(captured.err)
    assert message[1] == str(bad)
    assert "PNG, JPEG, DICOM or NIfTI" in message[2]


def test_images_whose_outputs_would_overwrite_each_other_are_refused(
    anomaly: Command, tmp_path: Path, refusal: CheckRefusal
) -> None:
    for name in ("a.png", "a.dcm"):
        (tmp_path / name).write_bytes(CONTENT["JANE.png"])
    status = anomaly(tmp_path / "a.png", tmp_path / "a.dcm")
    assert refusal(status)[1] == str(tmp_path / "a.dcm")


def test_a_series_of_scans_is_refused_as_a_scan_is(
    anomaly: Command, write_nifti: Callable[..., Path], refusal: CheckRefusal
) -> None:
    path = write_nifti(np.ones((20, 20, 20, 3), np.uint8))
    message = refusal(anomaly(path))
    assert message[1] == str(path)
    assert "length 1" not in message[2]


def test_a_missing_file_is_named(
    anomaly: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert anomaly(tmp_path / "none.png") == 1
    expected = f"neurobento: {tmp_path / 'none.png'}: No such file or directory\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("command", "name", "task"),
    [("anomaly", "regions", "parcellation"), ("parcellate", "anomaly", "anomaly")],
)
def test_a_model_for_the_other_task_is_refused(
    command: str,
    name: str,
    task: str,
    scan: Path,
    models: Path,
    known_model: Path,
    tmp_path: Path,
    refusal: CheckRefusal,
) -> None:
    folder = str(known_model.parent if name == "regions" else models)
    options = ["--models", folder, "--model", name, "--threads", "1"]
    message = refusal(main([command, str(scan), "-o", str(tmp_path / "out"), *options]))
    assert (message[1], message[3]) == ("model", f"{name!r}, for {task!r}")


@pytest.mark.parametrize("option", ["--model", "--backend", "--device"])
def test_an_unknown_model_backend_or_device_is_refused(
    anomaly: Command, option: str, scan: Path, refusal: CheckRefusal
) -> None:
    assert refusal(anomaly(scan, option, "grand"))[3] == "'grand'"
