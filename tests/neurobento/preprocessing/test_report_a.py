"""Report A's nine steps on a phantom whose truth is known, and on references made elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine
from nibabel.orientations import aff2axcodes

from neurobento.errors import NotABrain
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import NativeSpace, Scan, read_scan
from neurobento.preprocessing import PreparedScan, monai_steps, preprocess, skull_stripping

GRIDS = {
    "RAS": {"codes": "RAS"},
    "LAS": {"codes": "LAS"},
    "LIA": {"codes": "LIA"},
    "anisotropic": {"codes": "PSR", "sizes_mm": (3.0, 5.0, 4.0)},
    "oblique": {"codes": "LPS", "tilt_rad": 0.25},
}
VERSION = 1
STEPS = ["bias_correction", "spacing", "orientation", "histogram_normalize"]
STEPS += ["scale_intensity", "crop_foreground", "resize"]


@pytest.fixture(scope="module", params=GRIDS)
def case(request: pytest.FixtureRequest, phantom_on: Callable[..., Any]) -> tuple[Any, Any]:
    """A phantom and its prepared scan, once for each grid."""
    phantom = phantom_on(**GRIDS[request.param])
    return phantom, preprocess(phantom.scan(), "stripped", version=VERSION)


@pytest.fixture(scope="module")
def las(phantom: Any) -> PreparedScan:
    return preprocess(phantom.scan(), "stripped", version=VERSION)


def brightest_index(image: Any, count: int) -> Any:
    """The centre of the brightest voxels, as a voxel index."""
    threshold = np.partition(image.ravel(), -count)[-count]
    return np.argwhere(image >= threshold).mean(axis=0)


def landmark_voxels(prepared: PreparedScan) -> int:
    """The number of network voxels that a sphere of 16 mm fills."""
    voxel_mm3 = abs(np.linalg.det(prepared.grid.network_voxel_to_ras[:3, :3]))
    return int(4 / 3 * np.pi * 16.0**3 / voxel_mm3)


def on_grid(array: Any, affine: Any) -> Scan:
    header = nib.Nifti1Image(np.zeros(array.shape, np.uint8), affine).header
    return Scan(array, NativeSpace(array.shape, affine, header))


def test_the_image_is_the_networks_on_a_ras_grid_that_it_fills(case: Any) -> None:
    """CropForeground leaves no empty border, so the brain touches all six faces."""
    image = case[1].image
    assert image.shape == NETWORK_SHAPE == (91, 122, 123)
    assert image.dtype == np.float32
    assert image.min() == 0
    assert 0.95 < image.max() <= 1
    assert aff2axcodes(case[1].grid.network_voxel_to_ras) == ("R", "A", "S")
    brain = np.argwhere(case[1].image > 0)
    assert (brain.min(axis=0) <= 1).all()
    assert (brain.max(axis=0) >= np.array(NETWORK_SHAPE) - 2).all()


def test_the_grid_says_where_the_image_truly_lies_with_left_at_low_x(
    case: Any, landmark_mm: Any
) -> None:
    """The bright blob lies to the left, to the front and above the middle."""
    x, y, z = brightest_index(case[1].image, 2000)
    assert x < 35
    assert y > 70
    assert z > 63
    prepared = case[1]
    index = brightest_index(prepared.image, landmark_voxels(prepared))
    found_mm = apply_affine(prepared.grid.network_voxel_to_ras, index)
    assert found_mm == pytest.approx(landmark_mm, abs=1.5)


def test_the_field_of_view_is_the_brains(case: Any) -> None:
    """120 x 150 x 110 mm lie within the grid's edges; interpolation adds a voxel a side."""
    phantom, prepared = case
    sizes = nib.affines.voxel_sizes(prepared.grid.network_voxel_to_ras)
    if np.allclose(np.sort(np.abs(prepared.grid.network_voxel_to_ras[0, :3]))[:2], 0):
        margin = 2 * nib.affines.voxel_sizes(phantom.affine).max() + 2
        extent_mm = sizes * NETWORK_SHAPE
        assert (extent_mm > [115, 145, 105]).all()
        assert (extent_mm < np.array([120, 150, 110]) + margin).all()
    else:
        assert (sizes * NETWORK_SHAPE < 190).all()


