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
HALF_MM = {
    "pixdim": [-1, 0.5, 0.5, 0.5, 1, 1, 1, 1],
    "srow_x": [-0.5, 0, 0, 0],
    "srow_y": [0, 0.5, 0, 0],
    "srow_z": [0, 0, 0.5, 0],
}
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


OTHER_CONTENT = [
    *(b"", b"\0", b"hello", bytes(HEADER_BYTES), b"\xff" * HEADER_BYTES),
    *(b"P6 512 512 255 ".ljust(HEADER_BYTES, b"\7"), b"%PDF-1.7".ljust(HEADER_BYTES, b" ")),
    # Analyze and pairs of files
    *(nifti()[:344] + magic + nifti()[348:] for magic in (b"ni1\0", b"\0\0\0\0", b"n+3\0")),
    *(nifti(k, vox_offset=at) for k in NIFTI_KINDS for at in (0, 100, -352, 1 << 30)),
    *(nifti(vox_offset=at) for at in (np.nan, np.inf, -np.inf)),
]


@pytest.mark.parametrize("head", OTHER_CONTENT)
def test_other_content_or_an_impossible_voxel_offset_is_an_unknown_format(head: bytes) -> None:
    refusal(head, UnknownFormat)


@pytest.mark.parametrize(
    "head", [nifti(nib.Nifti2Header)[:539], nifti(nib.Nifti2Header)[:16], mgh()[:283], mgh()[:6]]
)
def test_half_a_header_is_a_truncated_scan(head: bytes) -> None:
    refusal(head, TruncatedScan)


LENGTHS = [(20,), (20, 24), (*SHAPE, 2), (*SHAPE, 1, 3), (*SHAPE, 0), (*SHAPE, -1)]
OTHER_DIMENSIONS = [
    *(nifti(kind, dim=dim(*lengths)) for kind in NIFTI_KINDS for lengths in LENGTHS),
    *(nifti(dim=[ndim, *SHAPE, 1, 1, 1, 1]) for ndim in (0, -3, 8, 32767)),
    *(
        nifti(dim=dim(*SHAPE[:axis], length, *SHAPE[axis + 1 :]))
        for axis in range(3)
        for length in (-5, 0, 1, 15, 513, 32767)
    ),
    # the product is beyond 64 bits
    nifti(nib.Nifti2Header, dim=dim(1 << 40, 1 << 40, 1 << 40)),
    *(mgh(dims=[*SHAPE, frames]) for frames in (2, 300)),
]


@pytest.mark.parametrize("head", OTHER_DIMENSIONS)
def test_what_is_not_one_3d_image_with_axes_in_range_is_refused(head: bytes) -> None:
    refusal(head, UnsupportedDimensions)


@pytest.mark.parametrize(
    "dims", [dim(*SHAPE, *[1] * count) for count in (1, 2, 4)] + [[3, *SHAPE, 0, 7, -1, 9]]
)
def test_trailing_axes_of_one_and_lengths_behind_the_last_do_not_count(dims: list[int]) -> None:
    assert parse_header(nifti(dim=dims), LIMITS).space.shape == SHAPE


@pytest.mark.parametrize("length", [16, 512])
def test_an_axis_at_the_limit_is_accepted(length: int) -> None:
    head = nifti(dim=dim(length, 16, 16), **HALF_MM)
    assert parse_header(head, LIMITS).space.shape == (length, 16, 16)


def test_a_grid_above_the_limit_has_too_many_voxels() -> None:
    refusal(nifti(dim=dim(512, 512, 257), **HALF_MM), TooManyVoxels)
    head = nifti(dim=dim(512, 512, 256), **HALF_MM)
    assert parse_header(head, LIMITS).space.shape == (512, 512, 256)


@pytest.mark.parametrize(
    ("lengths", "accepted"),
    [
        *(((261, 20, 20), False), ((20, 20, 512), False), ((205, 205, 205), False)),
        *(((260, 20, 20), True), ((200, 200, 200), True)),
    ],
)
def test_a_field_of_view_beyond_any_head_is_refused(
    lengths: tuple[int, int, int], accepted: bool
) -> None:
    """Few voxels, but step 3 would make 1 mm of each: a small file would cost gigabytes."""
    two_mm = {"srow_x": [-2, 0, 0, 0], "srow_y": [0, 2, 0, 0], "srow_z": [0, 0, 2, 0]}
    head = nifti(dim=dim(*lengths), **two_mm)
    if accepted:
        assert parse_header(head, LIMITS).space.shape == lengths
    else:
        refusal(head, BadFieldOfView)


def test_a_datatype_that_is_no_number_is_unsupported() -> None:
    for code in (0, 1, 32, 128, 255, 1536, 1792, 2048, 2304, 7, -4):
        assert str(code) in refusal(nifti(datatype=code), UnsupportedDatatype).found
    for code in (7, 2, -1, 99):
        refusal(mgh(type=code), UnsupportedDatatype)


def test_a_header_that_states_no_orientation_has_none() -> None:
    """An MGH header's goodRASFlag 0 says that the direction fields hold nothing."""
    for kind in NIFTI_KINDS:
        refusal(nifti(kind, qform_code=0, sform_code=0), MissingOrientation)
    raw = bytearray(mgh())
    offset = MGHHeader.template_dtype.fields["goodRASFlag"][1]
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


ROWS = ["srow_x", "srow_y", "srow_z"]
IN_ONE_PLANE = [
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]],
    [[1, 0, 1], [0, 1, 1], [0, 0, 0.001]],
    [[2, 2, 2], [2, 2, 2], [2, 2, 2.01]],
]
BAD_AFFINES = [
    *(
        nifti(**{row: np.where(np.arange(4) == column, value, numbers)})
        for row, numbers in zip(ROWS, AFFINE, strict=False)
        for column in (0, 3)
        for value in (np.nan, np.inf, -np.inf, 1e30)
    ),
    *(
        nifti(sform_code=0, **{field: value})
        for field in ("quatern_b", "quatern_c", "qoffset_x")
        for value in (np.nan, np.inf)
    ),
    # an impossible rotation
    nifti(sform_code=0, quatern_b=0.9, quatern_c=0.9, quatern_d=0.9),
    *(nifti(**{row: [*axis, 0] for row, axis in zip(ROWS, a, strict=True)}) for a in IN_ONE_PLANE),
    mgh(Pxyz_c=[0, np.nan, 0]),
]


@pytest.mark.parametrize("head", BAD_AFFINES)
def test_an_affine_that_is_not_finite_no_rotation_or_flat_is_bad(head: bytes) -> None:
    refusal(head, BadAffine)


def test_a_shear_that_keeps_the_axes_apart_is_accepted() -> None:
    found = parse_header(nifti(srow_x=[-2, 0.5, 0, 30]), LIMITS)
    assert found.space.voxel_to_ras[0].tolist() == [-2, 0.5, 0, 30]


BAD_SIZES = [
    *(
        nifti(**{row: [size * (i == axis) for i in range(4)]})
        for axis, row in enumerate(ROWS)
        for size in (0.0, 0.001, 0.29, 7.01, 100.0, 9e5)
    ),
    nifti(sform_code=0, pixdim=[1, 2, 0, 2, 0, 0, 0, 0]),
    *(mgh(delta=[1, size, 1]) for size in (0.0, 0.1, 50.0)),
]


@pytest.mark.parametrize("head", BAD_SIZES)
def test_a_voxel_size_out_of_range_is_refused(head: bytes) -> None:
    refusal(head, BadVoxelSize)


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
