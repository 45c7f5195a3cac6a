"""Step 2: N4 removes a known field, and agrees with ANTs' own N4."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine

from neurobento.preprocessing.ants_image import to_ants
from neurobento.preprocessing.bias_correction import correct_bias


@pytest.fixture(scope="module")
def tissue(phantom: Any) -> Any:
    """A brain of one tissue with a little noise; N4 has only the field to explain."""
    noise = np.random.default_rng(0).normal(1, 0.02, phantom.shape)
    return np.where(phantom.image > 0, 100 * noise, 0).astype(np.float32)


@pytest.fixture(scope="module")
def biased(tissue: Any, phantom: Any) -> Any:
    """The same, brighter by half to the right front and darker to the left back."""
    return (tissue * smooth_field(phantom)).astype(np.float32)


@pytest.fixture(scope="module")
def corrected(biased: Any, phantom: Any) -> Any:
    return correct_bias(biased, phantom.image > 0, phantom.affine)


def smooth_field(phantom: Any) -> Any:
    index = np.moveaxis(np.indices(phantom.shape), 0, -1)
    world = apply_affine(phantom.affine, index)
    return np.exp(world @ np.array([1 / 60, 1 / 75, 0]) * 0.3)


def ants_n4(array: Any, brain: Any, affine: Any) -> Any:
    """ANTs' own N4 with its defaults and a mask."""
    import ants

    corrected = ants.n4_bias_field_correction(to_ants(array, affine), mask=to_ants(brain, affine))
    return np.where(brain, corrected.numpy(), 0)


def assert_like_ants(array: Any, brain: Any, affine: Any) -> None:
    """Correlation of the brains, and the fields: close everywhere, not on average.

    A common factor may differ more: N4 drifts in scale, ITK's in single precision.
    """
    ours, theirs = correct_bias(array, brain, affine), ants_n4(array, brain, affine)
    assert np.corrcoef(ours[brain], theirs[brain])[0, 1] > 0.99999
    known = brain & (array > 0)
    assert not np.allclose(theirs[known], array[known], rtol=0.02)
    ratio = ours[known] / theirs[known]
    assert np.median(ratio) == pytest.approx(1, abs=5e-3)
    np.testing.assert_allclose(ratio / np.median(ratio), 1, rtol=1e-3)


def spread(array: Any) -> float:
    inside = array[array > 0]
    return float(inside.std() / inside.mean())


def test_a_smooth_field_is_removed_from_the_brain_and_all_else_is_zero(
    corrected: Any, biased: Any, phantom: Any
) -> None:
    assert spread(biased) > 0.1
    assert spread(corrected) < spread(biased) / 3
    assert corrected.dtype == np.float32
    assert corrected.shape == phantom.shape
    assert np.isfinite(corrected).all()
    assert not corrected[phantom.image == 0].any()
    assert (corrected[phantom.image > 0] > 0).all()


def test_the_callers_arrays_are_not_modified(biased: Any, phantom: Any) -> None:
    array, brain, affine = biased.copy(), phantom.image > 0, phantom.affine.copy()
    correct_bias(array, brain, affine)
    assert np.array_equal(array, biased)
    assert np.array_equal(brain, phantom.image > 0)
    assert np.array_equal(affine, phantom.affine)


def test_neither_air_and_skull_nor_another_run_change_the_result(
    biased: Any, corrected: Any, phantom: Any
) -> None:
    """Voxels outside the mask change nothing inside it."""
    brain = phantom.image > 0
    with_skull = np.where(brain, biased, 900).astype(np.float32)
    again = correct_bias(with_skull, brain, phantom.affine)
    assert again == pytest.approx(corrected, rel=1e-3)
    again = correct_bias(biased, phantom.image > 0, phantom.affine)
    assert np.array_equal(again, corrected)


