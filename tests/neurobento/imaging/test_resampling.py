"""Resampling against analytic ramps and SciPy's linear interpolation."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import apply_affine, from_matvec
from scipy import ndimage

from neurobento.imaging.resampling import resample

SOURCE_SHAPE, TARGET_SHAPE = (40, 36, 44), (22, 25, 19)
SOURCE = from_matvec(np.diag([-2.0, 2.5, 1.8]), [38.0, -45.0, -38.0])
TILT = nib.eulerangles.euler2mat(0.4, -0.2, 0.3)
TARGETS = {
    "finer": np.diag([1.1, 1.3, 0.9]),
    "coarser": np.diag([2.9, 3.1, 3.3]),
    "flipped and permuted": np.array([[0, -1.4, 0], [0, 0, 2.2], [-1.9, 0, 0]]),
    "tilted": TILT @ np.diag([1.2, 1.4, 1.6]),
    "tilted and coarser": TILT @ np.diag([2.8, 2.6, 3.0]),
    "tilted and much coarser": TILT @ np.diag([4.5, 5.0, 5.5]),
    "tilted, thick slices": TILT @ np.diag([1.0, 1.0, 2.9]),
}
GRADIENT = np.array([0.7, -1.1, 0.4])


def target(name: str) -> Any:
    """A grid whose middle is the world's origin, as the source's is."""
    linear = TARGETS[name]
    return from_matvec(linear, -linear @ (np.array(TARGET_SHAPE) - 1) / 2)


def positions(affine: Any, shape: tuple[int, ...]) -> Any:
    return apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))


def within(affine: Any, margin: float) -> Any:
    """Target voxels that lie `margin` source voxels or more inside of the source."""
    index = apply_affine(np.linalg.inv(SOURCE) @ affine, positions(np.eye(4), TARGET_SHAPE))
    return ((index >= margin) & (index <= np.array(SOURCE_SHAPE) - 1 - margin)).all(axis=-1)


@pytest.mark.parametrize("name", TARGETS)
def test_a_ramp_is_reproduced_inside(name: str) -> None:
    affine = target(name)
    ramp = positions(SOURCE, SOURCE_SHAPE) @ GRADIENT
    found = resample(ramp, SOURCE, affine, TARGET_SHAPE)
    inside = within(affine, 4)
    assert inside.sum() > 500
    assert (found.shape, found.dtype) == (TARGET_SHAPE, np.float32)
    expected = positions(affine, TARGET_SHAPE) @ GRADIENT
    assert found[inside] == pytest.approx(expected[inside], abs=2e-3)


@pytest.mark.parametrize("name", TARGETS)
def test_a_constant_stays_up_to_the_border_and_is_zero_outside(name: str) -> None:
    affine = target(name)
    found = resample(np.full(SOURCE_SHAPE, 7, np.int16), SOURCE, affine, TARGET_SHAPE)
    # linear interpolation between tilted grids fades out within the last voxels
    margin = 4 if "much" in name else 1.5
    assert found[within(affine, margin)] == pytest.approx(7, abs=1e-4)
    outside = ~within(affine, -2.5)
    assert not found[outside].any()
    if "tilted" not in name:
        assert found[within(affine, -0.49)] == pytest.approx(7, abs=1e-4)
        assert not found[~within(affine, -0.51)].any()


def test_grids_that_are_far_apart_share_nothing() -> None:
    far = SOURCE.copy()
    far[:3, 3] += 5000
    assert not resample(np.ones(SOURCE_SHAPE), SOURCE, far, TARGET_SHAPE).any()
    far[:3, :3] = TILT @ far[:3, :3]
    assert not resample(np.ones(SOURCE_SHAPE), SOURCE, far, TARGET_SHAPE).any()


@pytest.mark.parametrize("name", ["finer", "tilted"])
def test_a_finer_grid_is_scipys_linear_interpolation(name: str) -> None:
    affine = target(name)
    noise = np.random.default_rng(0).random(SOURCE_SHAPE, dtype=np.float32)
    matrix = np.linalg.inv(SOURCE) @ affine
    expected = ndimage.affine_transform(
        noise, matrix[:3, :3], matrix[:3, 3], TARGET_SHAPE, order=1, prefilter=False
    )
    found = resample(noise, SOURCE, affine, TARGET_SHAPE)
    inside = within(affine, 0)
    assert inside.sum() > 500
    assert found[inside] == pytest.approx(expected[inside], abs=1e-4)


def test_a_coarser_grid_averages_what_lies_between_its_voxels() -> None:
    """Every third voxel along one axis: the interpolated line over four voxels."""
    line = np.random.default_rng(1).random(31)
    image = np.broadcast_to(line[:, None, None], (31, 4, 5))
    affine = from_matvec(np.diag([3.0, 1, 1]), [3.0, 0, 0])
    found = resample(image, np.eye(4), affine, (9, 4, 5))
    weights = np.array([1, 2, 2, 2, 1]) / 8
    expected = [weights @ line[3 * i + 1 : 3 * i + 6] for i in range(9)]
    assert found[:, 2, 3] == pytest.approx(expected, abs=1e-6)
    assert np.ptp(found, axis=(1, 2)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["coarser", "tilted and coarser"])
def test_fine_stripes_do_not_alias(name: str) -> None:
    """Stripes of two voxels become grey where each voxel of the target covers them."""
    stripes = np.indices(SOURCE_SHAPE)[2] % 2
    affine = target(name)
    affine[:3, :3] *= 1.6
    affine[:3, 3] *= 1.6
    found = resample(stripes, SOURCE, affine, TARGET_SHAPE)[within(affine, 4)]
    assert len(found) > 300
    assert np.abs(found - 0.5).max() < 0.2


def test_the_same_grid_gives_the_same_image_and_no_view_of_it() -> None:
    noise = np.random.default_rng(2).random(SOURCE_SHAPE, dtype=np.float32)
    before = noise.copy()
    found = resample(noise, SOURCE, SOURCE, SOURCE_SHAPE)
    assert found == pytest.approx(noise, abs=1e-6)
    found[:] = 9
    assert np.array_equal(noise, before)


def test_nibabels_other_axis_orders_give_the_same_image() -> None:
    noise = np.random.default_rng(3).random(SOURCE_SHAPE, dtype=np.float32)
    expected = resample(noise, SOURCE, target("coarser"), TARGET_SHAPE)
    image = nib.Nifti1Image(noise, SOURCE)
    for codes in ("SRP", "PIL", "ASR"):
        turned = image.as_reoriented(
            nib.orientations.ornt_transform(
                nib.io_orientation(SOURCE), nib.orientations.axcodes2ornt(codes)
            )
        )
        found = resample(turned.get_fdata(), turned.affine, target("coarser"), TARGET_SHAPE)
        assert found == pytest.approx(expected, abs=1e-5)
