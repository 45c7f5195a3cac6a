"""Slices in PNG and JPEG files, whole and damaged."""

from __future__ import annotations

import struct
import time
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurobento.errors import TooManyVoxels, TruncatedScan, UnsupportedDimensions
from neurobento.imaging.slices.limits import SliceLimits
from neurobento.imaging.slices.reader import read_slice
from tests.neurobento.imaging.slices.checks import Writer, cost, refusal
from tests.neurobento.imaging.slices.files import (
    PALETTE,
    RGB,
    SHAPE,
    chunk,
    encoded,
    grey,
    grey_png,
    huge_png,
    png,
    transparent,
)


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


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black(kind: str, write: Writer) -> None:
    found = read_slice(write(transparent(kind)))
    assert not found[:24].any()
    assert found[24:].mean() > 100


def test_an_animated_png_is_more_than_one_slice_unless_it_does_not_move(write: Writer) -> None:
    for frames in (2, 3):
        images = [Image.fromarray(np.roll(grey(), n, axis=0)) for n in range(frames)]
        content = encoded(images[0], "PNG", save_all=True, append_images=images[1:])
        error = refusal(write(content), UnsupportedDimensions)
        assert str(frames) in error.found
    for frames in (0, 1):
        control = chunk(b"acTL", struct.pack(">II", frames, 0))
        frame = chunk(b"fcTL", struct.pack(">5IHHBB", 0, SHAPE[1], SHAPE[0], 0, 0, 1, 1, 0, 0))
        content = grey_png(grey(), 8, control, *[frame] * frames)
        assert np.array_equal(read_slice(write(content)), grey())


def test_a_damaged_png_or_one_that_ends_early_is_truncated(write: Writer) -> None:
    noise = grey_png(np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8))
    assert len(noise) > 1000
    for size in (8, 16, 30, 60, 200):
        refusal(write(noise[:size]), TruncatedScan)
    for where in (12, 18, 24, 37, 45):
        content = bytearray(grey_png(grey()))
        content[where] ^= 0xFF
        refusal(write(bytes(content)), TruncatedScan)


def test_a_png_with_a_bomb_of_text_is_truncated(write: Writer) -> None:
    text = chunk(b"zTXt", b"JANE\0\0" + zlib.compress(bytes(100 << 20)))
    path = write(grey_png(grey(), 8, text))
    tracemalloc.start()
    try:
        refusal(path, TruncatedScan)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.alone
@pytest.mark.parametrize("rows", [4100, 12_000, 20_000, 60_000, 2**31 - 1])
def test_a_png_of_too_many_pixels_is_refused_by_its_header(rows: int, write: Writer) -> None:
    start = time.perf_counter()
    error = refusal(write(huge_png(rows, rows, whole=False)), TooManyVoxels)
    assert time.perf_counter() - start < 1
    assert "4096" in error.expected


@pytest.mark.parametrize("shape", [(32, 4097), (4097, 32)])
def test_a_strip_is_refused(shape: tuple[int, int], write: Writer) -> None:
    """A strip has few pixels, but the square around it has many."""
    refusal(write(grey_png(grey(shape))), TooManyVoxels)
    assert read_slice(write(grey_png(grey(shape))), SliceLimits(max_edge=4097)).shape == shape


def test_a_png_bomb_is_never_unpacked(write: Writer) -> None:
    bombs = [write(huge_png(n, n, whole=True), f"bomb {n}") for n in (12_000, 20_000)]
    assert all(bomb.stat().st_size < 1 << 20 for bomb in bombs)
    large = write(grey_png(np.tile(grey((512, 512)), (8, 8))), "large")
    *refused, (outcome, mebibytes) = cost(write(grey_png(grey())), *bombs, large)
    assert refused == [("TooManyVoxels", pytest.approx(0, abs=20))] * 2
    # what is unpacked shows in its cost: a measurement that sees nothing would prove nothing
    assert outcome == "read"
    assert mebibytes > 60, mebibytes


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


def test_running_out_of_memory_is_no_scan_error(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    path = write(grey_png(grey()))
    monkeypatch.setattr("neurobento.imaging.slices.picture._luminance", full)
    with pytest.raises(MemoryError):
        read_slice(path)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_a_jpeg_that_ends_early_is_truncated(mode: str, write: Writer) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (128, 128), dtype=np.uint8)
    content = encoded(Image.fromarray(noise).convert(mode), "JPEG")
    for share in (0.02, 0.3, 0.6, 0.9):
        refusal(write(content[: int(share * len(content))]), TruncatedScan)


def test_a_jpeg_of_too_many_pixels_is_refused_by_its_header(write: Writer) -> None:
    content = encoded(Image.fromarray(grey()), "JPEG")
    frame = content.index(b"\xff\xc0") + 5
    for size in (5000, 12_000, 65_535):
        lie = content[:frame] + struct.pack(">HH", size, size) + content[frame + 4 :]
        refusal(write(lie), TooManyVoxels)
