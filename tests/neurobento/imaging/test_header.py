"""Headers are accepted, or refused with exactly one leaf of the errors."""

from __future__ import annotations

import struct
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.freesurfer.mghformat import MGHHeader

from neurobento.errors import (
    BadAffine,
    BadFieldOfView,
    BadVoxelSize,
    MissingOrientation,
    ScanError,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
)
from neurobento.imaging.header import HEADER_BYTES, ScanHeader, parse_header
from neurobento.imaging.limits import ScanLimits

LIMITS = ScanLimits()
SHAPE = (20, 24, 18)
AFFINE = nib.affines.from_matvec(np.diag([-2.0, 2.0, 3.0]), [30.0, -20.0, 10.0])
HALF_MM = {"srow_x": [-0.5, 0, 0, 0], "srow_y": [0, 0.5, 0, 0], "srow_z": [0, 0, 0.5, 0]}
NIFTI_KINDS = [nib.Nifti1Header, nib.Nifti2Header]


def nifti(kind: Any = nib.Nifti1Header, endianness: str = "<", **fields: Any) -> bytes:
    """A good header's bytes, with raw fields changed."""
    header = kind(endianness=endianness)
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.int16)
    header.set_sform(AFFINE, code=1)
    header.set_qform(AFFINE, code=1)
    header["vox_offset"] = len(header.binaryblock) + 4
    for field, value in fields.items():
        header[field] = value
    return bytes(header.binaryblock).ljust(HEADER_BYTES, b"\0")


def mgh(**fields: Any) -> bytes:
    header = nib.MGHImage(np.zeros(SHAPE, np.float32), AFFINE).header
    for field, value in fields.items():
        header[field] = value
    return bytes(header.binaryblock).ljust(HEADER_BYTES, b"\0")


def dim(*lengths: int) -> list[int]:
    return [len(lengths), *lengths, *[1] * (7 - len(lengths))]


def refusal(head: bytes, leaf: type[ScanError], limits: ScanLimits = LIMITS) -> ScanError:
    """Return the error, which is exactly this leaf."""
    with pytest.raises(ScanError) as caught:
        parse_header(head, limits)
    assert type(caught.value) is leaf
    assert all(caught.value.parts[part] for part in ("expected", "found", "remedy"))
    return caught.value


@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("kind", NIFTI_KINDS)
def test_a_good_nifti_header_is_read_as_nibabel_reads_it(kind: Any, endianness: str) -> None:
    head = nifti(kind, endianness, scl_slope=2.5, scl_inter=-7)
    truth = kind(binaryblock=head[: kind.template_dtype.itemsize], endianness=endianness)
    found = parse_header(head, LIMITS)
    assert found.space.shape == truth.get_data_shape() == SHAPE
    assert np.array_equal(found.space.voxel_to_ras, truth.get_best_affine())
    assert found.datatype == np.dtype(np.int16).newbyteorder(endianness)
    assert (found.slope, found.intercept) == (2.5, -7)
    assert found.start_bytes == truth.get_data_offset()
    assert found.end_bytes - found.start_bytes == 2 * 20 * 24 * 18


def test_a_good_mgh_header_is_read_as_nibabel_reads_it() -> None:
    found = parse_header(mgh(), LIMITS)
    assert found.space.shape == SHAPE
    assert found.space.voxel_to_ras == pytest.approx(AFFINE, abs=1e-5)
    assert found.datatype == np.dtype(">f4")
    assert (found.slope, found.intercept) == (1, 0)
    assert found.start_bytes == 284
    assert found.end_bytes == 284 + 4 * 20 * 24 * 18


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0",
        b"hello",
        b"P6 512 512 255 ".ljust(HEADER_BYTES, b"\7"),
        bytes(HEADER_BYTES),
        b"\xff" * HEADER_BYTES,
        b"%PDF-1.7".ljust(HEADER_BYTES, b" "),
    ],
)
def test_other_content_is_an_unknown_format(head: bytes) -> None:
    refusal(head, UnknownFormat)


@pytest.mark.parametrize("magic", [b"ni1\0", b"\0\0\0\0", b"n+3\0"])
def test_analyze_and_pairs_are_an_unknown_format(magic: bytes) -> None:
    head = nifti()
    refusal(head[:344] + magic + head[348:], UnknownFormat)


@pytest.mark.parametrize("kind", NIFTI_KINDS)
@pytest.mark.parametrize("offset", [0, 100, -352, 1 << 30])
def test_an_impossible_voxel_offset_is_an_unknown_format(kind: Any, offset: int) -> None:
    refusal(nifti(kind, vox_offset=offset), UnknownFormat)