def test_the_scan_is_cropped_on_a_grid_of_1_mm(phantom: Any, las: PreparedScan) -> None:
    """Linear interpolation reaches less than a native voxel of 4 mm beyond the brain's n voxels.

    So (n + 1) * 4 - 1 samples of 1 mm are above zero; of 2 mm it would be one length less.
    """
    brain = np.argwhere(phantom.image > 0)
    count = brain.max(axis=0) - brain.min(axis=0) + 1
    sizes = nib.affines.voxel_sizes(las.grid.network_voxel_to_ras)
    assert sizes * NETWORK_SHAPE == pytest.approx((count + 1) * 4 - 1, abs=0.5)


def test_resizing_keeps_the_edges_of_the_field_of_view() -> None:
    """Edges align, not centres: both grids reach from -0.5 to 181.5, 243.5 and 245.5 mm."""
    resized = monai_steps._resized_affine(np.eye(4), (182, 244, 246))
    edges = np.array([[-0.5] * 3, np.array(NETWORK_SHAPE) - 0.5])
    assert apply_affine(resized, edges).tolist() == [[-0.5] * 3, [181.5, 243.5, 245.5]]


def test_labels_come_back_to_where_they_were_in_the_scans_own_space(
    case: Any, dice: Callable[..., float]
) -> None:
    phantom, prepared = case
    restored = prepared.grid.restore(prepared.grid.apply(phantom.labels))
    assert restored.shape == phantom.shape
    for index in range(1, 6):
        assert dice(restored, phantom.labels, index) > 0.95
    assert prepared.grid.native_shape == phantom.shape
    assert np.array_equal(prepared.grid.native_voxel_to_ras, phantom.affine)


def test_what_is_seen_in_the_image_is_restored_onto_the_same_tissue(
    case: Any, dice: Callable[..., float]
) -> None:
    """The bright blob is segmented in the network's image and carried back to the scan."""
    phantom, prepared = case
    count = landmark_voxels(prepared)
    threshold = np.partition(prepared.image.ravel(), -count)[-count]
    seen = (prepared.image >= threshold).astype(np.uint8)
    assert dice(prepared.grid.restore(seen), (phantom.labels == 1).astype(np.uint8), 1) > 0.85


def test_steps_run_in_report_as_order_and_are_timed(phantom: Any) -> None:
    told: list[str] = []
    prepared = preprocess(phantom.scan(), "stripped", version=VERSION, progress=told.append)
    assert told == list(prepared.seconds) == STEPS
    assert all(seconds >= 0 for seconds in prepared.seconds.values())


def test_the_same_scan_gives_the_same_image_whatever_its_intensity_scale(
    phantom: Any, las: PreparedScan
) -> None:
    again = preprocess(phantom.scan(), "stripped", version=VERSION)
    assert np.array_equal(again.image, las.image)
    assert np.array_equal(again.grid.network_voxel_to_ras, las.grid.network_voxel_to_ras)
    scaled = preprocess(
        on_grid(phantom.image * np.float32(64), phantom.affine), "stripped", version=VERSION
    )
    assert np.abs(scaled.image - las.image).mean() < 0.02


def test_the_grid_a_scan_is_stored_on_does_not_matter(las: PreparedScan, phantom: Any) -> None:
    """The same voxels in another axis order are the same head (nibabel reorders them)."""
    image = nib.Nifti1Image(phantom.image, phantom.affine)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(
            nib.io_orientation(phantom.affine), nib.orientations.axcodes2ornt("SRP")
        )
    )
    array = np.ascontiguousarray(turned.dataobj, dtype=np.float32)
    other = preprocess(on_grid(array, turned.affine), "stripped", version=VERSION)
    assert np.abs(other.image - las.image).mean() < 0.02
    corners = np.array([[0, 0, 0], [90, 121, 122]])
    assert apply_affine(other.grid.network_voxel_to_ras, corners) == pytest.approx(
        apply_affine(las.grid.network_voxel_to_ras, corners), abs=1.0
    )


