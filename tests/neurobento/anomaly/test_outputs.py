"""The files of an anomaly, read back with other tools, and what its pictures show."""

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
from matplotlib.text import Text
from PIL import Image

from neurobento.anomaly.detector import AnomalyDetector, ScanAnomaly, SliceAnomaly
from neurobento.anomaly.figures import NOTE, scan_figure, slice_figure
from neurobento.anomaly.fit import fit_slice
from neurobento.anomaly.heat_map_file import heat_map_png
from neurobento.anomaly.outputs import (
    ANOMALY_FORMAT,
    scan_output_files,
    slice_facts,
    slice_output_files,
)
from neurobento.facts import backend_facts
from neurobento.imaging.scan import Scan, read_scan
from tests.neurobento.anomaly.known_anomaly import (
    DETECTION,
    SCAN_THRESHOLD,
    THRESHOLD,
    KnownBackend,
)

SECONDS = {"fit": 0.1234567, "infer": 2.0}
NAME = "JANE_DOE"
SCORES = [0.1, 0.2, 0.9, 0.8, 0.2, 0.1, 0.1, 0.5, 0.1, 0.1, 0.4, 0.1, 0.05, 0.1, 0.1]


@pytest.fixture(scope="module")
def pixels(phantom: Any) -> Any:
    return np.ascontiguousarray(phantom.image[:, ::-1, phantom.shape[2] // 2].T)


@pytest.fixture(scope="module")
def anomaly(pixels: Any) -> SliceAnomaly:
    return AnomalyDetector(KnownBackend()).detect(pixels)


@pytest.fixture(scope="module")
def of_image(pixels: Any, anomaly: SliceAnomaly) -> dict[str, bytes]:
    return slice_output_files(NAME, pixels, anomaly, backend_facts(KnownBackend()), SECONDS)


@pytest.fixture(scope="module")
def scan(phantom_on: Callable[..., Any]) -> Scan:
    """Its slices go down along the second axis."""
    return phantom_on("AIR", (4.0, 5.0, 4.0)).scan()


@pytest.fixture(scope="module")
def scan_anomaly(scan: Scan) -> ScanAnomaly:
    found = AnomalyDetector(KnownBackend(SCORES + [0.1] * 40)).detect_scan(scan)
    return dataclasses.replace(found, score=0.85)


@pytest.fixture(scope="module")
def of_scan(scan: Scan, scan_anomaly: ScanAnomaly) -> dict[str, bytes]:
    return scan_output_files(NAME, scan, scan_anomaly, backend_facts(KnownBackend()), SECONDS)


def facts(files: dict[str, bytes]) -> Any:
    return json.loads(files[f"{NAME}_anomaly.json"])


# --- JSON ---


def test_three_files_are_called_after_the_input(
    of_image: dict[str, bytes], of_scan: dict[str, bytes]
) -> None:
    assert [*of_image] == [f"{NAME}_{e}" for e in ("anomaly.json", "heatmap.png", "overlay.png")]
    assert [*of_scan] == [f"{NAME}_{e}" for e in ("anomaly.json", "heatmap.nii.gz", "overlay.png")]


def test_the_json_says_what_was_found(of_image: dict[str, bytes], anomaly: SliceAnomaly) -> None:
    found = facts(of_image)
    assert found["format"] == ANOMALY_FORMAT == 1
    assert (found["score"], found["threshold"]) == (anomaly.score, THRESHOLD)
    assert found["anomalous"] is (anomaly.score > THRESHOLD)
    assert found["note"] == NOTE == "For research; not a diagnosis."
    assert found["seconds"] == {"fit": 0.1235, "infer": 2.0}


def test_the_json_says_which_model_answered(
    of_image: dict[str, bytes], of_scan: dict[str, bytes]
) -> None:
    for files in (of_image, of_scan):
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
    of_scan: dict[str, bytes], scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    found = facts(of_scan)
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


# --- heat maps ---


def test_the_heat_map_of_a_slice_is_grey_of_a_stated_scale(
    of_image: dict[str, bytes], anomaly: SliceAnomaly
) -> None:
    image = Image.open(io.BytesIO(of_image[f"{NAME}_heatmap.png"]))
    assert image.mode == "I;16"
    scale = facts(of_image)["heat_map"]
    values = np.asarray(image) * scale["value_per_level"]
    assert values == pytest.approx(anomaly.heat_map, abs=scale["value_per_level"])
    assert values.max() == pytest.approx(scale["largest"]) == pytest.approx(1, abs=0.1)
    assert np.asarray(image).max() == scale["levels"] == 65535


def stored(heat_map: Any) -> tuple[Any, float]:
    """The levels of a heat map's PNG, and what one is worth by the facts beside it."""
    anomaly = SliceAnomaly(0.5, 0.3, heat_map, fit_slice(np.eye(40, dtype=np.float32)))
    scale = slice_facts(heat_map, anomaly, {}, {})["heat_map"]["value_per_level"]
    return np.asarray(Image.open(io.BytesIO(heat_map_png(heat_map)))), scale


def test_a_heat_map_of_zeros_is_black() -> None:
    levels, value_per_level = stored(np.zeros((40, 50), np.float32))
    assert not levels.any()
    assert value_per_level == 1


@pytest.mark.parametrize("largest", [1e-30, 1e-6, 3.0, 1e30])
def test_a_heat_map_of_any_size_fills_the_levels(largest: float) -> None:
    heat = np.linspace(0, largest, 2000, dtype=np.float32).reshape(40, 50)
    levels, value_per_level = stored(heat)
    assert levels.max() == 65535
    assert levels * value_per_level == pytest.approx(heat, abs=largest / 65535)


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


def test_nobodys_name_is_in_a_file(of_image: dict[str, bytes], of_scan: dict[str, bytes]) -> None:
    for name, content in {**of_image, **of_scan}.items():
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        assert b"JANE" not in plain + content


def test_the_same_answer_gives_the_same_bytes(
    of_image: dict[str, bytes],
    of_scan: dict[str, bytes],
    pixels: Any,
    anomaly: SliceAnomaly,
    scan: Scan,
) -> None:
    known = backend_facts(KnownBackend())
    assert slice_output_files(NAME, pixels, anomaly, known, SECONDS) == of_image
    found = AnomalyDetector(KnownBackend(SCORES + [0.1] * 40)).detect_scan(scan)
    again = dataclasses.replace(found, score=0.85)
    assert scan_output_files(NAME, scan, again, known, SECONDS) == of_scan


# --- pictures ---


def texts(figure: Any) -> str:
    return "\n".join(each.get_text() for each in figure.findobj(Text))


def decoded(png: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize(("score", "verdict"), [(0.75, ": anomalous"), (0.1, ": not anomalous")])
def test_the_picture_says_score_threshold_and_verdict(
    score: float, verdict: str, pixels: Any, anomaly: SliceAnomaly
) -> None:
    figure = slice_figure(pixels, SliceAnomaly(score, 0.5, anomaly.heat_map, anomaly.fitted))
    assert f"score {score}, threshold 0.5{verdict}\n{NOTE}" in texts(figure)


def test_the_picture_of_a_scan_says_them_too(scan: Scan, scan_anomaly: ScanAnomaly) -> None:
    said = texts(scan_figure(scan, scan_anomaly))
    above = f"4 of {len(scan_anomaly.slices)} slices above that of one"
    assert f"score 0.85, threshold {SCAN_THRESHOLD}: anomalous; {above}\n{NOTE}" in said
    assert "axis 1, feet to head" in said


def test_a_scan_has_no_verdict_where_no_threshold_was_measured(
    scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    without = dataclasses.replace(scan_anomaly, threshold=None)
    assert without.is_anomalous is None
    found = facts(scan_output_files(NAME, scan, without, {}, SECONDS))
    assert (found["threshold"], found["anomalous"]) == (None, None)
    assert "score 0.85, no threshold; 4 of " in texts(scan_figure(scan, without))


def test_the_slice_is_beside_the_slice_with_the_heat_map(
    pixels: Any, anomaly: SliceAnomaly
) -> None:
    heat = np.zeros_like(pixels)
    heat[10:14, 4:9] = 2
    figure = slice_figure(pixels, SliceAnomaly(0.5, 0.3, heat, anomaly.fitted))
    plain, hot, bar = figure.axes
    one, other = (axes.images[0].get_array() for axes in (plain, hot))
    assert one.shape == (*pixels.shape, 3)
    assert np.array_equal((one != other).any(axis=-1), heat > 0)
    assert (one[..., 0] == one[..., 2]).all()
    assert np.ptp(other[10, 4]) > 0.3
    assert bar.get_ylim() == (0, 2)


def test_little_heat_looks_little(pixels: Any, anomaly: SliceAnomaly) -> None:
    """Brightness is measured by the threshold where nothing is above it."""
    figure = slice_figure(pixels, SliceAnomaly(0.01, 0.5, anomaly.heat_map / 1000, anomaly.fitted))
    assert figure.axes[-1].get_ylim() == (0, 0.5)


@pytest.mark.parametrize(
    "odd",
    [
        -np.indices((40, 60), np.float32)[0],
        np.indices((32, 3000), np.float32)[1],
        np.eye(2000, 1500, dtype=np.float32),
        np.float32(1e36) * np.indices((40, 60), np.float32)[0],
    ],
    ids=["negative", "strip", "large", "bright"],
)
def test_odd_slices_are_drawn(odd: Any) -> None:
    fitted = fit_slice(odd)
    heat = fitted.restore(fitted.image)
    files = slice_output_files(NAME, odd, SliceAnomaly(0.5, 0.3, heat, fitted), {}, SECONDS)
    picture = decoded(files[f"{NAME}_overlay.png"])
    assert picture.shape == (560, 1000, 3)
    assert len(np.unique(picture)) > 50
    plain = slice_figure(odd, SliceAnomaly(0.5, 0.3, heat, fitted)).axes[0]
    assert max(plain.images[0].get_array().shape) <= 1024
    height, width = plain.images[0].get_array().shape[:2]
    assert plain.get_aspect() * height / width == pytest.approx(odd.shape[0] / odd.shape[1])


def test_the_slices_of_the_highest_scores_are_shown_apart(
    scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    figure = scan_figure(scan, scan_anomaly)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    last = max(scan_anomaly.slices)
    # 5 mm thick: the second highest lies beside the highest
    shown = [last - k for k in (10, 7, 4, 2)]
    assert titles == [f"slice {k}: {scan_anomaly.slices[k]:.4g}" for k in shown]


def test_a_shown_slice_has_the_left_on_its_left(scan: Scan, scan_anomaly: ScanAnomaly) -> None:
    """The bright blob lies on the left, to the front."""
    above = [axes for axes in scan_figure(scan, scan_anomaly).axes if axes.get_title()]
    image = above[1].images[0].get_array()
    bright = np.argwhere(image[..., 0] > 0.95).mean(axis=0) / image.shape[:2]
    assert (bright < 0.45).all()
    assert above[1].get_aspect() == 1


def test_heat_is_drawn_on_its_slice_in_its_place(scan: Scan, scan_anomaly: ScanAnomaly) -> None:
    """Where the bright blob is, and nowhere else."""
    heat = (scan.array > 200).astype(np.float32)
    slices = scan_anomaly.slices
    panels = scan_figure(scan, ScanAnomaly(0.5, 0.8, 0.3, slices, scan_anomaly.axis, heat)).axes
    seen = set()
    for above, below in zip(panels[:-2:2], panels[1:-2:2], strict=True):
        plain, hot = (axes.images[0].get_array() for axes in (above, below))
        index = int(above.get_title().split(":")[0].removeprefix("slice "))
        coloured = (plain != hot).any(axis=-1)
        assert np.array_equal(coloured, plain[..., 0] > 0.95)
        assert coloured.sum() == np.take(heat, index, scan_anomaly.axis).sum()
        seen.add(bool(coloured.any()))
    assert seen == {True, False}


def test_the_curve_goes_over_all_slices_from_feet_to_head(
    scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    (curve,) = (axes for axes in scan_figure(scan, scan_anomaly).axes if axes.get_legend())
    line, shown, threshold = curve.lines
    assert dict(zip(*line.get_data(), strict=True)) == scan_anomaly.slices
    assert len(shown.get_xdata()) == 4
    assert set(threshold.get_ydata()) == {THRESHOLD}
    # the index grows towards the feet
    left, right = curve.get_xlim()
    assert left > right


def test_a_scan_that_was_turned_round_has_its_curve_the_other_way(phantom: Any) -> None:
    found = AnomalyDetector(KnownBackend()).detect_scan(phantom.scan())
    (curve,) = (axes for axes in scan_figure(phantom.scan(), found).axes if axes.get_legend())
    left, right = curve.get_xlim()
    assert left < right


def test_a_scan_of_few_slices_is_drawn(scan: Scan, scan_anomaly: ScanAnomaly) -> None:
    one = {20: 0.1}
    figure = scan_figure(scan, ScanAnomaly(0.1, 0.8, 0.3, one, 1, np.zeros(scan.shape, np.float32)))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["slice 20: 0.1"]