@pytest.mark.parametrize("offset", [np.nan, np.inf, -np.inf])
def test_a_voxel_offset_that_is_no_number_is_an_unknown_format(offset: float) -> None:
    refusal(nifti(vox_offset=offset), UnknownFormat)


@pytest.mark.parametrize(
    "head", [nifti(nib.Nifti2Header)[:539], nifti(nib.Nifti2Header)[:16], mgh()[:283], mgh()[:6]]
)
def test_half_a_header_is_a_truncated_scan(head: bytes) -> None:
    refusal(head, TruncatedScan)


@pytest.mark.parametrize(
    "lengths",
    [(20,), (20, 24), (20, 24, 18, 2), (20, 24, 18, 1, 3), (20, 24, 18, 0), (20, 24, 18, -1)],
)
@pytest.mark.parametrize("kind", NIFTI_KINDS)
def test_what_is_not_one_3d_image_is_refused(kind: Any, lengths: tuple[int, ...]) -> None:
    refusal(nifti(kind, dim=dim(*lengths)), UnsupportedDimensions)


@pytest.mark.parametrize("ndim", [0, -3, 8, 32767])
def test_an_impossible_number_of_dimensions_is_refused(ndim: int) -> None:
    refusal(nifti(dim=[ndim, *SHAPE, 1, 1, 1, 1]), UnsupportedDimensions)


@pytest.mark.parametrize("lengths", [(*SHAPE, 1), (*SHAPE, 1, 1), (*SHAPE, 1, 1, 1, 1)])
def test_trailing_axes_of_one_are_no_axes(lengths: tuple[int, ...]) -> None:
    assert parse_header(nifti(dim=dim(*lengths)), LIMITS).space.shape == SHAPE


def test_lengths_behind_the_last_dimension_do_not_count() -> None:
    assert parse_header(nifti(dim=[3, *SHAPE, 0, 7, -1, 9]), LIMITS).space.shape == SHAPE


@pytest.mark.parametrize("frames", [2, 300])
def test_an_mgh_series_is_refused(frames: int) -> None:
    refusal(mgh(dims=[*SHAPE, frames]), UnsupportedDimensions)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("length", [-5, 0, 1, 15, 513, 32767])
def test_an_axis_out_of_range_is_refused(axis: int, length: int) -> None:
    lengths = list(SHAPE)
    lengths[axis] = length
    refusal(nifti(dim=dim(*lengths)), UnsupportedDimensions)


@pytest.mark.parametrize("length", [16, 512])
def test_an_axis_at_the_limit_is_accepted(length: int) -> None:
    head = nifti(dim=dim(length, 16, 16), **HALF_MM)
    assert parse_header(head, LIMITS).space.shape == (length, 16, 16)


def test_a_grid_above_the_limit_has_too_many_voxels() -> None:
    refusal(nifti(dim=dim(512, 512, 257), **HALF_MM), TooManyVoxels)
    head = nifti(dim=dim(512, 512, 256), **HALF_MM)
    assert parse_header(head, LIMITS).space.shape == (512, 512, 256)


@pytest.mark.parametrize(
    "lengths", [(261, 20, 20), (20, 20, 512), (205, 205, 205)], ids=["long", "longer", "wide"]
)
def test_a_field_of_view_beyond_any_head_is_refused(lengths: tuple[int, int, int]) -> None:
    """Few voxels, but step 3 would make 1 mm of each: a small file would cost gigabytes."""
    two_mm = {"srow_x": [-2, 0, 0, 0], "srow_y": [0, 2, 0, 0], "srow_z": [0, 0, 2, 0]}
    refusal(nifti(dim=dim(*lengths), **two_mm), BadFieldOfView)


def test_a_field_of_view_at_the_limit_is_accepted() -> None:
    two_mm = {"srow_x": [-2, 0, 0, 0], "srow_y": [0, 2, 0, 0], "srow_z": [0, 0, 2, 0]}
    assert parse_header(nifti(dim=dim(200, 200, 200), **two_mm), LIMITS).space.shape == (200,) * 3
    assert parse_header(nifti(dim=dim(260, 20, 20), **two_mm), LIMITS).space.shape == (260, 20, 20)


def test_a_product_beyond_64_bits_is_refused() -> None:
    huge = (1 << 40, 1 << 40, 1 << 40)
    refusal(nifti(nib.Nifti2Header, dim=dim(*huge)), UnsupportedDimensions)


