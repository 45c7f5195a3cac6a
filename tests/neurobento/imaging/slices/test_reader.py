"""Slices in every format, and of every kind of damage."""

from __future__ import annotations

import gzip
import io
import logging
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from neurobento.errors import (
    BadVoxelSize,
    ConstantScan,
    CorruptCompression,
    EmptyScan,
    FileTooLarge,
    MissingOrientation,
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
from neurobento.imaging.slices.limits import SliceLimits
from neurobento.imaging.slices.reader import holds_slice, read_slice
from tests.neurobento.imaging.slices.files import (
    GREY,
    PALETTE,
    RGB,
    SHAPE,
    chunk,
    encoded,
    grey,
    grey_png,
    png,
)

ROOT = Path(__file__).resolve().parents[4]
EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_DICOM, JPEG_2000 = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
UNSUPPORTED = {
    "JPEG extended": "1.2.840.10008.1.2.4.51",
    "JPEG lossless": "1.2.840.10008.1.2.4.70",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "HTJ2K": "1.2.840.10008.1.2.4.201",
    "MPEG4": "1.2.840.10008.1.2.4.102",
    "private": "1.2.3.4.5",
}
LIMITS = SliceLimits(max_pixels=1 << 20, max_edge=1024)
Writer = Callable[..., Path]


def dicom(
    pixels: Any = None, syntax: str = EXPLICIT, content: bytes | None = None, **fields: Any
) -> bytes:
    """A DICOM file; a field of None is left out."""
    pixels = grey() if pixels is None else pixels
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.SOPClassUID, data.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.4", "1.2.3"
    data.PatientName = "JANE^DOE"
    bits = 8 * pixels.dtype.itemsize
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    order = ">" if syntax == BIG else "<"
    native = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
    data.add_new("PixelData", "OW" if bits > 8 else "OB", native if content is None else content)
    data["PixelData"].is_undefined_length = syntax in (RLE, JPEG_DICOM, JPEG_2000)
    for field, value in fields.items():
        if value is None:
            delattr(data, field)
        else:
            setattr(data, field, value)
    return saved(data)


def saved(data: Any) -> bytes:
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, data, enforce_file_format=True)
    return buffer.getvalue()


def rle_dicom(pixels: Any) -> bytes:
    data = pydicom.dcmread(io.BytesIO(dicom(pixels)))
    data.compress(RLE, generate_instance_uid=False)
    return saved(data)


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    def to(content: bytes, name: str = "JANE_DOE.bin") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return to


def refused(path: Path, leaf: type[ScanError], limits: SliceLimits | None = None) -> ScanError:
    """The error, whose type is the leaf itself and which names the file to the caller only."""
    with pytest.raises(ScanError) as caught:
        read_slice(path, limits)
    error = caught.value
    assert type(error) is leaf
    assert not leaf.__subclasses__()
    assert error.subject == str(path)
    assert path.name not in error.public_message
    assert "JANE" not in error.public_message
    assert error.expected
    assert error.found
    assert error.remedy.endswith(".")
    assert error.__cause__ is None
    return error


# --- PNG ---


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_grey_png_of_any_depth_is_its_values(depth: int, write: Writer) -> None:
    pixels = grey(most=2**depth - 1)
    found = read_slice(write(grey_png(pixels, depth)))
    assert found.dtype == np.float32
    # few bits are spread over eight
    assert np.array_equal(found, pixels * np.float32({1: 255, 2: 85, 4: 17}.get(depth, 1)))


@pytest.mark.parametrize("depth", [8, 16])
def test_colours_become_luminance(depth: int, write: Writer) -> None:
    red, green, blue = (np.roll(grey(), n, axis=0) for n in (0, 9, 21))
    pixels = np.stack([red, green, blue], axis=-1)
    # 16 bits whose upper 8 are the colour
    stored = pixels if depth == 8 else pixels.astype(">u2") * 257
    lines = [np.asarray(line, ">u2" if depth == 16 else "u1").tobytes() for line in stored]
    found = read_slice(write(png(lines, SHAPE[1], depth, RGB)))
    assert np.abs(found - (0.299 * red + 0.587 * green + 0.114 * blue)).max() <= 1


