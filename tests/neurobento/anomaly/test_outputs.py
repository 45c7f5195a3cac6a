"""The files of an anomaly, read back with other tools."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from neurobento.anomaly.detector import AnomalyDetector, ScanAnomaly, SliceAnomaly
from neurobento.anomaly.figures import NOTE
from neurobento.anomaly.outputs import ANOMALY_FORMAT, scan_output_files, slice_output_files
from neurobento.facts import backend_facts
from neurobento.imaging.scan import Scan, read_scan
from tests.neurobento.anomaly.known_anomaly import (
    DETECTION,
    SCAN_THRESHOLD,
    SCORES,
    THRESHOLD,
    KnownBackend,
)

Files = dict[str, bytes]

SECONDS = {"fit": 0.1234567, "infer": 2.0}
NAME = "JANE_DOE"


@pytest.fixture(scope="module")
def slice_files(pixels: Any, anomaly: SliceAnomaly) -> Files:
    return slice_output_files(NAME, pixels, anomaly, backend_facts(KnownBackend()), SECONDS)


@pytest.fixture(scope="module")
def scan_files(scan: Scan, scan_anomaly: ScanAnomaly) -> Files:
    return scan_output_files(NAME, scan, scan_anomaly, backend_facts(KnownBackend()), SECONDS)


def facts(files: Files) -> Any:
    return json.loads(files[f"{NAME}_anomaly.json"])


def test_three_files_are_called_after_the_input_and_hold_nobodys_name(
    slice_files: Files, scan_files: Files
) -> None:
    assert [*slice_files] == [f"{NAME}_{e}" for e in ("anomaly.json", "heatmap.png", "overlay.png")]
    assert [*scan_files] == [
        f"{NAME}_{e}" for e in ("anomaly.json", "heatmap.nii.gz", "overlay.png")
    ]
    for name, content in {**slice_files, **scan_files}.items():
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"JANE" not in plain + content


def test_the_json_says_what_was_found_and_which_model_answered(
    slice_files: Files, anomaly: SliceAnomaly, scan_files: Files
) -> None:
    found = facts(slice_files)
    assert found["format"] == ANOMALY_FORMAT == 1
    assert (found["score"], found["threshold"]) == (anomaly.score, THRESHOLD)
    assert found["anomalous"] is (anomaly.score > THRESHOLD)
    assert found["note"] == NOTE == "For research; not a diagnosis."
    assert found["seconds"] == {"fit": 0.1235, "infer": 2.0}
    for files in (slice_files, scan_files):
        found = facts(files)
        assert found["model"] == {
            "name": "anomaly",
            "version": "0.0.1",
            "onnx_sha256": "1" * 64,
            "detection": DETECTION,
        }
        assert found["backend"] == {"name": "known", "device": "CPU"}
        assert found["versions"]["pillow"] == metadata.version("pillow")


def test_the_json_of_a_scan_has_its_slices(
    scan_files: Files, scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    found = facts(scan_files)
    assert found["axis"] == 1
    assert found["score"] == pytest.approx(0.85)
    assert (found["threshold"], found["anomalous"]) == (SCAN_THRESHOLD, True)
    assert found["slice_threshold"] == THRESHOLD
    assert found["native_shape"] == list(scan.shape)
    assert {each["index"]: each["score"] for each in found["slices"]} == scan_anomaly.slices
    # the scores were given from the lowest slice on, and the index goes down
    assert [each["score"] for each in found["slices"]][::-1][:15] == pytest.approx(SCORES)
    assert [each["anomalous"] for each in found["slices"]].count(True) == 4
    assert found["slices_above_threshold"] == 4


def test_no_number_that_json_has_not_is_written(pixels: Any, anomaly: SliceAnomaly) -> None:
    odd = SliceAnomaly(float("nan"), THRESHOLD, anomaly.heat_map, anomaly.fitted)
    with pytest.raises(ValueError, match="JSON"):
        slice_output_files(NAME, pixels, odd, {}, SECONDS)


def test_the_heat_map_of_a_slice_is_grey_of_a_stated_scale(
    slice_files: Files, anomaly: SliceAnomaly
) -> None:
    image = Image.open(io.BytesIO(slice_files[f"{NAME}_heatmap.png"]))
    assert image.mode == "I;16"
    scale = facts(slice_files)["heat_map"]
    values = np.asarray(image) * scale["value_per_level"]
    assert values == pytest.approx(anomaly.heat_map, abs=scale["value_per_level"])
    assert values.max() == pytest.approx(scale["largest"]) == pytest.approx(1, abs=0.1)
    assert np.asarray(image).max() == scale["levels"] == 65535


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_heat_map_of_a_scan_stands_on_its_grid(
    kind: Any, phantom_on: Callable[..., Any], write_nifti: Callable[..., Path]
) -> None:
    turned = phantom_on("PSR", (3.0, 5.0, 4.0), 0.2)
    path = write_nifti(
        turned.image, turned.affine, kind=kind, qform_code=2, sform_code=4, descrip=b"JANE DOE"
    )
    scan = read_scan(path)
    found = AnomalyDetector(KnownBackend()).detect_scan(scan)
    files = scan_output_files(NAME, scan, found, backend_facts(KnownBackend()), SECONDS)
    image = kind.from_bytes(gzip.decompress(files[f"{NAME}_heatmap.nii.gz"]))
    theirs = nib.load(path)
    assert type(image) is type(theirs)
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(image.dataobj), found.heat_map)
    assert np.array_equal(image.affine, theirs.affine)
    assert image.get_sform(coded=True)[1] == 4
    assert image.get_qform(coded=True)[1] == 2
    assert np.array_equal(image.get_qform(), theirs.get_qform())
    assert image.header.get_zooms() == theirs.header.get_zooms()
    assert image.header["intent_code"] == 0


def test_the_same_answer_gives_the_same_bytes(
    slice_files: Files, scan_files: Files, pixels: Any, anomaly: SliceAnomaly, scan: Scan
) -> None:
    known = backend_facts(KnownBackend())
    assert slice_output_files(NAME, pixels, anomaly, known, SECONDS) == slice_files
    found = AnomalyDetector(KnownBackend(SCORES + [0.1] * 40)).detect_scan(scan)
    again = dataclasses.replace(found, score=0.85)
    assert scan_output_files(NAME, scan, again, known, SECONDS) == scan_files
