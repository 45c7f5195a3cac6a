"""The pictures of an anomaly: verdict, left and right, and heat where it belongs."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from neurobento.anomaly.detector import AnomalyDetector, ScanAnomaly, SliceAnomaly
from neurobento.anomaly.figures import NOTE, scan_figure, slice_figure
from neurobento.anomaly.fit import fit_slice
from neurobento.anomaly.outputs import scan_output_files, slice_output_files
from neurobento.imaging.scan import Scan
from tests.neurobento.anomaly.known_anomaly import SCAN_THRESHOLD, THRESHOLD, KnownBackend


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


def test_the_picture_of_a_scan_says_them_too_unless_no_threshold_was_measured(
    scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    said = texts(scan_figure(scan, scan_anomaly))
    above = f"4 of {len(scan_anomaly.slices)} slices above that of one"
    assert f"score 0.85, threshold {SCAN_THRESHOLD}: anomalous; {above}\n{NOTE}" in said
    assert "axis 1, feet to head" in said
    without = dataclasses.replace(scan_anomaly, threshold=None)
    assert without.is_anomalous is None
    found = json.loads(scan_output_files("a", scan, without, {}, {})["a_anomaly.json"])
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
    """The threshold is the brightest colour if no value is above it."""
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
    files = slice_output_files("a", odd, SliceAnomaly(0.5, 0.3, heat, fitted), {}, {})
    picture = decoded(files["a_overlay.png"])
    assert picture.shape == (560, 1000, 3)
    assert len(np.unique(picture)) > 50
    plain = slice_figure(odd, SliceAnomaly(0.5, 0.3, heat, fitted)).axes[0]
    assert max(plain.images[0].get_array().shape) <= 1024
    height, width = plain.images[0].get_array().shape[:2]
    assert plain.get_aspect() * height / width == pytest.approx(odd.shape[0] / odd.shape[1])


def test_the_slices_of_the_highest_scores_are_shown_apart_and_the_left_on_their_left(
    scan: Scan, scan_anomaly: ScanAnomaly
) -> None:
    """The bright blob lies on the left, to the front."""
    above = [axes for axes in scan_figure(scan, scan_anomaly).axes if axes.get_title()]
    last = max(scan_anomaly.slices)
    # 5 mm thick: the second highest lies beside the highest
    shown = [last - k for k in (10, 7, 4, 2)]
    titles = [f"slice {k}: {scan_anomaly.slices[k]:.4g}" for k in shown]
    assert [axes.get_title() for axes in above] == titles
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
    scan: Scan, scan_anomaly: ScanAnomaly, phantom: Any
) -> None:
    (curve,) = (axes for axes in scan_figure(scan, scan_anomaly).axes if axes.get_legend())
    line, shown, threshold = curve.lines
    assert dict(zip(*line.get_data(), strict=True)) == scan_anomaly.slices
    assert len(shown.get_xdata()) == 4
    assert set(threshold.get_ydata()) == {THRESHOLD}
    # the index grows towards the feet, in the phantom towards the head
    left, right = curve.get_xlim()
    assert left > right
    found = AnomalyDetector(KnownBackend()).detect_scan(phantom.scan())
    (curve,) = (axes for axes in scan_figure(phantom.scan(), found).axes if axes.get_legend())
    left, right = curve.get_xlim()
    assert left < right


def test_a_scan_of_few_slices_is_drawn(scan: Scan, scan_anomaly: ScanAnomaly) -> None:
    one = {20: 0.1}
    figure = scan_figure(scan, ScanAnomaly(0.1, 0.8, 0.3, one, 1, np.zeros(scan.shape, np.float32)))
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == ["slice 20: 0.1"]
