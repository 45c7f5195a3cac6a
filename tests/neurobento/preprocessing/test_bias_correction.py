"""Step 2: N4 takes a known field out again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from nibabel.affines import apply_affine

from neurobento.preprocessing.bias_correction import correct_bias


@pytest.fixture(scope="module")
def tissue(phantom: Any) -> Any:
    """A brain of one tissue with a little noise; N4 has only the field to explain."""
    noise = np.random.default_rng(0).normal(1, 0.02, phantom.shape)
    return np.where(phantom.image > 0, 100 * noise, 0).astype(np.float32)


@pytest.fixture(scope="module")
def biased(tissue: Any, phantom: Any) -> Any:
    """The same, brighter by half to the right front and darker to the left back."""
    index = np.moveaxis(np.indices(phantom.shape), 0, -1)
    world = apply_affine(phantom.affine, index)
    field = np.exp(world @ np.array([1 / 60, 1 / 75, 0]) * 0.3)
    return (tissue * field).astype(np.float32)


@pytest.fixture(scope="module")
def corrected(biased: Any, phantom: Any) -> Any:
    return correct_bias(biased, phantom.image > 0, phantom.affine)


def spread(array: Any) -> float:
    inside = array[array > 0]
    return float(inside.std() / inside.mean())


def test_a_smooth_field_is_removed(corrected: Any, biased: Any) -> None:
    assert spread(biased) > 0.1
    assert spread(corrected) < spread(biased) / 3


def test_the_result_is_float32_finite_and_zero_outside_the_brain(
    corrected: Any, phantom: Any
) -> None:
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


def test_air_and_skull_do_not_count(biased: Any, corrected: Any, phantom: Any) -> None:
    """What lies outside the mask changes nothing inside it."""
    brain = phantom.image > 0
    with_skull = np.where(brain, biased, 900).astype(np.float32)
    again = correct_bias(with_skull, brain, phantom.affine)
    assert again == pytest.approx(corrected, rel=1e-3)


def test_the_same_scan_gives_the_same_result(biased: Any, corrected: Any, phantom: Any) -> None:
    again = correct_bias(biased, phantom.image > 0, phantom.affine)
    assert np.array_equal(again, corrected)
