"""Slices in DICOM files, whole and damaged."""

from __future__ import annotations

import io
import logging
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate

from neurobento.errors import (
    ConstantScan,
    NotFiniteScan,
    ScanError,
    SuspiciousCompression,
    TooManyVoxels,
    TruncatedScan,
    UnknownFormat,
    UnsupportedDatatype,
    UnsupportedDimensions,
    UnsupportedPlane,
)
from neurobento.imaging.slices.reader import read_slice
from tests.neurobento.imaging.slices.checks import Writer, cost, refusal
from tests.neurobento.imaging.slices.files import (
    BIG,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG_2000,
    JPEG_DICOM,
    RLE,
    SHAPE,
    dicom,
    encoded,
    grey,
    rle_dicom,
)

UNSUPPORTED = {
    "JPEG extended": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
    "MPEG4": "1.2.840.10008.1.2.4.102",
    "private": "1.2.3.4.5",
}


def test_pydicoms_log_is_as_it_was(write: Writer) -> None:
    logger = logging.getLogger("pydicom")
    assert not logger.disabled
    read_slice(write(dicom()))
    assert not logger.disabled


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4"])
def test_a_dicom_image_is_its_values(dtype: str, syntax: str, write: Writer) -> None:
    pixels = grey(most=1000 if dtype != "u1" else 255).astype(dtype)
    pixels = pixels - np.array(300, dtype) if dtype == "i2" else pixels
    found = read_slice(write(dicom(pixels, syntax)))
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels)


TWELVE = {"BitsStored": 12, "HighBit": 11}
OVERLAY = 0x8000


def jpeg_2000(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16)).save(buffer, "JPEG2000", no_jp2=True)
    return encapsulate([buffer.getvalue()])


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG, RLE, JPEG_2000])
@pytest.mark.parametrize("overlay", [0, OVERLAY, 0xF000])
def test_bits_above_those_stored_are_no_part_of_the_value(
    syntax: str, overlay: int, write: Writer
) -> None:
    """Old files keep an overlay there; how the pixels are compressed makes no difference."""
    pixels = grey(most=4000).astype(np.uint16)
    marked = pixels.copy()
    marked[5:20, 5:20] |= overlay
    if syntax == RLE:
        content = rle_dicom(marked, **TWELVE)
    else:
        coded = jpeg_2000(marked) if syntax == JPEG_2000 else None
        content = dicom(marked, syntax, coded, **TWELVE)
    assert np.array_equal(read_slice(write(content)), pixels)


@pytest.mark.parametrize("syntax", [EXPLICIT, RLE])
def test_signed_values_keep_their_sign_under_an_overlay(syntax: str, write: Writer) -> None:
    pixels = grey(most=4000).astype(np.int16) - 2000
    marked = pixels & 0x0FFF
    marked[:9] |= 0x4000
    content = dicom(marked, **TWELVE) if syntax == EXPLICIT else rle_dicom(marked, **TWELVE)
    assert np.array_equal(read_slice(write(content)), pixels)


@pytest.mark.parametrize(("stored", "high"), [(12, 15), (12, 10), (17, 16), (1, 1), (12, 0)])
def test_a_value_in_other_than_the_lowest_bits_is_unsupported(
    stored: int, high: int, write: Writer
) -> None:
    path = write(dicom(grey().astype(np.uint16), BitsStored=stored, HighBit=high))
    assert f"{stored} bits that end at bit {high}" in refusal(path, UnsupportedDatatype).found


def test_an_odd_number_of_bytes_is_padded(write: Writer) -> None:
    pixels = grey((33, 35))
    path = write(dicom(pixels, content=pixels.tobytes() + b"\0"))
    assert np.array_equal(read_slice(path), pixels)


