"""The head on the network's grid, and values mapped back to the slice."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from neurobento.anomaly.fit import FittedSlice, fit_slice
from neurobento.imaging.geometry import SLICE_SHAPE
from neurobento.imaging.slices.reader import read_slice
from tests.neurobento.imaging.slices.files import SHAPE, encoded, grey_png


def head(
    shape: tuple[int, int] = (256, 240),
    centre: tuple[float, float] = (120, 110),
    radii: tuple[float, float] = (90, 70),
) -> Any:
    """A head seen from above on air of zero: scalp, brain, and one bright spot on its left."""
    y, x = np.indices(shape, dtype=np.float32)
    down, right = (y - centre[0]) / radii[0], (x - centre[1]) / radii[1]
    distance = np.hypot(down, right)
    image = 110 + 20 * np.cos(4 * right) + 15 * np.sin(3 * down)
    image = np.where(distance > 0.9, 170, image)
    image = np.where(np.hypot(down - 0.2, right + 0.4) < 0.15, 220, image)
    return np.where(distance < 1, image, 0).astype(np.float32)


def noisy(pixels: Any, seed: int = 1) -> Any:
    """With the noise of a magnitude image, in the air too."""
    real, imaginary = np.random.default_rng(seed).normal(0, 3, (2, *pixels.shape))
    return np.hypot(pixels + real, imaginary).astype(np.float32)


def difference(one: FittedSlice, other: FittedSlice) -> float:
    """Mean over the grid; the head itself is about 0.4."""
    return float(np.abs(one.image - other.image).mean())


@pytest.mark.parametrize(
    ("shape", "centre", "radii"),
    [
        ((256, 240), (120, 110), (90, 70)),
        ((512, 600), (200, 420), (150, 120)),
        ((64, 64), (30, 34), (20, 25)),
        ((400, 120), (180, 60), (70, 55)),
        ((120, 900), (60, 300), (50, 55)),
        ((1000, 900), (500, 450), (450, 380)),
    ],
)
@pytest.mark.parametrize("change", [np.array, noisy], ids=["clean", "noisy"])
def test_the_head_fills_the_middle_of_the_grid(
    shape: tuple[int, int],
    centre: tuple[float, float],
    radii: tuple[float, float],
    change: Callable[..., Any],
) -> None:
    fitted = fit_slice(change(head(shape, centre, radii)))
    assert fitted.image.shape == SLICE_SHAPE
    assert fitted.image.dtype == np.float32
    assert fitted.shape == shape
    inside = fitted.image > 0.1
    assert ndimage.center_of_mass(inside) == pytest.approx((63.5, 63.5), abs=2)
    longer, shorter = np.ptp(np.argwhere(inside), axis=0)[[*np.argsort(radii)[::-1]]] + 1
    assert longer == pytest.approx(128, abs=8)
    assert shorter == pytest.approx(128 * min(radii) / max(radii), abs=8)
    assert fitted.edge == pytest.approx(2 * max(radii), abs=0.06 * max(radii) + 3)
    middle = np.add(fitted.corner, (fitted.edge - 1) / 2)
    assert middle == pytest.approx(centre, abs=0.03 * max(radii) + 1.5)


@pytest.mark.parametrize("change", [np.array, noisy], ids=["clean", "noisy"])
def test_values_are_between_0_and_1_and_air_is_0(change: Callable[..., Any]) -> None:
    """The head stays upright and is not mirrored."""
    image = fit_slice(change(head())).image
    assert image.min() == 0
    assert image.max() == 1
    assert not image[:8, :8].any()
    assert 0.3 < image[image > 0].mean() < 0.9
    if change is np.array:
        spot = ndimage.center_of_mass(image > 0.97)
        assert spot == pytest.approx((64 + 0.2 * 64, 64 - 0.4 * 64 * 70 / 90), abs=2)


def lettered(pixels: Any) -> Any:
    """With a name in a corner, a mark beside the head and a ruler along the right edge."""
    pixels = pixels.copy()
    for letter in range(6):
        left = 6 + 14 * letter
        pixels[6:22, left : left + 3] = 255
        pixels[12:15, left : left + 10] = 255
    pixels[100:116, 20:23] = 255
    pixels[113:116, 20:30] = 255
    pixels[30:230, -8:-6] = 255
    pixels[30:230:10, -14:-6] = 255
    return pixels


def test_letters_and_rulers_are_cut_away_and_one_hot_pixel_changes_little() -> None:
    """The slice itself is left as it was."""
    pixels = head()
    pixels.setflags(write=False)
    plain, marked = fit_slice(pixels), fit_slice(lettered(head()))
    assert np.array_equal(pixels, head())
    assert marked.edge == pytest.approx(plain.edge, abs=2)
    assert difference(marked, plain) < 0.01
    # not a trace where the head is not
    outside = ndimage.binary_dilation(plain.image > 0, iterations=4)
    assert not marked.image[~outside].any()
    touched = head()
    touched[119:122, 170:] = 255
    assert difference(fit_slice(touched), plain) < 0.02
    for value in (1e4, 1e8, 1e30):
        hot = head()
        hot[120, 110] = value
        assert difference(fit_slice(hot), plain) < 0.01


@pytest.mark.parametrize("value", [255.0, 128.0, 0.0])
@pytest.mark.parametrize("width", [2, 10, 120])
def test_a_border_is_cut_away(value: float, width: int) -> None:
    plain = fit_slice(head())
    found = fit_slice(np.pad(head(), width, constant_values=value))
    assert np.array_equal(found.image, plain.image)
    assert found.corner == (plain.corner[0] + width, plain.corner[1] + width)
    assert found.edge == plain.edge


def test_a_white_border_in_a_jpeg_or_around_black_padding_is_cut_away(tmp_path: Path) -> None:
    page = np.pad(head(), ((45, 30), (50, 61)), constant_values=255).astype(np.uint8)
    path = tmp_path / "page"
    for quality in (60, 75, 95):
        path.write_bytes(encoded(Image.fromarray(page), "JPEG", quality=quality))
        assert difference(fit_slice(read_slice(path)), fit_slice(head())) < 0.02
    page = np.pad(np.pad(noisy(head()), ((0, 40), (30, 0))), 25, constant_values=255)
    assert difference(fit_slice(page), fit_slice(noisy(head()))) < 0.01


def test_padding_changes_nothing_and_air_around_the_head_little() -> None:
    plain = fit_slice(head())
    for padding in (((0, 300), (0, 0)), ((50, 0), (400, 20)), ((700, 700), (700, 700))):
        padded = fit_slice(np.pad(head(), padding))
        assert np.array_equal(padded.image, plain.image)
        assert padded.corner == tuple(np.add(plain.corner, (padding[0][0], padding[1][0])))
    around = np.pad(head(), ((150, 100), (60, 200)))
    assert difference(fit_slice(noisy(around)), fit_slice(noisy(head()))) < 0.03


def test_the_scale_of_intensities_changes_nothing() -> None:
    plain = fit_slice(head())
    for factor, offset in ((16, 0), (1e-4, 0), (1, 1000), (0.01, -5), (1e30, 0), (1e36, -1e38)):
        scaled = fit_slice((head().astype(float) * factor + offset).astype(np.float32))
        assert np.abs(scaled.image - plain.image).max() < 1e-3
        assert (scaled.corner, scaled.edge) == (plain.corner, plain.edge)


def test_a_slice_of_any_type_and_one_of_a_file_is_fitted(tmp_path: Path) -> None:
    for dtype in (np.uint8, np.uint16, np.int16, np.float64):
        pixels = head().astype(dtype)
        assert difference(fit_slice(pixels), fit_slice(pixels.astype(np.float32))) == 0
    pixels = np.round(head()).astype(np.uint8)
    path = tmp_path / "slice"
    path.write_bytes(grey_png(pixels))
    fitted = fit_slice(read_slice(path))
    assert fitted.restore(fitted.image).shape == pixels.shape
    assert difference(fitted, fit_slice(head())) < 0.01


@pytest.mark.parametrize("centre", [(0, 110), (255, 110), (120, 0), (120, 239), (20, 20)])
@pytest.mark.parametrize("change", [np.array, noisy], ids=["clean", "noisy"])
def test_a_head_at_the_edge_keeps_what_there_is(
    centre: tuple[int, int], change: Callable[..., Any]
) -> None:
    pixels = change(head(centre=centre))
    fitted = fit_slice(pixels)
    assert fitted.image.min() == 0
    assert fitted.image.max() == pytest.approx(1, abs=0.02)
    there = fitted.restore((fitted.image > 0.1).astype(np.float32)) > 0.5
    truth = head(centre=centre) > 0
    assert (there & truth).sum() > 0.96 * truth.sum()
    assert (there & ~truth).sum() < 0.04 * truth.sum()


def test_a_head_at_the_edge_has_a_square_beyond_it() -> None:
    fitted = fit_slice(head(centre=(120, 10)))
    assert fitted.corner[1] < -10
    assert fitted.image[:, :10].max() == 0


def test_many_frames_within_each_other_take_no_time() -> None:
    y, x = np.indices((2048, 2048))
    frames = (np.minimum.reduce([y, x, 2047 - y, 2047 - x]) % 2).astype(np.float32)
    start = time.process_time()
    fit_slice(frames)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "pixels",
    [
        np.full(SHAPE, 3.0, np.float32),
        np.eye(64, dtype=np.float32),
        np.random.default_rng(1).random((50, 70), np.float32),
        np.pad(np.ones((1, 1), np.float32), 40),
        np.ones((32, 4096), np.float32).cumsum(axis=1),
    ],
    ids=["constant", "line", "noise", "point", "strip"],
)
def test_what_is_no_head_is_still_between_0_and_1(pixels: Any) -> None:
    fitted = fit_slice(pixels)
    assert fitted.image.shape == SLICE_SHAPE
    assert np.isfinite(fitted.image).all()
    assert 0 <= fitted.image.min() <= fitted.image.max() <= 1
    assert fitted.restore(fitted.image).shape == pixels.shape


# --- and back ---


PLACES = [
    ((256, 240), (120, 110), (90, 70)),
    ((300, 128), (200, 60), (55, 50)),
    ((128, 700), (60, 500), (50, 57)),
    ((256, 240), (250, 110), (90, 70)),
    ((256, 240), (120, 5), (90, 70)),
]


@pytest.mark.parametrize(("shape", "centre", "radii"), PLACES)
def test_a_map_of_the_head_lands_on_the_head_and_is_zero_outside_the_square(
    shape: Any, centre: Any, radii: Any
) -> None:
    pixels = head(shape, centre, radii)
    fitted = fit_slice(pixels)
    back = fitted.restore((fitted.image > 0.1).astype(np.float32))
    assert back.shape == shape
    assert back.dtype == np.float32
    found, truth = (ndimage.center_of_mass(each) for each in (back, pixels > 0))
    assert found == pytest.approx(truth, abs=1)
    square = np.zeros(shape, bool)
    row, column = fitted.corner
    square[max(row, 0) : row + fitted.edge, max(column, 0) : column + fitted.edge] = True
    back = fitted.restore(np.ones(SLICE_SHAPE, np.float32))
    assert np.array_equal(back > 0.5, square)
    assert not back[~square].any()
    assert 0 < square.mean() < 1


@pytest.mark.parametrize(("shape", "centre", "radii"), PLACES)
def test_fitting_and_restoring_reproduces_the_head(shape: Any, centre: Any, radii: Any) -> None:
    smooth = ndimage.gaussian_filter(head(shape, centre, radii), 1.5)
    fitted = fit_slice(smooth)
    back = fitted.restore(fitted.image)
    inside = ndimage.binary_erosion(smooth > 60, iterations=4)
    scale = np.median(smooth[inside] / back[inside])
    error = np.abs(back * scale - smooth)[inside]
    assert error.mean() < 0.01 * smooth.max()
    assert np.percentile(error, 99) < 0.05 * smooth.max()


def test_a_point_comes_back_to_its_place() -> None:
    fitted = fit_slice(head())
    for row, column in itertools.product((20, 64, 100), repeat=2):
        values = np.zeros(SLICE_SHAPE, np.float32)
        values[row, column] = 1
        found = ndimage.center_of_mass(fitted.restore(values))
        scale = fitted.edge / 128
        truth = [
            c + (n + 0.5) * scale - 0.5 for c, n in zip(fitted.corner, (row, column), strict=True)
        ]
        assert found == pytest.approx(truth, abs=0.3)