@pytest.mark.parametrize(
    "code", [0, 1, 32, 128, 255, 1536, 1792, 2048, 2304, 7, -4], ids=lambda c: f"code{c}"
)
def test_a_datatype_that_is_no_number_is_unsupported(code: int) -> None:
    error = refusal(nifti(datatype=code), UnsupportedDatatype)
    assert str(code) in error.found


@pytest.mark.parametrize("code", [7, 2, -1, 99])
def test_an_unknown_mgh_type_is_an_unsupported_datatype(code: int) -> None:
    refusal(mgh(type=code), UnsupportedDatatype)


@pytest.mark.parametrize("kind", NIFTI_KINDS)
def test_without_qform_and_sform_the_orientation_is_missing(kind: Any) -> None:
    refusal(nifti(kind, qform_code=0, sform_code=0), MissingOrientation)


def test_an_mgh_header_that_disowns_its_orientation_has_none() -> None:
    """goodRASFlag 0 says that the direction fields hold nothing; a default would be a guess."""
    raw = bytearray(mgh())
    (offset,) = [MGHHeader.template_dtype.fields["goodRASFlag"][1]]
    raw[offset : offset + 2] = struct.pack(">h", 0)
    refusal(bytes(raw), MissingOrientation)


@pytest.mark.parametrize("code", ["qform_code", "sform_code"])
def test_one_of_qform_and_sform_is_enough(code: str) -> None:
    other = {"qform_code": "sform_code", "sform_code": "qform_code"}[code]
    found = parse_header(nifti(**{other: 0}), LIMITS)
    assert found.space.voxel_to_ras == pytest.approx(AFFINE, abs=1e-5)