def test_a_palette_is_looked_up(write: Writer) -> None:
    index = grey() // 64
    shades = np.array([200, 10, 255, 90], np.uint8)
    palette = chunk(b"PLTE", shades.repeat(3).tobytes())
    found = read_slice(write(png([line.tobytes() for line in index], 40, 8, PALETTE, palette)))
    assert np.array_equal(found, shades[index])


def transparent(kind: str) -> bytes:
    """White, without any of it to be seen in the upper half."""
    pixels = Image.fromarray(np.where(np.arange(48)[:, None] < 24, 255, grey()).astype(np.uint8))
    alpha = Image.fromarray(np.repeat(np.uint8([[0], [255]]), 24, axis=0).repeat(40, axis=1))
    if kind == "P":
        shades = np.minimum(np.asarray(pixels) // 64, 2) + (np.asarray(alpha) == 0)
        image = Image.fromarray(shades.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 100, 100, 100, 200, 200, 200, 255, 255, 255])
        return encoded(image, "PNG", transparency=b"\xff\xff\xff\x00")
    image = pixels.convert(kind)
    image.putalpha(alpha)
    return encoded(image, "PNG")


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black(kind: str, write: Writer) -> None:
    found = read_slice(write(transparent(kind)))
    assert not found[:24].any()
    assert found[24:].mean() > 100


@pytest.mark.parametrize("frames", [2, 3])
def test_an_animated_png_is_more_than_one_slice(frames: int, write: Writer) -> None:
    images = [Image.fromarray(np.roll(grey(), n, axis=0)) for n in range(frames)]
    content = encoded(images[0], "PNG", save_all=True, append_images=images[1:])
    error = refused(write(content), UnsupportedDimensions)
    assert str(frames) in error.found


@pytest.mark.parametrize("frames", [0, 1])
def test_a_png_that_could_move_but_does_not_is_read(frames: int, write: Writer) -> None:
    control = chunk(b"acTL", struct.pack(">II", frames, 0))
    frame = chunk(b"fcTL", struct.pack(">5IHHBB", 0, SHAPE[1], SHAPE[0], 0, 0, 1, 1, 0, 0))
    content = grey_png(grey(), 8, control, *[frame] * frames)
    assert np.array_equal(read_slice(write(content)), grey())


@pytest.mark.parametrize("size", [8, 16, 30, 60, 200])
def test_a_png_that_ends_early_is_truncated(size: int, write: Writer) -> None:
    content = grey_png(np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8))
    assert len(content) > 1000
    refused(write(content[:size]), TruncatedScan)


@pytest.mark.parametrize("where", [12, 18, 24, 37, 45])
def test_a_damaged_png_is_truncated(where: int, write: Writer) -> None:
    content = bytearray(grey_png(grey()))
    content[where] ^= 0xFF
    refused(write(bytes(content)), TruncatedScan)