def head(phantom: Any, seed: int = 0) -> Any:
    """Three tissues in shells, noise and a smooth field, with a histogram like a scan's."""
    depth = np.linalg.norm(apply_affine(phantom.affine, np.argwhere(phantom.image > 0)), axis=1)
    tissue = np.select([depth < 35, depth < 50], [160.0, 110.0], 50.0)
    tissue *= np.random.default_rng(seed).normal(1, 0.05, tissue.shape)
    image = np.zeros(phantom.shape, dtype=np.float32)
    image[phantom.image > 0] = tissue
    return (image * smooth_field(phantom)).astype(np.float32)


def test_one_tissue_and_masks_with_holes_or_zeros_are_corrected_as_by_ants(
    biased: Any, phantom: Any
) -> None:
    """A mask of skull stripping may hold zeros, which have no logarithm."""
    brain = phantom.image > 0
    assert_like_ants(biased, brain, phantom.affine)
    zeros = np.random.default_rng(2).random(phantom.shape) < 0.01
    assert_like_ants(np.where(zeros, 0, head(phantom)), brain, phantom.affine)
    brain &= phantom.labels == 0
    brain &= np.random.default_rng(1).random(phantom.shape) > 0.1
    assert_like_ants(np.where(brain, head(phantom), 0), brain, phantom.affine)


@pytest.mark.parametrize(
    "grid",
    [
        {"codes": "RAS", "sizes_mm": (4.0, 4.0, 4.0), "shape": (39, 45, 37)},
        {"codes": "RAS", "sizes_mm": (4.0, 4.0, 4.0), "shape": (40, 46, 38)},
        {"codes": "PIR", "sizes_mm": (2.5, 2.5, 6.0), "shape": (65, 53, 23)},
        {"codes": "LPS", "sizes_mm": (6.0, 6.0, 6.0), "shape": (25, 31, 23)},
        {"codes": "RAS", "sizes_mm": (4.0, 4.0, 4.0), "shape": (39, 47, 37), "tilt_rad": 0.2},
    ],
    ids=["isotropic", "even counts", "anisotropic", "small", "oblique"],
)
def test_three_tissues_are_corrected_as_by_ants(
    phantom_on: Callable[..., Any], grid: dict[str, Any]
) -> None:
    phantom = phantom_on(**grid)
    assert_like_ants(head(phantom), phantom.image > 0, phantom.affine)


@pytest.mark.parametrize("slices", [1, 3, 7, 12])
def test_a_scan_of_few_slices_loses_its_field(phantom_on: Callable[..., Any], slices: int) -> None:
    """ANTs leaves fewer than eight slices unchanged."""
    phantom = phantom_on("RAS", sizes_mm=(4.0, 4.0, 6.0), shape=(39, 47, slices))
    noise = np.random.default_rng(3).normal(1, 0.02, phantom.shape)
    array = np.where(phantom.image > 0, 100 * noise * smooth_field(phantom), 0)
    corrected = correct_bias(array.astype(np.float32), phantom.image > 0, phantom.affine)
    assert spread(corrected) < spread(array) / 3


def test_where_there_is_nothing_to_fit_the_brain_stays_as_it_is(phantom: Any) -> None:
    """A brain without contrast, an empty mask and a mask between the samples."""
    brain = phantom.image > 0
    array = np.where(brain, 7, 0).astype(np.float32)
    assert np.array_equal(correct_bias(array, brain, phantom.affine), array)
    brain = np.zeros(phantom.shape, dtype=bool)
    assert not correct_bias(phantom.image, brain, phantom.affine).any()
    brain[0, 0, 0] = True
    corrected = correct_bias(np.full(phantom.shape, 5, np.float32), brain, phantom.affine)
    assert corrected[0, 0, 0] == corrected.sum() == 5


def test_what_is_not_finite_becomes_zero_and_changes_nothing_else(phantom: Any) -> None:
    brain, array = phantom.image > 0, head(phantom)
    broken = array.copy()
    lost = tuple(np.argwhere(brain)[[10, 1000]].T)
    broken[lost] = np.nan, np.inf
    corrected = correct_bias(broken, brain, phantom.affine)
    assert np.isfinite(corrected).all()
    assert not corrected[lost].any()
    without = brain.copy()
    without[lost] = False
    assert np.array_equal(corrected, correct_bias(array, without, phantom.affine))
