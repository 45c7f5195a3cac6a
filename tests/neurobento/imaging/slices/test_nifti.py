"""Slices in NIfTI files."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import (
    BadVoxelSize,
    CorruptCompression,
    MissingOrientation,
    NotFiniteScan,
    TooManyVoxels,
    TruncatedScan,
    UnsupportedDatatype,
    UnsupportedDimensions,
    UnsupportedPlane,
)
from neurobento.imaging.slices.reader import holds_slice, read_slice
from tests.neurobento.imaging.slices.checks import Writer, refusal
from tests.neurobento.imaging.slices.files import SHAPE, grey


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("name", ["slice.nii", "slice.nii.gz"])
def test_a_nifti_slice_is_seen_as_viewers_show_it(
    axis: int, name: str, write_nifti: Writer
) -> None:
    pixels = grey(most=1000).astype(np.int16)
    # whichever axis is thin, it runs upwards in the head
    affine = np.eye(4)[:, [*np.roll(range(3), axis - 2), 3]]
    found = read_slice(write_nifti(np.expand_dims(pixels, axis), affine, name=name))
    # the first axis goes right, the second up
    assert np.array_equal(found, pixels.T[::-1])
    assert found.dtype == np.float32


@pytest.mark.parametrize("size_mm", [0.05, 0.2, 12.0, 40.0])
def test_the_size_of_a_pixel_does_not_matter(size_mm: float, write_nifti: Writer) -> None:
    affine = np.diag([size_mm, size_mm, size_mm, 1])
    pixels = grey((640, 600))[..., None]
    assert read_slice(write_nifti(pixels, affine)).shape == (600, 640)


@pytest.mark.parametrize("shape", [(40, 44, 48), (40, 44, 2), (600, 600, 600), (32000,) * 3])
def test_a_whole_scan_is_refused_with_the_remedy(
    shape: tuple[int, int, int], write_nifti: Writer
) -> None:
    path = write_nifti(np.ones((40, 44, 48), np.uint8), dim=[3, *shape, 1, 1, 1, 1])
    error = refusal(path, UnsupportedDimensions)
    assert error.found == " x ".join(map(str, shape))
    assert "neurobento anomaly" in error.remedy


def test_a_sagittal_slice_is_refused(write_nifti: Writer) -> None:
    """If the file states the plane: a sagittal slice is no mirror image of itself."""
    sagittal, *others = (
        write_nifti(np.expand_dims(grey(), across), np.diag([2.0, 3.0, 4.0, 1.0]), f"{across}.nii")
        for across in range(3)
    )
    assert "sagittal" in refusal(sagittal, UnsupportedPlane).found
    for path in others:
        read_slice(path)


def test_a_nifti_file_of_two_dimensions_is_a_slice_and_one_of_others_is_none(
    write_nifti: Writer,
) -> None:
    pixels = grey()
    path = write_nifti(pixels)
    assert nib.load(path).shape == pixels.shape
    assert holds_slice(path)
    assert np.array_equal(read_slice(path), pixels.T[::-1])
    for dim in ([1, 48, 40, 1, 1], [4, 48, 40, 1, 9]):
        path = write_nifti(pixels[..., None], dim=[*dim, 1, 1, 1])
        assert "axis of length 1" in refusal(path, UnsupportedDimensions).expected


@pytest.mark.parametrize("compress", [True, False])
def test_a_nifti_slice_of_too_many_pixels_is_refused_by_its_header(
    compress: bool, write_nifti: Writer
) -> None:
    name = "slice.nii.gz" if compress else "slice.nii"
    refusal(
        write_nifti(grey()[..., None], name=name, dim=[3, 30000, 30000, 1] + [1] * 4), TooManyVoxels
    )


def test_nifti_pixels_that_are_not_finite_become_zero_unless_all_are(write_nifti: Writer) -> None:
    pixels = grey().astype(np.float32) + 1
    pixels[3:9] = np.nan
    found = read_slice(write_nifti(pixels[..., None]))
    assert (found[:, 3:9] == 0).all()
    assert np.array_equal(found[:, 9:], pixels[9:].T[::-1])
    refusal(write_nifti(np.full((*SHAPE, 1), np.nan, np.float32)), NotFiniteScan)


def test_a_nifti_slice_is_refused_as_a_scan_is(write_nifti: Writer) -> None:
    pixels = grey()[..., None]
    refusal(write_nifti(pixels, qform_code=0, sform_code=0), MissingOrientation)
    refusal(write_nifti(pixels, srow_x=[0, 0, 0, 0]), BadVoxelSize)
    refusal(write_nifti(pixels, datatype=128, bitpix=24), UnsupportedDatatype)
    whole = write_nifti(np.random.default_rng(1).random((90, 90, 1)), name="slice.nii")
    content = whole.read_bytes()
    whole.write_bytes(content[:-9])
    refusal(whole, TruncatedScan)
    whole.write_bytes(gzip.compress(content)[:-9])
    refusal(whole, CorruptCompression)
