"""Slices of every format: the format is recognised, and the limits hold."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate

from neurobento.errors import (
    ConstantScan,
    EmptyScan,
    FileTooLarge,
    ScanError,
    TooManyVoxels,
    UnknownFormat,
    UnsupportedDimensions,
)
from neurobento.imaging.slices.limits import SliceLimits
from neurobento.imaging.slices.reader import holds_slice, read_slice
from tests.neurobento.imaging.slices.checks import Writer, refusal
from tests.neurobento.imaging.slices.files import (
    IMPLICIT,
    JPEG_DICOM,
    SHAPE,
    as_nifti,
    dicom,
    encoded,
    grey,
    grey_png,
    huge_png,
    rle_dicom,
    transparent,
)

LIMITS = SliceLimits(max_pixels=1 << 20, max_edge=1024)


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
    error = refusal(write(OTHER[kind]), UnknownFormat)
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


@pytest.mark.parametrize("use", [read_slice, holds_slice])
def test_a_missing_file_is_not_a_scan_error(use: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        use(tmp_path / "nowhere.png")


def test_a_file_above_the_limit_is_too_large(write: Writer) -> None:
    path = write(grey_png(grey()))
    size = path.stat().st_size
    error = refusal(path, FileTooLarge, SliceLimits(max_file_bytes=size - 1))
    assert str(size) in error.found
    assert read_slice(path, SliceLimits(max_file_bytes=size)).shape == SHAPE


FORMATS = {"PNG": grey_png, "DICOM": dicom, "NIfTI": as_nifti}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_limits_hold_for_every_format(kind: str, write: Writer) -> None:
    """Few rows or columns are refused, zeros are empty, and one value is constant."""
    path = write(FORMATS[kind](grey((50, 60))))
    assert sorted(read_slice(path).shape) == [50, 60]
    refusal(path, UnsupportedDimensions, SliceLimits(min_edge=51))
    refusal(path, TooManyVoxels, SliceLimits(max_pixels=2999))
    refusal(path, TooManyVoxels, SliceLimits(max_edge=59))
    for shape in ((31, 40), (40, 31), (1, 99)):
        refusal(write(FORMATS[kind](grey(shape))), UnsupportedDimensions)
    refusal(write(FORMATS[kind](np.zeros(SHAPE, np.uint8))), EmptyScan)
    refusal(write(FORMATS[kind](np.full(SHAPE, 7, np.uint8))), ConstantScan)


def test_what_only_a_slice_can_be_is_one_and_a_scan_that_is_refused_is_none(
    write: Writer, write_nifti: Writer
) -> None:
    for content in (grey_png(grey()), dicom(), dicom()[:140], b"", b"JANE"):
        assert holds_slice(write(content, "JANE.nii.gz"))
    forms: list[dict[str, Any]] = [{"dim": [4, 40, 44, 48, 3, 1, 1, 1]}, {"datatype": 128}]
    for fields in [*forms, {"qform_code": 0, "sform_code": 0}]:
        assert not holds_slice(write_nifti(np.ones((40, 44, 48), np.uint8), **fields))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((40, 44, 1), True), ((1, 44, 48), True), ((40, 44, 48), False), ((40, 44, 2), False)],
)
def test_an_axis_of_length_1_makes_a_slice(
    shape: tuple[int, ...], expected: bool, write: Writer, write_nifti: Writer
) -> None:
    voxels = np.ones(shape, np.uint8)
    for name in ("scan.nii", "scan.nii.gz"):
        assert holds_slice(write_nifti(voxels, name=name)) is expected
    assert holds_slice(write(nib.MGHImage(voxels, np.eye(4)).to_bytes())) is expected


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
