"""Read files as scans or refuse them with the exact error, and write labels on their grid."""

from __future__ import annotations

import gzip
import resource
import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import (
    BadAffine,
    BadVoxelSize,
    ConstantScan,
    CorruptCompression,
    EmptyScan,
    FileTooLarge,
    MissingOrientation,
    NotFiniteScan,
    OverlongScan,
    ScanError,
    SuspiciousCompression,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
)
from neurobento.imaging.limits import ScanLimits
from neurobento.imaging.scan import label_bytes, map_bytes, read_scan, scan_name, write_labels

SHAPE = (20, 24, 18)
AFFINE = nib.affines.from_matvec(np.diag([-2.0, 2.5, 3.0]), [30.0, -20.0, 10.0])
OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.1) @ np.diag([-1.1, 1.2, 1.3]), [33.3, -21.7, 9.1]
)
Writer = Callable[..., Path]
GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d"),
    *("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z"),
)


def voxels(dtype: Any = np.int16) -> Any:
    """Noise from 0 to 99: it compresses, but not like a bomb."""
    return np.random.default_rng(1).integers(0, 100, SHAPE).astype(dtype)


def nifti_bytes(array: Any = None, affine: Any = AFFINE, kind: Any = nib.Nifti1Image) -> bytes:
    array = voxels() if array is None else array
    return bytes(kind(array, affine, dtype=array.dtype).to_bytes())


def claiming(lengths: tuple[int, int, int], datatype: int, bitpix: int) -> bytes:
    """A header that claims a grid, followed by no voxels."""
    header = nib.Nifti1Header()
    header["dim"] = [3, *lengths, 1, 1, 1, 1]
    header["datatype"], header["bitpix"] = datatype, bitpix
    header["vox_offset"] = 352
    # half a millimetre: 512 voxels are still a head's field of view
    header.set_sform(np.diag([0.5, 0.5, 0.5, 1.0]), code=1)
    return bytes(header.binaryblock)


def refusal(path: Path, leaf: type[ScanError], limits: ScanLimits | None = None) -> ScanError:
    """Return the error: exactly this leaf, naming the file to the caller only."""
    with pytest.raises(ScanError) as caught:
        read_scan(path, limits)
    error = caught.value
    assert type(error) is leaf
    assert error.subject == str(path)
    assert str(error).startswith(f"{path}: expected ")
    assert path.name not in error.public_message
    assert error.expected
    assert error.found
    assert error.remedy.endswith(".")
    return error


def gzip_member(data: bytes, padding_bytes: int = 0) -> bytes:
    """A gzip member whose header is made longer by a file name of `padding_bytes` bytes."""
    member = gzip.compress(data, mtime=0)
    if not padding_bytes:
        return member
    name = b"n" * (padding_bytes - 1) + b"\0"
    return member[:3] + b"\x08" + member[4:10] + name + member[10:]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def to(content: bytes, name: str = "scan.nii.gz") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to


PACK = pytest.mark.parametrize("pack", [gzip.compress, bytes])