def test_slope_and_intercept_are_applied_and_pixels_that_overflow_are_not_finite(
    write: Writer,
) -> None:
    for slope, intercept in ((2, -1024), (0.5, 0), (-1, 255)):
        found = read_slice(write(dicom(RescaleSlope=slope, RescaleIntercept=intercept)))
        assert np.array_equal(found, grey() * np.float32(slope) + np.float32(intercept))
    refusal(write(dicom(grey() // 2 + 1, RescaleSlope="1e39")), NotFiniteScan)


def test_monochrome1_is_turned_around_and_one_value_of_it_is_constant(write: Writer) -> None:
    found = read_slice(write(dicom(PhotometricInterpretation="MONOCHROME1")))
    assert np.array_equal(found - found.min(), 255.0 - grey())
    pixels = np.full(SHAPE, 7, np.uint8)
    refusal(write(dicom(pixels, PhotometricInterpretation="MONOCHROME1")), ConstantScan)


def test_one_frame_may_be_counted_and_more_are_refused(write: Writer) -> None:
    assert np.array_equal(read_slice(write(dicom(NumberOfFrames=1))), grey())
    for frames in (2, 5000):
        error = refusal(write(dicom(NumberOfFrames=frames)), UnsupportedDimensions)
        assert str(frames) in error.found


@pytest.mark.parametrize(
    "fields",
    [
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0},
        {"SamplesPerPixel": 3, "PhotometricInterpretation": "YBR_FULL", "PlanarConfiguration": 0},
        {"PhotometricInterpretation": "PALETTE COLOR"},
        {"PhotometricInterpretation": "JANE"},
        {"BitsAllocated": 1},
        {"BitsAllocated": 64},
        {"BitsAllocated": 65528},
    ],
)
def test_colours_and_odd_depths_are_unsupported(fields: dict[str, Any], write: Writer) -> None:
    content = grey().tobytes() * 3
    refusal(write(dicom(content=content, **fields)), UnsupportedDatatype)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_pixels_that_end_early_are_truncated(syntax: str, write: Writer) -> None:
    for missing in (2, 1000, 1919):
        refusal(write(dicom(syntax=syntax)[:-missing]), TruncatedScan)


def test_a_dicom_file_without_an_image_is_an_unknown_format(write: Writer) -> None:
    """Also one whose header ends early."""
    for field in ("PixelData", "Rows", "Columns", "BitsAllocated"):
        assert "DICOM" in refusal(write(dicom(**{field: None})), UnknownFormat).expected
    assert len(dicom()) > 2000
    for size in (132, 140, 300, 420):
        refusal(write(dicom()[:size]), UnknownFormat)


@pytest.mark.parametrize(
    ("fields", "leaf"),
    [
        ({"Rows": 65535, "Columns": 65535}, TooManyVoxels),
        ({"Rows": 65535}, TooManyVoxels),
        ({"Rows": 4096, "Columns": 4096}, TruncatedScan),
        ({"Columns": 80}, TruncatedScan),
        ({"Rows": 0}, UnsupportedDimensions),
        # there would be two frames of such
        ({"Rows": 32, "Columns": 30}, UnsupportedDimensions),
    ],
)
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_lies_about_rows_and_columns_cost_nothing(
    fields: dict[str, int], leaf: type[ScanError], syntax: str, write: Writer
) -> None:
    path = write(dicom(syntax=syntax, **fields))
    tracemalloc.start()
    try:
        refusal(path, leaf)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_the_length_of_the_pixels_may_lie(write: Writer) -> None:
    content = dicom()
    at = content.index(b"\xe0\x7f\x10\x00OB") + 8
    lie = content[:at] + struct.pack("<I", 0xFFFFFFF0) + content[at + 4 :]
    assert np.array_equal(read_slice(write(lie)), grey())
    lie = content[:at] + struct.pack("<I", 100) + content[at + 4 :]
    refusal(write(lie), TruncatedScan)


def test_run_lengths_baseline_jpeg_and_jpeg_2000_are_read(write: Writer) -> None:
    pixels = grey(most=1000)
    assert np.array_equal(read_slice(write(rle_dicom(pixels))), pixels)
    jpeg = encoded(Image.fromarray(grey()), "JPEG", quality=95)
    found = read_slice(write(dicom(syntax=JPEG_DICOM, content=encapsulate([jpeg]))))
    assert np.abs(found - grey()).mean() < 3
    lossless = encoded(Image.fromarray(grey()), "JPEG2000", no_jp2=True)
    path = write(dicom(syntax=JPEG_2000, content=encapsulate([lossless])))
    assert np.array_equal(read_slice(path), grey())


def claiming(syntax: str, content: bytes) -> bytes:
    """A DICOM file with the name of another transfer syntax in its header."""
    old, new = EXPLICIT.encode() + b"\0", syntax.encode() + b"\0" * (len(syntax) % 2)
    at = content.index(b"\x02\x00\x10\x00UI") + 6
    assert content[at + 2 :].startswith(old)
    return content[:at] + struct.pack("<H", len(new)) + new + content[at + 2 + len(old) :]


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_other_compression_is_unsupported(kind: str, write: Writer) -> None:
    content = dicom(content=encapsulate([b"JANE" * 99]))
    error = refusal(write(claiming(UNSUPPORTED[kind], content)), UnsupportedDatatype)
    assert "gdcmconv" in error.remedy


@pytest.mark.parametrize("syntax", [RLE, JPEG_DICOM, JPEG_2000])
@pytest.mark.parametrize(
    "content", [encapsulate([b"JANE" * 99]), b"JANE" * 99, b""], ids=["frame", "no frame", "none"]
)
def test_damaged_compressed_pixels_are_truncated(
    syntax: str, content: bytes, write: Writer
) -> None:
    refusal(write(claiming(syntax, dicom(content=content))), TruncatedScan)


def test_a_compressed_frame_of_another_size_is_not_unpacked(write: Writer) -> None:
    image = Image.fromarray(np.tile(grey((500, 500)), (6, 6)))
    paths = [
        write(dicom(syntax=syntax, content=encapsulate([encoded(image, kind)])), kind)
        for kind, syntax in (("JPEG", JPEG_DICOM), ("JPEG2000", JPEG_2000))
    ]
    for outcome, mebibytes in cost(write(dicom(), "small"), *paths):
        assert outcome == "UnsupportedDimensions"
        assert mebibytes < 20


def test_a_deflated_dicom_bomb_is_not_inflated(write: Writer) -> None:
    bomb = write(dicom(np.zeros((4096, 4096), np.uint16), DEFLATED))
    assert bomb.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        refusal(bomb, UnsupportedDatatype)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.alone
def test_a_bomb_of_run_lengths_is_not_unpacked(write: Writer) -> None:
    """The 20 MB unpack to 1.3 GB."""
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x01" * (10 << 20)
    path = write(dicom(syntax=RLE, content=encapsulate([runs])))
    start = time.perf_counter()
    refusal(path, SuspiciousCompression)
    assert time.perf_counter() - start < 2


def test_a_header_of_countless_parts_is_refused_soon(write: Writer) -> None:
    """A sequence of a million items, one beside the other or one inside the other."""
    head, pixels = (
        (content := dicom())[: (at := content.index(b"\x10\x00\x10\x00PN"))],
        content[at:],
    )
    beside = b"\xfe\xff\x00\xe0\0\0\0\0"
    inside = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + b"\x10\x00\x02\x10SQ\0\0\xff\xff\xff\xff"
    paths = []
    for number, piece in enumerate((beside, inside)):
        sequence = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff" + piece * (1 << 20)
        content = head + sequence + b"\xfe\xff\xdd\xe0\0\0\0\0" + pixels
        paths.append(write(content, f"{number}"))
    for outcome, mebibytes in cost(write(dicom(), "small"), *paths):
        assert outcome == "UnknownFormat"
        assert mebibytes < 50


def element(tag: tuple[int, int], kind: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", *tag, kind, len(value)) + value


@pytest.mark.parametrize(
    ("tag", "kind"),
    [((0x8, 0x5), b"CS"), ((0x8, 0x20), b"DA"), ((0x8, 0x32), b"XX"), ((0x8, 0x1040), b"IS")],
)
def test_odd_fields_are_neither_logged_nor_in_the_way(
    tag: tuple[int, int], kind: bytes, write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    content = dicom()
    at = content.index(b"\x08\x00\x16\x00UI")
    path = write(content[:at] + element(tag, kind, b"JANE") + content[at:])
    assert np.array_equal(read_slice(path), grey())
    assert caplog.text == ""


@pytest.mark.parametrize("field", ["RescaleSlope", "RescaleIntercept", "NumberOfFrames"])
@pytest.mark.parametrize("value", ["JANE", "1\\2"])
def test_numbers_that_are_none_are_refused(
    field: str, value: str, write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    content = dicom(**{field: "123456"})
    assert content.count(b"123456") == 1
    content = content.replace(b"123456", value.ljust(6).encode())
    refusal(write(content), UnknownFormat)
    assert caplog.text == ""


def test_a_sagittal_dicom_slice_is_refused(write: Writer) -> None:
    for directions in ([0, 1, 0, 0, 0, -1], [0.1, 0.99, 0, 0, 0.1, -0.99]):
        path = write(dicom(ImageOrientationPatient=directions))
        assert "sagittal" in refusal(path, UnsupportedPlane).found
    for directions in ([1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1], [0] * 6, [0, 1, 0]):
        read_slice(write(dicom(ImageOrientationPatient=directions)))


def group(sequence: str, **fields: Any) -> Any:
    """A functional group, as enhanced files have them."""
    item, outer = Dataset(), Dataset()
    for name, value in fields.items():
        setattr(item, name, value)
    setattr(outer, sequence, [item])
    return outer


SAGITTAL, AXIAL = [0, 1, 0, 0, 0, -1], [1, 0, 0, 0, 1, 0]
SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"


def plane(directions: list[float]) -> list[Any]:
    return [group("PlaneOrientationSequence", ImageOrientationPatient=directions)]


@pytest.mark.parametrize(
    "fields",
    [
        {SHARED: plane(SAGITTAL)},
        {PER_FRAME: plane(SAGITTAL)},
        {PER_FRAME: plane(SAGITTAL), SHARED: plane(AXIAL)},
        {PER_FRAME: plane(SAGITTAL), "ImageOrientationPatient": AXIAL},
        {SHARED: plane(SAGITTAL), PER_FRAME: [Dataset()], "NumberOfFrames": 1},
    ],
)
def test_the_plane_of_an_enhanced_file_is_that_of_its_functional_groups(
    fields: dict[str, Any], write: Writer
) -> None:
    assert "sagittal" in refusal(write(dicom(**fields)), UnsupportedPlane).found


def test_an_axial_enhanced_file_is_read(write: Writer) -> None:
    found = read_slice(write(dicom(**{SHARED: plane(AXIAL), PER_FRAME: [Dataset()]})))
    assert np.array_equal(found, grey())


@pytest.mark.parametrize("place", [SHARED, PER_FRAME])
def test_slope_and_intercept_of_an_enhanced_file_are_applied(place: str, write: Writer) -> None:
    values = {"RescaleSlope": "2", "RescaleIntercept": "-7"}
    groups = [group("PixelValueTransformationSequence", **values)]
    found = read_slice(write(dicom(**{place: groups}, RescaleSlope="9")))
    assert np.array_equal(found, grey() * 2.0 - 7)


def test_an_enhanced_file_of_several_frames_is_refused(write: Writer) -> None:
    pixels = np.stack([grey()] * 3)
    path = write(dicom(pixels, NumberOfFrames=3, **{SHARED: plane(AXIAL)}))
    assert "3" in refusal(path, UnsupportedDimensions).found
