"""Scores of slices and scans, and heat maps that lie where they should in any orientation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

from neurobento.anomaly.detector import BATCH_SIZE, AnomalyDetector, slice_anomaly
from neurobento.anomaly.fit import fit_slice
from neurobento.errors import ConfigError, EmptyScan, SpecMismatch
from neurobento.imaging.geometry import SLICE_SHAPE
from neurobento.imaging.scan import Scan, space_of
from neurobento.imaging.slices.reader import read_slice
from tests.neurobento.anomaly.known_anomaly import THRESHOLD, KnownBackend

GRIDS = [
    ("RAS", (4.0, 4.0, 4.0), 0.0),
    ("LPI", (3.0, 4.0, 5.0), 0.0),
    ("PSR", (2.0, 5.0, 3.0), 0.2),
    ("ASL", (2.0, 4.0, 6.0), 0.0),
    ("LIA", (4.0, 3.0, 2.0), -0.3),
    ("IRP", (5.0, 2.0, 4.0), 0.1),
]


@pytest.fixture
def backend() -> KnownBackend:
    return KnownBackend()


@pytest.fixture(params=GRIDS, ids=lambda grid: f"{grid[0]}-{grid[2]}")
def stored(request: pytest.FixtureRequest, phantom_on: Callable[..., Any]) -> Any:
    """The phantom as different scanners store it, thick slices and oblique ones among them."""
    return phantom_on(*request.param)


def images_of(backend: KnownBackend) -> Any:
    """(N, 128, 128): all that the network saw."""
    return np.concatenate(backend.batches)[:, 0]


# --- one slice ---


def test_an_anomaly_lies_where_the_error_map_says() -> None:
    pixels = np.zeros((60, 90), np.float32)
    pixels[10:50, 20:70] = 1 + np.indices((40, 50)).sum(0)
    fitted = fit_slice(pixels)
    error_map = np.zeros(SLICE_SHAPE, np.float32)
    error_map[:64, :64] = 2
    anomaly = slice_anomaly(fitted, 0.5, error_map, 0.4)
    assert anomaly.heat_map.shape == pixels.shape
    # the square of 50 x 50 around the head begins in row 5 and column 20
    assert anomaly.heat_map[6:29, 21:44] == pytest.approx(2)
    assert not anomaly.heat_map[32:].any()
    assert not anomaly.heat_map[:, 47:].any()
    assert (anomaly.score, anomaly.threshold, anomaly.fitted) == (0.5, 0.4, fitted)


@pytest.mark.parametrize(("score", "verdict"), [(0.41, True), (0.4, False), (0.39, False)])
def test_a_slice_is_anomalous_above_the_threshold(score: float, verdict: bool) -> None:
    fitted = fit_slice(np.eye(40, dtype=np.float32))
    assert slice_anomaly(fitted, score, fitted.image, 0.4).is_anomalous is verdict


def test_a_slice_is_scored_by_what_the_network_gives(backend: KnownBackend, phantom: Any) -> None:
    pixels = phantom.image[:, :, phantom.shape[2] // 2]
    stages: list[str] = []
    anomaly = AnomalyDetector(backend).detect(pixels, stages.append)
    fitted = fit_slice(pixels)
    assert anomaly.score == pytest.approx(fitted.image.mean(), rel=1e-5)
    assert np.array_equal(anomaly.heat_map, fitted.restore(fitted.image))
    assert anomaly.threshold == THRESHOLD
    assert stages == ["fit", "infer", "restore"]


# --- where things lie in a scan ---


def test_the_heat_map_lies_over_the_scan_and_the_landmark_where_it_truly_is(
    stored: Any, backend: KnownBackend, landmark_mm: Any
) -> None:
    """The network sees the nose up and the left on the left."""
    found = AnomalyDetector(backend).detect_scan(stored.scan())
    assert found.heat_map.shape == stored.shape
    assert found.heat_map.dtype == np.float32
    for index in range(stored.shape[found.axis]):
        heat, image = (np.take(a, index, found.axis) for a in (found.heat_map, stored.image))
        if index in found.slices:
            assert np.corrcoef(heat.ravel(), image.ravel())[0, 1] > 0.97
        else:
            assert not heat.any()
    at = nib.affines.apply_affine(np.linalg.inv(stored.affine), landmark_mm)
    index = round(at[found.axis])
    assert index in found.slices
    hot = np.argwhere(found.heat_map > 0.8)
    middle = hot[hot[:, found.axis] == index].mean(axis=0)
    assert middle == pytest.approx(at, abs=0.75)
    order = sorted(found.slices, reverse="I" in nib.aff2axcodes(stored.affine))
    image = images_of(backend)[order.index(index)]
    row, column = np.argwhere(image > 0.8).mean(axis=0)
    # 22 mm of 75 to the front, and 32 of 60 to the left, where a head of 150 mm has 128 pixels
    assert row == pytest.approx(64 - 22 * 128 / 150, abs=14)
    assert column == pytest.approx(64 - 32 * 128 / 150, abs=14)


@pytest.mark.parametrize("sizes", [(2.0, 6.0, 4.0), (6.0, 2.0, 4.0), (1.5, 1.5, 7.0)])
def test_the_network_sees_square_pixels(sizes: Any, phantom_on: Callable[..., Any]) -> None:
    backend = KnownBackend()
    AnomalyDetector(backend).detect_scan(phantom_on("RAS", sizes).scan())
    image = images_of(backend)[len(images_of(backend)) // 2]
    rows, columns = (np.flatnonzero((image > 0.1).any(axis=axis)) for axis in (1, 0))
    assert np.ptp(rows) == pytest.approx(127, abs=6)
    assert np.ptp(columns) == pytest.approx(127 * 60 / 75, abs=6)


@pytest.mark.parametrize("codes", ["LPI", "SRA", "PIL", "ASR"])
def test_flips_and_turns_of_the_grid_change_nothing(
    codes: str, phantom_on: Callable[..., Any]
) -> None:
    upright = phantom_on("RAS", (4.0, 4.0, 4.0))
    there = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    turned = nib.Nifti1Image(upright.image, upright.affine).as_reoriented(there)
    image = np.asarray(turned.dataobj)
    scan = Scan(image, space_of(image.shape, turned.affine))
    one = AnomalyDetector(KnownBackend()).detect_scan(upright.scan())
    other = AnomalyDetector(KnownBackend()).detect_scan(scan)
    assert np.array_equal(apply_orientation(one.heat_map, there), other.heat_map)
    assert other.score == one.score
    assert codes[other.axis] in "SI"
    count = upright.shape[2]
    up = codes[other.axis] == "S"
    assert {k if up else count - 1 - k: s for k, s in other.slices.items()} == one.slices


def test_a_slice_in_a_file_of_its_own_is_found_as_in_its_scan(
    phantom_on: Callable[..., Any], write_nifti: Callable[..., Path], backend: KnownBackend
) -> None:
    phantom = phantom_on("RAS", (4.0, 4.0, 4.0))
    detector = AnomalyDetector(backend)
    whole = detector.detect_scan(phantom.scan())
    for index in [*whole.slices][::5]:
        path = write_nifti(phantom.image[:, :, index : index + 1], phantom.affine)
        alone = detector.detect(read_slice(path))
        assert alone.score == pytest.approx(whole.slices[index], abs=1e-6)
        assert pytest.approx(whole.heat_map[:, :, index], abs=1e-5) == alone.heat_map[::-1].T


# --- which slices count, and how ---


def test_slices_near_the_top_and_below_the_brain_are_left_out(backend: KnownBackend) -> None:
    """A head of 200 mm upon a neck of the same width, and shoulders, in noisy air."""
    x, y, z = np.indices((50, 60, 110), np.float32) * 4
    wide = np.hypot(x - 100, y - 120) < np.where(z < 80, 95, 80)
    round_top = np.hypot(np.hypot(x - 100, y - 120), np.maximum(z - 300, 0)) < 80
    head = np.where(z < 300, wide, round_top)
    noise = np.abs(np.random.default_rng(1).normal(0, 3, head.shape))
    image = (head * (150 + 20 * np.sin(x / 9)) + noise).astype(np.float32)
    scan = Scan(image, space_of(image.shape, np.diag([4.0, 4.0, 4.0, 1.0])))
    found = AnomalyDetector(backend).detect_scan(scan)
    vertex = 380 / 4
    assert min(found.slices) == pytest.approx(vertex - 90 / 4, abs=1)
    # where the ball's section is half as large as the neck's: 80 sqrt(1/2) above its middle
    assert max(found.slices) == pytest.approx((300 + 80 * np.sqrt(0.5)) / 4, abs=1)
    assert [*found.slices] == [*range(min(found.slices), max(found.slices) + 1)]


@pytest.mark.parametrize("offset", [-1000.0, 500.0])
def test_the_darkest_value_does_not_matter(offset: float, phantom: Any) -> None:
    one = AnomalyDetector(KnownBackend()).detect_scan(phantom.scan())
    moved = Scan(phantom.image + np.float32(offset), phantom.scan().space)
    other = AnomalyDetector(KnownBackend()).detect_scan(moved)
    assert other.slices == pytest.approx(one.slices, abs=1e-3)


class Blocks(KnownBackend):
    """An error map of 1 in some slices, within some rows and columns, and of 0 elsewhere."""

    def __init__(self, high: slice, rows: slice, columns: slice) -> None:
        super().__init__()
        self._block = high, rows, columns

    def run(self, images: Any) -> Any:
        before = sum(len(batch) for batch in self.batches)
        answer = super().run(images)
        high, rows, columns = self._block
        whole = np.zeros((99, *SLICE_SHAPE), np.float32)
        whole[high, rows, columns] = 1
        return answer | {"error_map": whole[before : before + len(images)]}


def ball(thickness: float) -> Scan:
    """A head that is one ball, a little brighter on one side."""
    count = round(200 / thickness)
    x, y, z = np.indices((50, 50, count), np.float32)
    far = np.hypot(np.hypot(4 * x - 98, 4 * y - 98), thickness * z - 98)
    image = ((far < 90) * (100 + x)).astype(np.float32)
    return Scan(image, space_of(image.shape, np.diag([4.0, 4.0, thickness, 1.0])))


MIDDLE = slice(40, 80)


def score(high: slice, rows: slice, columns: slice, scan: Scan) -> float:
    return AnomalyDetector(Blocks(high, rows, columns)).detect_scan(scan).score


@pytest.mark.parametrize(
    ("thickness", "high", "expected"),
    [(5.0, 1, 0.5), (5.0, 2, 1.0), (5.0, 3, 1.0), (2.5, 1, 0.25), (2.5, 3, 0.75), (10.0, 1, 1.0)],
)
def test_a_scan_is_judged_by_ten_millimetres(thickness: float, high: int, expected: float) -> None:
    found = score(slice(5, 5 + high), MIDDLE, MIDDLE, ball(thickness))
    assert found == pytest.approx(expected)


def test_a_scan_is_judged_by_what_is_as_large_as_a_block_and_not_on_the_rim() -> None:
    """What lies where the other half of the head is cut off does not count either."""
    high, scan = slice(4, 9), ball(5.0)
    for edge, expected in ((15, 1.0), (5, 1 / 9), (40, 1.0)):
        block = slice(50, 50 + edge)
        assert score(high, block, block, scan) == pytest.approx(expected)
    everywhere = slice(0, 128)
    assert score(high, everywhere, everywhere, scan) == pytest.approx(1.0)
    assert score(high, everywhere, slice(0, 4), scan) == 0
    image = scan.array.copy()
    image[:20, :25] = 0
    half = Scan(image, scan.space)
    corner = slice(70, 128), slice(90, 128)
    assert score(high, *corner, half) < score(high, *corner, scan)


def test_many_slices_go_through_in_batches(phantom_on: Callable[..., Any]) -> None:
    backend = KnownBackend()
    stages: list[str] = []
    scan = phantom_on("RAS", (6.0, 6.0, 3.0)).scan()
    found = AnomalyDetector(backend).detect_scan(scan, stages.append)
    sizes = [len(batch) for batch in backend.batches]
    assert sum(sizes) == len(found.slices) > 2 * BATCH_SIZE
    assert set(sizes[:-1]) == {BATCH_SIZE}
    assert stages == ["fit", "infer", "restore"]


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_scan_without_a_head_is_empty(value: float, backend: KnownBackend) -> None:
    scan = Scan(np.full((20, 21, 22), value, np.float32), space_of((20, 21, 22), np.eye(4)))
    with pytest.raises(EmptyScan):
        AnomalyDetector(backend).detect_scan(scan)


# --- the model ---


def test_a_model_for_something_else_or_without_a_threshold_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        AnomalyDetector(KnownBackend(task="parcellation"))
    assert "'parcellation'" in caught.value.found
    with pytest.raises(SpecMismatch) as unknown:
        AnomalyDetector(KnownBackend(detection={}))
    assert "threshold" in unknown.value.expected