# --- what is read ---


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4", ">f8"]
)
def test_voxels_are_nibabels(dtype: str, name: str, kind: Any, tmp_path: Path) -> None:
    array = voxels(np.dtype(dtype))
    header = kind.header_class(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    path = tmp_path / name
    nib.save(kind(array, AFFINE, header), path)
    scan = read_scan(path)
    truth = nib.load(path)
    assert np.array_equal(scan.array, truth.get_fdata(dtype=np.float32))
    assert np.array_equal(scan.voxel_to_ras, truth.affine)
    assert scan.shape == truth.shape


def test_a_scan_is_float32_read_only_and_knows_its_grid(write_nifti: Writer) -> None:
    scan = read_scan(write_nifti(voxels(), OBLIQUE))
    assert scan.array.dtype == np.float32
    assert not scan.array.flags.writeable
    assert scan.array.dtype.isnative
    assert scan.voxel_sizes_mm == pytest.approx(nib.affines.voxel_sizes(OBLIQUE), abs=1e-5)
    assert scan.axis_codes == "".join(nib.aff2axcodes(OBLIQUE))


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_mgh_is_nibabels(suffix: str, dtype: Any, tmp_path: Path) -> None:
    path = tmp_path / f"scan{suffix}"
    nib.save(nib.MGHImage(voxels(dtype), OBLIQUE), path)
    data = path.read_bytes()
    truth = nib.MGHImage.from_bytes(gzip.decompress(data) if suffix == ".mgz" else data)
    scan = read_scan(path)
    assert np.array_equal(scan.array, truth.get_fdata(dtype=np.float32))
    assert np.array_equal(scan.voxel_to_ras, truth.affine)


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0.5, -3.0), (2.0, 0.0), (1.0, 7.0), (-1.0, 99.0)]
)
def test_slope_and_intercept_are_applied(
    slope: float, intercept: float, write_nifti: Writer
) -> None:
    path = write_nifti(voxels(), scl_slope=slope, scl_inter=intercept)
    assert np.array_equal(read_scan(path).array, voxels() * slope + intercept)
    assert np.array_equal(read_scan(path).array, nib.load(path).get_fdata())


@pytest.mark.parametrize("trailing", [(1,), (1, 1), (1, 1, 1, 1)])
def test_one_volume_in_more_dimensions_is_that_volume(
    trailing: tuple[int, ...], write_nifti: Writer
) -> None:
    scan = read_scan(write_nifti(voxels().reshape(*SHAPE, *trailing)))
    assert scan.shape == SHAPE
    assert np.array_equal(scan.array, voxels())


@pytest.mark.parametrize("name", ["scan", "scan.txt", "scan.nii", "scan.mgz", "scan.png.gz"])
@PACK
def test_the_content_decides_not_the_name(name: str, pack: Any, write: Writer) -> None:
    assert np.array_equal(read_scan(write(pack(nifti_bytes()), name)).array, voxels())


@pytest.mark.parametrize(
    ("junk", "dtype"), [(np.nan, "f4"), (np.inf, "f4"), (-np.inf, "f4"), (1e300, "f8")]
)
def test_voxels_that_are_not_finite_in_float32_become_zero(
    junk: float, dtype: str, write_nifti: Writer
) -> None:
    array = voxels(dtype) + 1
    array[3:9] = junk
    found = read_scan(write_nifti(array)).array
    assert (found[3:9] == 0).all()
    assert np.array_equal(found[9:], array[9:])


def test_nifti_extensions_are_skipped(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"JANE DOE" * 999))
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_scan(tmp_path / "scan.nii.gz")
    assert np.array_equal(scan.array, voxels())
    assert not scan.space.header.extensions


@PACK
def test_some_bytes_behind_the_voxels_are_no_harm_but_a_mebibyte_is_overlong(
    pack: Any, write: Writer
) -> None:
    assert np.array_equal(read_scan(write(pack(nifti_bytes() + bytes(5000)))).array, voxels())
    tail = np.random.default_rng(2).bytes((1 << 20) + 1)
    refusal(write(pack(nifti_bytes() + tail)), OverlongScan)


# --- compression ---


