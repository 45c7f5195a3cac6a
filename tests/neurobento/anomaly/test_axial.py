"""Axial slices of scans in every orientation."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.anomaly.axial import axial_slices

SHAPE = (5, 6, 7)
CODES = ("RAS", "LPI", "PSR", "ASL", "IRP", "SLA")


def affine_of(codes: str, sizes: Any = (1.0, 2.0, 3.0), tilt: float = 0.0) -> Any:
    orientation = nib.orientations.axcodes2ornt(codes)
    linear = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(orientation):
        linear[int(world), axis] = sign * sizes[axis]
    return nib.affines.from_matvec(nib.eulerangles.euler2mat(tilt, tilt / 2, -tilt) @ linear)


@pytest.fixture
def array() -> Any:
    return np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("tilt", [0.0, 0.3])
def test_slices_go_up_rows_back_and_columns_right(codes: str, tilt: float, array: Any) -> None:
    """nibabel is the oracle."""
    affine = affine_of(codes, tilt=tilt)
    canonical = nib.as_closest_canonical(nib.Nifti1Image(array, affine)).get_fdata()
    found = axial_slices(SHAPE, affine).view(array)
    assert np.array_equal(found, canonical.transpose(2, 1, 0)[:, ::-1])


@pytest.mark.parametrize("codes", CODES)
def test_what_is_written_to_the_view_is_in_the_array_and_edges_are_those_of_the_axes(
    codes: str, array: Any
) -> None:
    slices = axial_slices(SHAPE, affine_of(codes))
    for number in range(slices.count):
        native = np.zeros(SHAPE, np.float32)
        slices.view(native)[number] = 1
        taken = np.take(native, slices.native_index(number), slices.axis)
        assert taken.all()
        assert native.sum() == taken.size
        assert slices.native_index(slices.native_index(number)) == number
    ways = codes.translate(str.maketrans("LPI", "RAS"))
    sizes = dict(zip(ways, (1, 2, 3), strict=True))
    slices = axial_slices(SHAPE, affine_of(codes, tilt=0.2))
    assert slices.thickness_mm == pytest.approx(sizes["S"])
    assert slices.pixel_mm == pytest.approx((sizes["A"], sizes["R"]))
    assert slices.count == SHAPE[slices.axis]
    assert codes[slices.axis] in "SI"