@pytest.mark.parametrize("shift_mm", [(0, 0, 0), (40, -30, 900)])
def test_the_scans_origin_moves_the_grid_and_not_the_image(
    shift_mm: tuple[float, ...], las: PreparedScan, phantom: Any
) -> None:
    affine = phantom.affine.copy()
    affine[:3, 3] += shift_mm
    moved = preprocess(on_grid(phantom.image, affine), "stripped", version=VERSION)
    assert np.abs(moved.image - las.image).max() < 0.05
    difference = moved.grid.network_voxel_to_ras - las.grid.network_voxel_to_ras
    assert difference[:3, 3] == pytest.approx(shift_mm, abs=1e-3)
    assert difference[:, :3] == pytest.approx(0, abs=1e-9)


def test_the_callers_arrays_are_not_modified(phantom: Any) -> None:
    array, affine = phantom.image.copy(), phantom.affine.copy()
    preprocess(on_grid(array, affine), "stripped", version=VERSION)
    assert np.array_equal(array, phantom.image)
    assert np.array_equal(affine, phantom.affine)


def test_negative_voxels_are_background(phantom: Any, las: PreparedScan) -> None:
    """Stripped scans that were interpolated have small negative values outside the brain."""
    array = np.where(phantom.image > 0, phantom.image, -3).astype(np.float32)
    prepared = preprocess(on_grid(array, phantom.affine), "stripped", version=VERSION)
    assert np.array_equal(prepared.image, las.image)


def test_neither_a_head_nor_a_scan_without_a_brain_is_taken_as_stripped(phantom: Any) -> None:
    """Positive voxels everywhere on 20 x 20 x 20 cm are 8,000 ml: no brain."""
    for value in (0, -5):
        array = np.where(phantom.image > 0, value, -9).astype(np.float32)
        with pytest.raises(NotABrain, match="found 0 ml of positive voxels"):
            preprocess(on_grid(array, phantom.affine), "stripped", version=VERSION)
    head = np.full((40, 40, 40), 5, dtype=np.float32)
    with pytest.raises(NotABrain, match=r"8000 ml.*`full`"):
        preprocess(on_grid(head, np.diag([5.0, 5.0, 5.0, 1.0])), "stripped", version=VERSION)


# --- with a skull ---


@pytest.mark.parametrize("preprocessing", ["full", "report_a"])
def test_a_head_has_its_skull_stripped_and_then_the_steps_of_a_stripped_scan(
    preprocessing: Any, phantom: Any, las: PreparedScan, monkeypatch: pytest.MonkeyPatch
) -> None:
    brain = phantom.image > 0
    limits: list[float] = []

    def fake_robex(array: Any, voxel_to_ras: Any, *, time_limit_s: float) -> Any:
        assert np.array_equal(array, head)
        assert np.array_equal(voxel_to_ras, phantom.affine)
        limits.append(time_limit_s)
        return brain

    head = np.where(brain, phantom.image, 300).astype(np.float32)
    monkeypatch.setattr(skull_stripping, "extract_brain", fake_robex)
    scan = on_grid(head, phantom.affine)
    prepared = preprocess(scan, preprocessing, version=VERSION, skull_stripping_limit_s=12)
    assert limits == [12]
    assert list(prepared.seconds) == ["skull_stripping", *STEPS]
    assert np.array_equal(prepared.image, las.image)
    assert prepared.brain is None


# --- references made independently of this code ---


@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["ds002748_sub-25"])
def test_a_real_scan_agrees_with_the_independent_reference(name: str, shared: Path) -> None:
    """Its voxel axes are oblique to the world's."""
    reference = np.load(shared / "reference" / f"{name}.npz")
    prepared = preprocess(
        read_scan(shared / "data" / "t1" / f"{name}.nii.gz"), "stripped", version=VERSION
    )
    truth = reference["image"].astype(np.float32)
    brain = (truth > 0) & (prepared.image > 0)
    assert brain.sum() > 0.95 * max((truth > 0).sum(), (prepared.image > 0).sum())
    assert np.corrcoef(truth[brain], prepared.image[brain])[0, 1] >= 0.98
    corners = np.array([[x, y, z] for x in (0, 90) for y in (0, 121) for z in (0, 122)])
    found_mm = apply_affine(prepared.grid.network_voxel_to_ras, corners)
    true_mm = apply_affine(reference["affine"], corners)
    assert np.linalg.norm(found_mm - true_mm, axis=1).max() < 2