@pytest.mark.parametrize("pieces", [2, 7])
def test_gzip_members_in_a_row_are_one_stream_and_zeros_behind_it_are_padding(
    pieces: int, write: Writer
) -> None:
    data = nifti_bytes()
    step = -(-len(data) // pieces)
    packed = b"".join(gzip.compress(data[i : i + step]) for i in range(0, len(data), step))
    for stream in (packed, packed + bytes(512), gzip.compress(data) + bytes(512)):
        assert np.array_equal(read_scan(write(stream)).array, voxels())


@pytest.mark.parametrize("shift", range(-12, 3))
def test_gzip_members_may_meet_anywhere(shift: int, write: Writer) -> None:
    """The second member begins around byte 65536, where a piece read from the file may end."""
    data = nifti_bytes()
    first = gzip_member(data[:5000])
    first = gzip_member(data[:5000], padding_bytes=65536 + shift - len(first))
    assert len(first) == 65536 + shift
    path = write(first + gzip_member(data[5000:]))
    assert gzip.decompress(path.read_bytes()) == data
    assert np.array_equal(read_scan(path).array, voxels())


@pytest.mark.parametrize("size", [2, 3, 9, 10, 12, 60, -1000, -20, -8, -4, -1])
def test_a_gzip_stream_that_ends_early_is_corrupt(size: int, write: Writer) -> None:
    refusal(write(gzip.compress(nifti_bytes())[:size]), CorruptCompression)


@pytest.mark.parametrize(("where", "bits"), [(0.5, 0x10), (-6, 0xFF), (-2, 0xFF)])
def test_a_flipped_bit_a_wrong_checksum_or_length_is_corrupt(
    where: float, bits: int, write: Writer
) -> None:
    data = bytearray(gzip.compress(nifti_bytes()))
    data[int(where * len(data)) if where > 0 else int(where)] ^= bits
    refusal(write(data), CorruptCompression)


@pytest.mark.parametrize("size", [0, 1, 347, 351, 352, 5000])
def test_a_whole_gzip_stream_of_too_few_bytes_is_truncated(size: int, write: Writer) -> None:
    path = write(gzip.compress(nifti_bytes()[:size]))
    refusal(path, TruncatedScan if size >= 348 else UnknownFormat)


# --- what is refused: unreadable ---


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" * 99, b"P", bytes(5000)])
@PACK
def test_other_files_are_an_unknown_format(content: bytes, pack: Any, write: Writer) -> None:
    refusal(write(pack(content)), UnknownFormat)


@pytest.mark.parametrize("missing", [1, 2, 1000, 17000])
def test_a_file_cut_short_is_truncated(missing: int, write: Writer) -> None:
    refusal(write(nifti_bytes()[:-missing], "scan.nii"), TruncatedScan)


@PACK
def test_an_mgh_file_cut_short_is_truncated(pack: Any, write: Writer) -> None:
    whole = bytes(nib.MGHImage(voxels(), AFFINE).to_bytes())[:9000]
    refusal(write(pack(whole), "scan.mgz" if pack is gzip.compress else "scan.mgh"), TruncatedScan)


def test_a_missing_file_is_not_a_scan_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_scan(tmp_path / "nowhere.nii")


# --- what is refused: oversized ---


@pytest.mark.alone
@pytest.mark.parametrize(
    ("lengths", "datatype", "bitpix", "leaf"),
    [
        ((1300, 1300, 1330), 64, 64, UnsupportedDimensions),
        ((512, 512, 512), 64, 64, TooManyVoxels),
        ((512, 512, 256), 64, 64, TooManyVoxels),
        ((512, 512, 256), 16, 32, TruncatedScan),
    ],
)
@PACK
def test_a_claim_of_gigabytes_costs_nothing(
    lengths: Any, datatype: int, bitpix: int, leaf: type[ScanError], pack: Any, write: Writer
) -> None:
    """377 bytes that claim 18 GB, 1 GB, or the largest scan allowed."""
    path = write(pack(claiming(lengths, datatype, bitpix).ljust(377, b"\0")))
    tracemalloc.start()
    start = time.perf_counter()
    try:
        refusal(path, leaf)
        assert time.perf_counter() - start < 0.5
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.alone
@pytest.mark.parametrize("claim", ["honest", "far too little", "too much"])
def test_a_gzip_bomb_is_stopped_early(claim: str, write: Writer) -> None:
    """200 MB of zeros in 200 kB: reading stops after a few MB, whatever the header says."""
    lengths = {"honest": (512, 512, 200), "far too little": SHAPE, "too much": (512, 512, 250)}
    deflate = zlib.compressobj(9, wbits=31)
    packed = deflate.compress(claiming(lengths[claim], 8, 32).ljust(352, b"\0"))
    packed += b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()
    path = write(packed)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        refusal(path, SuspiciousCompression if claim != "far too little" else OverlongScan)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 << 20
    assert time.perf_counter() - start < 3


def test_a_bomb_of_many_members_is_stopped_too(write: Writer) -> None:
    head = claiming((512, 512, 200), 8, 32).ljust(352, b"\0")
    path = write(gzip.compress(head) + gzip.compress(bytes(4 << 20)) * 20)
    refusal(path, SuspiciousCompression)


def test_a_file_above_the_limit_is_too_large(write: Writer) -> None:
    path = write(nifti_bytes(), "scan.nii")
    size = path.stat().st_size
    error = refusal(path, FileTooLarge, ScanLimits(max_file_bytes=size - 1))
    assert str(size) in error.found
    assert read_scan(path, ScanLimits(max_file_bytes=size)).shape == SHAPE


@pytest.mark.alone
def test_a_sparse_file_of_a_gigabyte_is_not_read(write: Writer) -> None:
    path = write(b"", "scan.nii")
    with path.open("wb") as file:
        file.truncate(1 << 30)
    start = time.perf_counter()
    refusal(path, FileTooLarge)
    assert time.perf_counter() - start < 0.5


# --- what is refused: unsupported, degenerate ---


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"qform_code": 0, "sform_code": 0}, MissingOrientation),
        ({"srow_x": [np.nan, 0, 0, 0]}, BadAffine),
        ({"srow_x": [-2, 2, 0, 0], "srow_y": [-2, 2, 0, 0]}, BadAffine),
        ({"srow_x": [0.01, 0, 0, 0]}, BadVoxelSize),
        ({"datatype": 128, "bitpix": 24}, UnsupportedDatatype),
        ({"datatype": 32, "bitpix": 64}, UnsupportedDatatype),
        ({"datatype": 9999}, UnsupportedDatatype),
        ({"dim": [4, *SHAPE, 2, 1, 1, 1]}, UnsupportedDimensions),
        ({"dim": [2, 20, 24, 1, 1, 1, 1, 1]}, UnsupportedDimensions),
        ({"vox_offset": 10}, UnknownFormat),
    ],
)
@pytest.mark.parametrize("name", ["JANE_DOE.nii", "JANE_DOE.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_header_refusals_reach_the_caller_with_the_file_as_subject(
    fields: dict[str, Any], leaf: type[ScanError], name: str, kind: Any, write_nifti: Writer
) -> None:
    path = write_nifti(voxels(), AFFINE, name, kind, descrip=b"JANE DOE", **fields)
    error = refusal(path, leaf)
    assert "JANE" not in error.public_message
    assert "JANE DOE" not in str(error)


DEGENERATE = [
    *((np.zeros(SHAPE, dtype), EmptyScan) for dtype in ("u1", "i2", "f4")),
    (np.where(np.arange(SHAPE[2]) < 4, np.full(SHAPE, np.nan, "f4"), np.float32(0)), EmptyScan),
    *((np.full(SHAPE, value, np.int16), ConstantScan) for value in (1, -3, 100)),
    *((np.full(SHAPE, value, "f4"), NotFiniteScan) for value in (np.nan, np.inf, -np.inf)),
    (np.stack([voxels()] * 3, axis=-1), UnsupportedDimensions),
]


@pytest.mark.parametrize(("array", "leaf"), DEGENERATE)
def test_one_value_no_finite_one_or_several_volumes_are_no_scan(
    array: Any, leaf: type[ScanError], write_nifti: Writer
) -> None:
    refusal(write_nifti(array), leaf)


def test_scaling_can_make_a_scan_constant(write_nifti: Writer) -> None:
    refusal(write_nifti(voxels(), scl_slope=1e-30, scl_inter=5), ConstantScan)


@pytest.mark.parametrize("seed", range(2))
def test_no_damaged_file_raises_anything_but_a_scan_error(seed: int, tmp_path: Path) -> None:
    random = np.random.default_rng(seed)
    good = [nifti_bytes(), nifti_bytes(kind=nib.Nifti2Image)]
    good += [gzip.compress(data, compresslevel=1) for data in good]
    path = tmp_path / "scan"
    subjects = []
    for whole in good:
        for _ in range(25):
            data = np.frombuffer(whole, np.uint8).copy()
            where = random.integers(0, 600, 10)
            data[where] = random.integers(0, 256, len(where))
            path.write_bytes(data[: random.integers(1, len(data))].tobytes())
            try:
                read_scan(path)
            except ScanError as error:
                subjects.append(error.subject)
    assert len(subjects) > 80
    assert set(subjects) == {str(path)}


# --- labels back in the scan's own space ---


def different_forms() -> dict[str, Any]:
    """qform and sform that disagree, as scanners and registration tools leave them."""
    return {"qform_code": 1, "sform_code": 4, "srow_x": [-1.99, 0.1, 0.05, 31.4159]}


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sform_code": 0},
        {"qform_code": 0},
        {"qform_code": 3, "sform_code": 2},
        different_forms(),
        {"srow_y": [0.3, 2.4, 0.2, -20.2], "qform_code": 0},
        {"pixdim": [1, 9, 9, 9, 2.2, 0, 0, 0], "qform_code": 0},
    ],
    ids=["both", "qform", "sform", "codes", "disagree", "shear", "pixdim"],
)
def test_written_labels_have_the_inputs_geometry_to_the_bit(
    fields: dict[str, Any], affine: Any, kind: Any, write_nifti: Writer, tmp_path: Path
) -> None:
    path = write_nifti(voxels(), affine, "in.nii", kind, **fields)
    scan = read_scan(path)
    labels = (voxels() % 5).astype(np.uint8)
    write_labels(tmp_path / "out.nii.gz", labels, scan.space)
    source, written = nib.load(path), nib.load(tmp_path / "out.nii.gz")
    for field in GEOMETRY_FIELDS:
        assert np.array_equal(written.header[field], source.header[field]), field
    assert np.array_equal(written.header["pixdim"][:4], source.header["pixdim"][:4])
    assert np.array_equal(written.affine, source.affine)
    assert np.array_equal(scan.voxel_to_ras, source.affine)
    assert type(written) is kind
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj), labels)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.header.get_intent()[0] == "label"