def test_a_qfac_of_zero_means_one() -> None:
    """NIfTI-1, method 2: pixdim[0] of 0 is read as 1; nibabel does so on loading."""
    header = nib.Nifti1Header(binaryblock=nifti()[:348])
    header.set_qform(np.diag([2.0, 2.0, 3.0, 1.0]), code=1)
    header["sform_code"] = 0
    expected = header.get_qform()
    header["pixdim"][0] = 0
    found = parse_header(bytes(header.binaryblock).ljust(HEADER_BYTES, b"\0"), LIMITS)
    assert np.array_equal(found.space.voxel_to_ras, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("row", ["srow_x", "srow_y", "srow_z"])
@pytest.mark.parametrize("column", [0, 3])
def test_an_affine_that_is_not_finite_is_bad(value: float, row: str, column: int) -> None:
    numbers = np.array(AFFINE[["srow_x", "srow_y", "srow_z"].index(row)])
    numbers[column] = value
    refusal(nifti(**{row: numbers}), BadAffine)


@pytest.mark.parametrize("field", ["quatern_b", "quatern_c", "qoffset_x"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_quaternion_that_is_not_finite_is_bad(field: str, value: float) -> None:
    refusal(nifti(sform_code=0, **{field: value}), BadAffine)


def test_an_impossible_rotation_is_a_bad_affine() -> None:
    refusal(nifti(sform_code=0, quatern_b=0.9, quatern_c=0.9, quatern_d=0.9), BadAffine)


@pytest.mark.parametrize(
    "columns",
    [
        [[1, 1, 0], [1, 1, 0], [0, 0, 1]],
        [[1, 0, 1], [0, 1, 1], [0, 0, 0.001]],
        [[2, 2, 2], [2, 2, 2], [2, 2, 2.01]],
    ],
)
def test_axes_in_one_plane_are_a_bad_affine(columns: list[list[float]]) -> None:
    rows = dict(zip(["srow_x", "srow_y", "srow_z"], columns, strict=True))
    refusal(nifti(**{row: [*numbers, 0] for row, numbers in rows.items()}), BadAffine)


def test_a_shear_that_keeps_the_axes_apart_is_accepted() -> None:
    found = parse_header(nifti(srow_x=[-2, 0.5, 0, 30]), LIMITS)
    assert found.space.voxel_to_ras[0].tolist() == [-2, 0.5, 0, 30]


@pytest.mark.parametrize("size", [0.0, 0.001, 0.29, 7.01, 100.0, 9e5])
@pytest.mark.parametrize("axis", range(3))
def test_a_voxel_size_out_of_range_is_refused(size: float, axis: int) -> None:
    row = np.zeros(4)
    row[axis] = size
    refusal(nifti(**{["srow_x", "srow_y", "srow_z"][axis]: row}), BadVoxelSize)


def test_the_voxel_size_of_a_qform_counts_too() -> None:
    refusal(nifti(sform_code=0, pixdim=[1, 2, 0, 2, 0, 0, 0, 0]), BadVoxelSize)


@pytest.mark.parametrize("size", [0.0, 0.1, 50.0])
def test_the_voxel_size_of_an_mgh_header_counts_too(size: float) -> None:
    refusal(mgh(delta=[1, size, 1]), BadVoxelSize)


def test_an_mgh_affine_that_is_not_finite_is_bad() -> None:
    refusal(mgh(Pxyz_c=[0, np.nan, 0]), BadAffine)


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_a_slope_that_scales_nothing_is_one(slope: float) -> None:
    found = parse_header(nifti(scl_slope=slope, scl_inter=5), LIMITS)
    assert (found.slope, found.intercept) == (1, 0)


@pytest.mark.parametrize("kind", NIFTI_KINDS)
@pytest.mark.parametrize("endianness", "<>")
def test_the_kept_header_has_the_inputs_geometry_and_nothing_else(
    kind: Any, endianness: str
) -> None:
    junk = {"descrip": b"JANE DOE 1970-01-01", "aux_file": b"/home/jane", "intent_name": b"DOE"}
    if kind is nib.Nifti1Header:
        junk |= {"db_name": b"HOSPITAL", "data_type": b"SECRET"}
    kept = parse_header(nifti(kind, endianness, **junk), LIMITS).space.header
    source = kind(binaryblock=nifti(kind, endianness)[: kept.template_dtype.itemsize])
    geometry = [field for field in kept if field.startswith(("q", "s")) and "form" in field]
    assert geometry == ["qform_code", "sform_code"]
    for field in (*geometry, "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"):
        assert kept[field] == source[field]
    for row in ("srow_x", "srow_y", "srow_z"):
        assert np.array_equal(kept[row], source[row])
    assert np.array_equal(kept["pixdim"][:4], source["pixdim"][:4])
    for text in (b"JANE", b"jane", b"DOE", b"HOSPITAL", b"SECRET"):
        assert text not in kept.binaryblock


def test_a_refusal_repeats_no_header_text() -> None:
    junk = {"descrip": b"JANE DOE", "aux_file": b"JANE DOE", "intent_name": b"JANE DOE"}
    for fields, leaf in (
        ({"datatype": 128}, UnsupportedDatatype),
        ({"dim": dim(*SHAPE, 9)}, UnsupportedDimensions),
        ({"srow_x": [np.nan] * 4}, BadAffine),
        ({"srow_x": [0.0] * 4}, BadVoxelSize),
        ({"qform_code": 0, "sform_code": 0}, MissingOrientation),
        ({"vox_offset": 0}, UnknownFormat),
    ):
        error = refusal(nifti(**junk, **fields), leaf)
        assert "JANE" not in str(error) + repr(error)


@pytest.mark.parametrize("seed", range(3))
def test_no_damaged_header_raises_anything_but_a_scan_error(seed: int) -> None:
    """Headers with random bytes are refused with a leaf or accepted, and never crash."""
    random = np.random.default_rng(seed)
    outcomes = set()
    for good in (nifti(), nifti(nib.Nifti2Header), nifti(endianness=">"), mgh()):
        for _ in range(250):
            head = np.frombuffer(good, np.uint8).copy()
            where = random.integers(4, len(head), random.integers(1, 12))
            head[where] = random.integers(0, 256, len(where))
            try:
                outcomes.add(type(parse_header(head.tobytes(), LIMITS)))
            except ScanError as error:
                outcomes.add(type(error))
    assert ScanHeader in outcomes
    assert len(outcomes) > 4


@pytest.mark.parametrize("size", [*range(0, 360, 7), 539])
def test_no_short_header_raises_anything_but_a_scan_error(size: int) -> None:
    for good in (nifti(nib.Nifti2Header), mgh()):
        if size < 284 or good[:4] != struct.pack(">i", 1):
            with pytest.raises(ScanError):
                parse_header(good[:size], LIMITS)


def test_limits_are_the_callers() -> None:
    narrow = ScanLimits(max_voxels=100, min_axis=2)
    refusal(nifti(), TooManyVoxels, narrow)
    refusal(nifti(), UnsupportedDimensions, ScanLimits(max_axis=19))
    refusal(nifti(), BadVoxelSize, ScanLimits(max_voxel_mm=2.5))


def test_the_affine_is_float64_and_its_own() -> None:
    first, second = (parse_header(nifti(), LIMITS).space.voxel_to_ras for _ in range(2))
    assert first.dtype == np.float64
    first[0, 0] = 99
    assert second[0, 0] == -2
