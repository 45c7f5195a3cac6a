"""The signal of a scan, whatever its scale, sign and outliers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from neurobento.preprocessing.signal import positive_signal

SHAPE = (30, 32, 28)
INSIDE = (slice(6, 24), slice(7, 26), slice(5, 22))


@pytest.fixture
def brain() -> Any:
    """Values of a brain, 60 to 140, in a box on a background of zero."""
    array = np.zeros(SHAPE, np.float32)
    shape = array[INSIDE].shape
    array[INSIDE] = 100 + 40 * np.sin(np.arange(np.prod(shape))).reshape(shape)
    return array


def ranks(values: Any) -> Any:
    return np.argsort(np.argsort(values.ravel(), kind="stable"), kind="stable")


def test_a_brain_on_zero_stays_as_it_is_up_to_its_brightest_thousandth(brain: Any) -> None:
    found = positive_signal(brain)
    assert found.dtype == np.float32
    limit = np.percentile(brain[INSIDE], 99.9)
    assert found == pytest.approx(np.minimum(brain, limit), abs=1e-4)


@pytest.mark.parametrize("background", [-1024.0, -3.5, 7.0, 1e4])
def test_another_background_is_a_shift(brain: Any, background: float) -> None:
    expected = positive_signal(brain)
    assert positive_signal(brain + np.float32(background)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e6])
def test_another_scale_is_a_factor(brain: Any, factor: float) -> None:
    scaled = positive_signal(brain * np.float32(factor))
    assert scaled / factor == pytest.approx(positive_signal(brain), rel=1e-4)


def test_a_standardised_brain_is_all_of_it_above_its_background(brain: Any) -> None:
    """Half of it is negative, and the order of its values stays."""
    values = brain[INSIDE]
    standardised = brain.copy()
    standardised[INSIDE] = (values - values.mean()) / values.std()
    assert 0.3 < (standardised[INSIDE] < 0).mean() < 0.7
    found = positive_signal(standardised)
    assert (found[INSIDE] > 0).all()
    assert ((found > 0) == (brain > 0)).all()
    middle = (values > np.percentile(values, 1)) & (values < np.percentile(values, 99))
    assert np.array_equal(ranks(found[INSIDE][middle]), ranks(values[middle]))


def test_ringing_below_the_background_becomes_background(brain: Any) -> None:
    """A hundredth of the signal's voxels lies below, as after interpolation with splines."""
    expected = positive_signal(brain)
    rung = brain.copy()
    rung[2, 2:30, 2] = rung[2, 2:30, 4] = -6
    assert (rung[rung != 0] < 0).mean() < 0.02
    found = positive_signal(rung)
    assert not found[rung < 0].any()
    assert found == pytest.approx(expected, rel=0.01)


def test_one_outlier_changes_little(brain: Any) -> None:
    expected = positive_signal(brain)
    broken = brain.copy()
    broken[10, 10, 10] = 1e6
    found = positive_signal(broken)
    assert found.max() == pytest.approx(expected.max(), rel=0.01)
    broken[10, 10, 10] = found[10, 10, 10] = expected[10, 10, 10]
    assert found == pytest.approx(expected, rel=0.01)


def test_noise_around_a_head_has_its_darkest_part_at_zero(brain: Any) -> None:
    noise = np.random.default_rng(0).uniform(200, 210, SHAPE).astype(np.float32)
    found = positive_signal(brain + noise)
    assert found.min() == 0
    outside = brain == 0
    assert found[outside].max() < 11
    assert found[~outside].min() > 40


@pytest.mark.parametrize("value", [0.0, -4.0, 9.0])
def test_a_scan_of_one_value_has_no_signal(value: float) -> None:
    assert not positive_signal(np.full(SHAPE, value, np.float32)).any()


def test_the_scan_is_not_modified(brain: Any) -> None:
    before = brain.copy()
    positive_signal(brain)[:] = 5
    assert np.array_equal(brain, before)