@pytest.mark.parametrize("affine", [AFFINE, OBLIQUE], ids=["straight", "oblique"])
def test_labels_of_an_mgh_scan_lie_where_the_scan_does(affine: Any, tmp_path: Path) -> None:
    nib.save(nib.MGHImage(voxels(np.float32), affine), tmp_path / "in.mgz")
    scan = read_scan(tmp_path / "in.mgz")
    write_labels(tmp_path / "out.nii.gz", np.ones(SHAPE, np.uint8), scan.space)
    written = nib.load(tmp_path / "out.nii.gz")
    assert written.shape == SHAPE
    assert written.affine == pytest.approx(nib.load(tmp_path / "in.mgz").affine, abs=1e-5)


def test_labels_of_a_big_endian_scan_lie_where_the_scan_does(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    nib.save(nib.Nifti1Image(voxels(">i2"), OBLIQUE, header), tmp_path / "in.nii")
    scan = read_scan(tmp_path / "in.nii")
    write_labels(tmp_path / "out.nii.gz", np.ones(SHAPE, np.uint8), scan.space)
    written = nib.load(tmp_path / "out.nii.gz")
    assert np.array_equal(written.affine, nib.load(tmp_path / "in.nii").affine)


def test_a_written_label_map_can_be_read_again(write_nifti: Writer, tmp_path: Path) -> None:
    scan = read_scan(write_nifti(voxels(), OBLIQUE))
    labels = (voxels() % 7).astype(np.uint8)
    write_labels(tmp_path / "out.nii.gz", labels, scan.space)
    again = read_scan(tmp_path / "out.nii.gz")
    assert np.array_equal(again.array, labels)
    assert np.array_equal(again.voxel_to_ras, scan.voxel_to_ras)


def test_nothing_personal_survives_in_written_labels(write_nifti: Writer) -> None:
    path = write_nifti(
        voxels(), AFFINE, descrip=b"JANE DOE", aux_file=b"JANE", db_name=b"JANE", data_type=b"JANE"
    )
    scan = read_scan(path)
    assert b"JANE" not in scan.space.header.binaryblock
    plain = gzip.decompress(label_bytes(np.ones(SHAPE, np.uint8), scan.space))
    assert b"JANE" not in plain
    assert plain[344:348] == b"n+1\0"


def test_the_same_labels_give_the_same_bytes(write_nifti: Writer) -> None:
    path = write_nifti(voxels(), OBLIQUE)
    labels = (voxels() % 5).astype(np.uint8)
    first = label_bytes(labels, read_scan(path).space, extension=b"table")
    second = label_bytes(labels.copy(order="F"), read_scan(path).space, extension=b"table")
    assert first == second
    assert struct.unpack("<I", first[4:8]) == (0,)


def test_the_extension_is_written_and_the_space_left_alone(write_nifti: Writer) -> None:
    space = read_scan(write_nifti(voxels())).space
    before = bytes(space.header.binaryblock)
    data = label_bytes(np.ones(SHAPE, np.uint8), space, extension=b"1\tPrecentral_L")
    (extension,) = nib.Nifti1Image.from_bytes(gzip.decompress(data)).header.extensions
    assert extension.get_code() == 6
    assert bytes(extension.get_content()).rstrip(b"\0") == b"1\tPrecentral_L"
    assert bytes(space.header.binaryblock) == before
    assert not space.header.extensions


def test_labels_are_written_whole_or_not_at_all(write_nifti: Writer, tmp_path: Path) -> None:
    """The disk fills up half way: the old file stays, and no partial file remains."""
    space = read_scan(write_nifti(voxels())).space
    labels = np.random.default_rng(3).integers(0, 117, SHAPE, dtype=np.uint8)
    folder = tmp_path / "out"
    folder.mkdir()
    kept = folder / "kept.nii.gz"
    write_labels(kept, np.ones(SHAPE, np.uint8), space)
    before = kept.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for path in (kept, folder / "new.nii.gz"):
            with pytest.raises(OSError, match="File too large"):
                write_labels(path, labels, space)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept.read_bytes() == before
    assert list(folder.iterdir()) == [kept]


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_a_map_of_another_type_or_shape_is_refused(dtype: Any, write_nifti: Any) -> None:
    space = read_scan(write_nifti(np.arange(24**3).reshape(24, 24, 24).astype(np.int16))).space
    with pytest.raises(ValueError, match="float32"):
        map_bytes(np.zeros(space.shape, dtype), space)
    with pytest.raises(ValueError, match="24"):
        map_bytes(np.zeros((24, 24, 23), np.float32), space)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sub.01.nii", "sub.01"),
        ("sub.01.nii.gz", "sub.01"),
        ("SUB.01.NII.GZ", "SUB.01"),
        ("sub-01.mgz", "sub-01"),
        ("Y 1.png", "Y 1"),
        ("Y1.jpeg", "Y1"),
        ("Y.1.JPG", "Y.1"),
        ("IM-0001.dcm", "IM-0001"),
        ("IM.0001", "IM.0001"),
        ("1.2.840.113619.2.5", "1.2.840.113619.2.5"),
        ("IM0001", "IM0001"),
    ],
)
def test_outputs_are_called_after_a_file_without_its_suffix(file: str, name: str) -> None:
    assert scan_name(Path("/patients.nii") / file) == name