def test_a_png_with_a_bomb_of_text_is_truncated(write: Writer) -> None:
    text = chunk(b"zTXt", b"JANE\0\0" + zlib.compress(bytes(100 << 20)))
    path = write(grey_png(grey(), 8, text))
    tracemalloc.start()
    try:
        refused(path, TruncatedScan)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def huge_png(rows: int, columns: int, *, whole: bool) -> bytes:
    """Pixels of one bit, all of them zero, or none of them there."""
    header = struct.pack(">IIBBBBB", columns, rows, 1, GREY, 0, 0, 0)
    deflate = zlib.compressobj(9)
    line = bytes(1 + (columns + 7) // 8)
    pixels = b"".join(deflate.compress(line * 100) for _ in range(rows // 100)) if whole else b""
    pixels += deflate.flush()
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


@pytest.mark.alone
@pytest.mark.parametrize("rows", [4100, 12_000, 20_000, 60_000, 2**31 - 1])
def test_a_png_of_too_many_pixels_is_refused_by_its_header(rows: int, write: Writer) -> None:
    start = time.perf_counter()
    error = refused(write(huge_png(rows, rows, whole=False)), TooManyVoxels)
    assert time.perf_counter() - start < 1
    assert "4096" in error.expected


@pytest.mark.parametrize("shape", [(32, 4097), (4097, 32)])
def test_a_strip_is_refused(shape: tuple[int, int], write: Writer) -> None:
    """It has few pixels, and the square around it has many."""
    refused(write(grey_png(grey(shape))), TooManyVoxels)
    assert read_slice(write(grey_png(grey(shape))), SliceLimits(max_edge=4097)).shape == shape


MEASURE = """
import sys
from pathlib import Path
from neurobento.errors import ScanError
from neurobento.imaging.slices.reader import read_slice
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
read_slice(Path(sys.argv[1]))
before = peak()
for path in sys.argv[2:]:
    try:
        read_slice(Path(path))
        print("read")
    except ScanError as error:
        print(type(error).__name__)
    print((peak() - before) // 1024)
"""


def cost(small: Path, *paths: Path) -> list[tuple[str, int]]:
    """What comes of files, and the MiB that they take so far, in a process of their own."""
    command = [sys.executable, "-c", MEASURE, *map(str, [small, *paths])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    words = done.stdout.split()
    return [(o, int(m)) for o, m in zip(words[::2], words[1::2], strict=True)]


def test_a_png_bomb_is_never_unpacked(write: Writer) -> None:
    bombs = [write(huge_png(n, n, whole=True), f"bomb {n}") for n in (12_000, 20_000)]
    assert all(bomb.stat().st_size < 1 << 20 for bomb in bombs)
    for outcome in cost(write(grey_png(grey())), *bombs):
        assert outcome == ("TooManyVoxels", pytest.approx(0, abs=20))


def test_what_is_unpacked_shows_in_its_cost(write: Writer) -> None:
    """A measurement that sees nothing would pass above too."""
    large = write(grey_png(np.tile(grey((512, 512)), (8, 8))), "large")
    ((outcome, mebibytes),) = cost(write(grey_png(grey())), large)
    assert outcome == "read"
    assert mebibytes > 60, mebibytes


# --- JPEG ---


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_is_about_its_values(mode: str, progressive: bool, write: Writer) -> None:
    image = Image.fromarray(grey()).convert(mode)
    found = read_slice(write(encoded(image, "JPEG", quality=95, progressive=progressive)))
    assert np.abs(found - grey()).mean() < 3


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_a_picture_is_upright_as_viewers_show_it(
    orientation: int, turns: int, write: Writer
) -> None:
    """EXIF's tag of that name, as cameras and some exports write it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_slice(write(encoded(Image.fromarray(grey()), "PNG", exif=exif)))
    np.testing.assert_array_equal(found, np.rot90(grey(), turns))


def test_no_memory_is_not_the_pictures_fault(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    path = write(grey_png(grey()))
    monkeypatch.setattr("neurobento.imaging.slices.picture._luminance", full)
    with pytest.raises(MemoryError):
        read_slice(path)


def test_pydicoms_log_is_as_it_was(write: Writer) -> None:
    logger = logging.getLogger("pydicom")
    assert not logger.disabled
    read_slice(write(dicom()))
    assert not logger.disabled


@pytest.mark.parametrize("mode", ["L", "CMYK"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_a_jpeg_that_ends_early_is_truncated(mode: str, share: float, write: Writer) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (128, 128), dtype=np.uint8)
    content = encoded(Image.fromarray(noise).convert(mode), "JPEG")
    refused(write(content[: int(share * len(content))]), TruncatedScan)


def test_a_jpeg_of_too_many_pixels_is_refused_by_its_header(write: Writer) -> None:
    content = encoded(Image.fromarray(grey()), "JPEG")
    frame = content.index(b"\xff\xc0") + 5
    for size in (5000, 12_000, 65_535):
        lie = content[:frame] + struct.pack(">HH", size, size) + content[frame + 4 :]
        refused(write(lie), TooManyVoxels)


# --- other content, and names ---


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("JANE.png", grey_png(grey()))
    return buffer.getvalue()


OTHER = {
    "empty": b"",
    "text": b"JANE DOE, born in 1970\n" * 50,
    "zip": zipped(),
    "gzip": gzip.compress(b"JANE DOE" * 99),
    "gif": encoded(Image.fromarray(grey()), "GIF"),
    "tiff": encoded(Image.fromarray(grey()), "TIFF"),
    "bmp": encoded(Image.fromarray(grey()), "BMP"),
    "DICOM without its preamble": dicom()[132:],
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_files_are_an_unknown_format(kind: str, write: Writer) -> None:
    error = refused(write(OTHER[kind]), UnknownFormat)
    assert "PNG" in error.expected


@pytest.mark.parametrize(
    "name",
    ["JANE DOE.png", 'JANE\'S "½ head".nii.gz', "{found}%s$(JANE).dcm", "JANE\n\t🧠\x1b[31m"],
)
@pytest.mark.parametrize(
    "content",
    [b"JANE", grey_png(grey())[:99], dicom()[:300], huge_png(9000, 9000, whole=False)],
    ids=["text", "PNG", "DICOM", "huge"],
)
def test_odd_names_stay_out_of_public_messages(name: str, content: bytes, write: Writer) -> None:
    path = write(content, name)
    with pytest.raises(ScanError) as caught:
        read_slice(path)
    message = caught.value.public_message
    assert message.isprintable()
    assert not any(part in message for part in ("JANE", "½", "🧠", "%s", str(path.parent)))
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("name", ["slice", "slice.txt", "slice.png", "slice.dcm", "slice.nii.gz"])
@pytest.mark.parametrize("content", [grey_png(grey()), dicom()], ids=["PNG", "DICOM"])
def test_the_content_decides_not_the_name(name: str, content: bytes, write: Writer) -> None:
    assert np.array_equal(read_slice(write(content, name)), grey())


def test_a_missing_file_is_not_a_scan_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_slice(tmp_path / "nowhere.png")


def test_a_file_above_the_limit_is_too_large(write: Writer) -> None:
    path = write(grey_png(grey()))
    size = path.stat().st_size
    error = refused(path, FileTooLarge, SliceLimits(max_file_bytes=size - 1))
    assert str(size) in error.found
    assert read_slice(path, SliceLimits(max_file_bytes=size)).shape == SHAPE


def as_nifti(pixels: Any) -> bytes:
    return bytes(nib.Nifti1Image(pixels[..., None], np.eye(4)).to_bytes())


FORMATS = {"PNG": grey_png, "DICOM": dicom, "NIfTI": as_nifti}


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(31, 40), (40, 31), (1, 99)])
def test_a_slice_of_few_rows_or_columns_is_refused(
    kind: str, shape: tuple[int, int], write: Writer
) -> None:
    refused(write(FORMATS[kind](grey(shape))), UnsupportedDimensions)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_limits_hold_for_every_format(kind: str, write: Writer) -> None:
    path = write(FORMATS[kind](grey((50, 60))))
    assert sorted(read_slice(path).shape) == [50, 60]
    refused(path, UnsupportedDimensions, SliceLimits(min_edge=51))
    refused(path, TooManyVoxels, SliceLimits(max_pixels=2999))
    refused(path, TooManyVoxels, SliceLimits(max_edge=59))


@pytest.mark.parametrize("kind", FORMATS)
def test_zeros_are_empty_and_one_value_is_constant(kind: str, write: Writer) -> None:
    refused(write(FORMATS[kind](np.zeros(SHAPE, np.uint8))), EmptyScan)
    refused(write(FORMATS[kind](np.full(SHAPE, 7, np.uint8))), ConstantScan)


# --- DICOM ---


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "u4"])
def test_a_dicom_image_is_its_values(dtype: str, syntax: str, write: Writer) -> None:
    pixels = grey(most=1000 if dtype != "u1" else 255).astype(dtype)
    pixels = pixels - np.array(300, dtype) if dtype == "i2" else pixels
    found = read_slice(write(dicom(pixels, syntax)))
    assert found.dtype == np.float32
    assert np.array_equal(found, pixels)


def test_an_odd_number_of_bytes_is_padded(write: Writer) -> None:
    pixels = grey((33, 35))
    path = write(dicom(pixels, content=pixels.tobytes() + b"\0"))
    assert np.array_equal(read_slice(path), pixels)


@pytest.mark.parametrize(("slope", "intercept"), [(2, -1024), (0.5, 0), (-1, 255)])
def test_slope_and_intercept_are_applied(slope: float, intercept: float, write: Writer) -> None:
    found = read_slice(write(dicom(RescaleSlope=slope, RescaleIntercept=intercept)))
    assert np.array_equal(found, grey() * np.float32(slope) + np.float32(intercept))


def test_monochrome1_is_turned_around(write: Writer) -> None:
    found = read_slice(write(dicom(PhotometricInterpretation="MONOCHROME1")))
    assert np.array_equal(found - found.min(), 255.0 - grey())


def test_a_constant_monochrome1_is_constant(write: Writer) -> None:
    pixels = np.full(SHAPE, 7, np.uint8)
    refused(write(dicom(pixels, PhotometricInterpretation="MONOCHROME1")), ConstantScan)


def test_pixels_that_overflow_are_not_finite(write: Writer) -> None:
    refused(write(dicom(grey() // 2 + 1, RescaleSlope="1e39")), NotFiniteScan)


@pytest.mark.parametrize("frames", [2, 5000])
def test_more_than_one_frame_is_refused(frames: int, write: Writer) -> None:
    error = refused(write(dicom(NumberOfFrames=frames)), UnsupportedDimensions)
    assert str(frames) in error.found


def test_one_frame_may_be_counted(write: Writer) -> None:
    assert np.array_equal(read_slice(write(dicom(NumberOfFrames=1))), grey())


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
    refused(write(dicom(content=content, **fields)), UnsupportedDatatype)


@pytest.mark.parametrize("missing", [2, 1000, 1919])
@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_pixels_that_end_early_are_truncated(missing: int, syntax: str, write: Writer) -> None:
    refused(write(dicom(syntax=syntax)[:-missing]), TruncatedScan)


@pytest.mark.parametrize("field", ["PixelData", "Rows", "Columns", "BitsAllocated"])
def test_a_dicom_file_without_an_image_is_an_unknown_format(field: str, write: Writer) -> None:
    error = refused(write(dicom(**{field: None})), UnknownFormat)
    assert "DICOM" in error.expected


@pytest.mark.parametrize("size", [132, 140, 300, 420])
def test_a_dicom_header_that_ends_early_has_no_image(size: int, write: Writer) -> None:
    assert len(dicom()) > 2000
    refused(write(dicom()[:size]), UnknownFormat)


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
        refused(path, leaf)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_the_length_of_the_pixels_may_lie(write: Writer) -> None:
    content = dicom()
    at = content.index(b"\xe0\x7f\x10\x00OB") + 8
    lie = content[:at] + struct.pack("<I", 0xFFFFFFF0) + content[at + 4 :]
    assert np.array_equal(read_slice(write(lie)), grey())
    lie = content[:at] + struct.pack("<I", 100) + content[at + 4 :]
    refused(write(lie), TruncatedScan)


def test_run_lengths_are_read(write: Writer) -> None:
    pixels = grey(most=1000)
    assert np.array_equal(read_slice(write(rle_dicom(pixels))), pixels)


def test_baseline_jpeg_is_read(write: Writer) -> None:
    jpeg = encoded(Image.fromarray(grey()), "JPEG", quality=95)
    found = read_slice(write(dicom(syntax=JPEG_DICOM, content=encapsulate([jpeg]))))
    assert np.abs(found - grey()).mean() < 3


def test_jpeg_2000_is_read(write: Writer) -> None:
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
    error = refused(write(claiming(UNSUPPORTED[kind], content)), UnsupportedDatatype)
    assert "gdcmconv" in error.remedy


@pytest.mark.parametrize("syntax", [RLE, JPEG_DICOM, JPEG_2000])
@pytest.mark.parametrize(
    "content", [encapsulate([b"JANE" * 99]), b"JANE" * 99, b""], ids=["frame", "no frame", "none"]
)
def test_damaged_compressed_pixels_are_truncated(
    syntax: str, content: bytes, write: Writer
) -> None:
    refused(write(claiming(syntax, dicom(content=content))), TruncatedScan)


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
        refused(bomb, UnsupportedDatatype)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.alone
def test_a_bomb_of_run_lengths_is_not_unpacked(write: Writer) -> None:
    """20 MB that unpack to 1.3 GB."""
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x01" * (10 << 20)
    path = write(dicom(syntax=RLE, content=encapsulate([runs])))
    start = time.perf_counter()
    refused(path, SuspiciousCompression)
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
    refused(write(content), UnknownFormat)
    assert caplog.text == ""


# --- NIfTI ---


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
    error = refused(path, UnsupportedDimensions)
    assert error.found == " x ".join(map(str, shape))
    assert "neurobento anomaly" in error.remedy


@pytest.mark.parametrize(("across", "refused_"), [(0, True), (1, False), (2, False)])
def test_a_sagittal_slice_is_refused(across: int, refused_: bool, write_nifti: Writer) -> None:
    """Where the file says that it is one: it is no mirror image of itself."""
    path = write_nifti(np.expand_dims(grey(), across), np.diag([2.0, 3.0, 4.0, 1.0]))
    if refused_:
        assert "sagittal" in refused(path, UnsupportedPlane).found
    else:
        read_slice(path)


@pytest.mark.parametrize(
    ("directions", "refused_"),
    [
        ([0, 1, 0, 0, 0, -1], True),
        ([0.1, 0.99, 0, 0, 0.1, -0.99], True),
        ([1, 0, 0, 0, 1, 0], False),
        ([1, 0, 0, 0, 0, -1], False),
        ([0, 0, 0, 0, 0, 0], False),
        ([0, 1, 0], False),
    ],
)
def test_a_sagittal_dicom_slice_is_refused(
    directions: list[float], refused_: bool, write: Writer
) -> None:
    path = write(dicom(ImageOrientationPatient=directions))
    if refused_:
        assert "sagittal" in refused(path, UnsupportedPlane).found
    else:
        read_slice(path)


def test_a_nifti_file_of_two_dimensions_is_a_slice(write_nifti: Writer) -> None:
    pixels = grey()
    path = write_nifti(pixels)
    assert nib.load(path).shape == pixels.shape
    assert holds_slice(path)
    assert np.array_equal(read_slice(path), pixels.T[::-1])


@pytest.mark.parametrize("dim", [[1, 48, 40, 1, 1], [4, 48, 40, 1, 9]])
def test_a_nifti_file_of_other_dimensions_is_no_slice(dim: list[int], write_nifti: Writer) -> None:
    path = write_nifti(grey()[..., None], dim=[*dim, 1, 1, 1])
    assert "axis of length 1" in refused(path, UnsupportedDimensions).expected


@pytest.mark.parametrize("compress", [True, False])
def test_a_nifti_slice_of_too_many_pixels_is_refused_by_its_header(
    compress: bool, write_nifti: Writer
) -> None:
    name = "slice.nii.gz" if compress else "slice.nii"
    refused(
        write_nifti(grey()[..., None], name=name, dim=[3, 30000, 30000, 1] + [1] * 4), TooManyVoxels
    )


def test_nifti_pixels_that_are_not_finite_become_zero(write_nifti: Writer) -> None:
    pixels = grey().astype(np.float32) + 1
    pixels[3:9] = np.nan
    found = read_slice(write_nifti(pixels[..., None]))
    assert (found[:, 3:9] == 0).all()
    assert np.array_equal(found[:, 9:], pixels[9:].T[::-1])


def test_a_nifti_slice_of_nan_is_not_finite(write_nifti: Writer) -> None:
    refused(write_nifti(np.full((*SHAPE, 1), np.nan, np.float32)), NotFiniteScan)


def test_a_nifti_slice_is_refused_as_a_scan_is(write_nifti: Writer) -> None:
    pixels = grey()[..., None]
    refused(write_nifti(pixels, qform_code=0, sform_code=0), MissingOrientation)
    refused(write_nifti(pixels, srow_x=[0, 0, 0, 0]), BadVoxelSize)
    refused(write_nifti(pixels, datatype=128, bitpix=24), UnsupportedDatatype)
    whole = write_nifti(np.random.default_rng(1).random((90, 90, 1)), name="slice.nii")
    content = whole.read_bytes()
    whole.write_bytes(content[:-9])
    refused(whole, TruncatedScan)
    whole.write_bytes(gzip.compress(content)[:-9])
    refused(whole, CorruptCompression)


# --- slice or scan ---


@pytest.mark.parametrize("content", [grey_png(grey()), dicom(), dicom()[:140], b"", b"JANE"])
def test_what_only_a_slice_can_be_is_one(content: bytes, write: Writer) -> None:
    assert holds_slice(write(content, "JANE.nii.gz"))


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 44, 1), True), ((1, 44, 48), True), ((40, 44, 48), False), ((40, 44, 2), False)],
)
def test_an_axis_of_length_1_makes_a_slice(
    shape: tuple[int, ...], expected: bool, name: str, write_nifti: Writer
) -> None:
    assert holds_slice(write_nifti(np.ones(shape, np.uint8), name=name)) is expected


def test_so_it_does_in_an_mgh_file(write: Writer) -> None:
    for shape, expected in (((40, 44, 1), True), ((40, 44, 48), False)):
        content = nib.MGHImage(np.ones(shape, np.uint8), np.eye(4)).to_bytes()
        assert holds_slice(write(content)) is expected


@pytest.mark.parametrize(
    "fields",
    [{"dim": [4, 40, 44, 48, 3, 1, 1, 1]}, {"datatype": 128}, {"qform_code": 0, "sform_code": 0}],
)
def test_a_scan_that_is_refused_is_no_slice(fields: dict[str, Any], write_nifti: Writer) -> None:
    assert not holds_slice(write_nifti(np.ones((40, 44, 48), np.uint8), **fields))


def test_a_missing_file_is_neither(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        holds_slice(tmp_path / "nowhere.png")


# --- damage of any kind ---


def whole_files() -> list[bytes]:
    image = Image.fromarray(grey())
    jpeg = encoded(image, "JPEG")
    files = [grey_png(grey()), transparent("P"), jpeg, encoded(image.convert("CMYK"), "JPEG")]
    files += [dicom(), dicom(syntax=IMPLICIT), rle_dicom(grey())]
    files += [dicom(syntax=JPEG_DICOM, content=encapsulate([jpeg])), as_nifti(grey())]
    return files


@pytest.mark.parametrize("number", range(9))
def test_no_damaged_file_raises_anything_but_a_scan_error(number: int, write: Writer) -> None:
    random = np.random.default_rng(number)
    whole = whole_files()[number]
    refusals = 0
    for attempt in range(120):
        data = np.frombuffer(whole, np.uint8).copy()
        where = random.integers(0, min(len(data), 900), 1 + attempt % 8)
        data[where] = random.integers(0, 256, len(where))
        size = len(data) if attempt % 3 else random.integers(1, len(data))
        path = write(data[:size].tobytes())
        try:
            found = read_slice(path, LIMITS)
        except ScanError as error:
            refusals += 1
            assert error.subject == str(path)
            assert error.public_message.isprintable()
            assert not type(error).__subclasses__()
        else:
            assert np.isfinite(found).all()
    assert refusals > 30
