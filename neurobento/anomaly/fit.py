"""A 2D slice fitted to a network's grid, and what a network says of it taken back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import SLICE_SHAPE

__all__ = ["FittedSlice", "fit_slice", "resize"]

HEAD_SIZE = 256
"""Largest edge of the image in which the head is looked for, in pixels."""

AIR, BRIGHT = 0.12, 99.5
"""Darker than this share of the bright is air; the bright is this percentile."""

ONE_VALUE = 0.02
"""Share of an image's range that the pixels of a border differ by at most: JPEG adds some."""

SMALLEST_HEAD = 0.05
"""Share of an image that a head fills at least; what is smaller is not taken for one."""


@dataclass(frozen=True, eq=False)
class FittedSlice:
    """A slice on the network's grid, and the way back.

    Attributes
    ----------
    image
        `SLICE_SHAPE` float32 in [0, 1]: the head, upright as it came, in the middle of
        a square; zero outside of it, one at its 99.5th percentile.
    shape
        Rows and columns that the slice came with.
    corner, edge
        The square in the slice's pixels: its first row and column, which may lie
        outside, and the length of its edge.
    """

    image: NDArray[np.float32]
    shape: tuple[int, int]
    corner: tuple[int, int]
    edge: int

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values on the network's grid, `SLICE_SHAPE`, as values of the slice's own pixels."""
        whole = np.zeros(self.shape, np.float32)
        square = resize(values, (self.edge, self.edge))
        into, out_of = zip(
            *(_overlap(c, self.edge, n) for c, n in zip(self.corner, self.shape, strict=True)),
            strict=True,
        )
        whole[into] = square[out_of]
        return whole


def fit_slice(pixels: NDArray[np.float32]) -> FittedSlice:
    """A slice on the network's grid.

    What is no head (borders, letters, rulers) is cut away, so that it can say nothing
    about the head.

    Parameters
    ----------
    pixels
        (rows, columns), in any unit, air darker than tissue; `neurobento.imaging.slices` reads them.
    """
    shape = pixels.shape[0], pixels.shape[1]
    inside = _without_borders(pixels)
    pixels = _in_unit_range(pixels[inside])
    head = _find_head(pixels)
    rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    edge = max(height, width)
    corner = top - (edge - height) // 2, left - (edge - width) // 2
    square = np.zeros((edge, edge), np.float32)
    whole = tuple(_overlap(c, edge, n) for c, n in zip(corner, pixels.shape, strict=True))
    (row_in, row_out), (column_in, column_out) = whole
    square[row_out, column_out] = np.where(head, pixels, 0)[row_in, column_in]
    bright = float(np.percentile(pixels[head], BRIGHT))
    # black where nothing inside is brighter than the darkest
    image = np.clip(resize(square, SLICE_SHAPE) / (bright or 1.0), 0, 1)
    return FittedSlice(
        image, shape, (corner[0] + inside[0].start, corner[1] + inside[1].start), edge
    )


def _without_borders(pixels: NDArray[np.float32]) -> tuple[slice, slice]:
    """The rows and columns within borders of one value each, such as padding or a page's white."""
    dark, bright = np.percentile(pixels, (100 - BRIGHT, BRIGHT))
    least = ONE_VALUE * (bright - dark)
    spans = [slice(0, n) for n in pixels.shape]
    # a page around padding has two; many within each other are a drawing
    for _ in range(4):
        for axis in (0, 1):
            within = pixels[spans[0], spans[1]]
            spread = within.max(axis=1 - axis).astype(float) - within.min(axis=1 - axis)
            varied = np.flatnonzero(spread > least)
            if len(varied):
                start = spans[axis].start
                spans[axis] = slice(start + int(varied[0]), start + int(varied[-1]) + 1)
    return spans[0], spans[1]


def _in_unit_range(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """From 0, the darkest, to 1; in doubles on the way, for a float32 may overflow."""
    values = pixels.astype(np.float64)
    values -= values.min()
    return np.asarray(values / (values.max() or 1.0), dtype=np.float32)


def _find_head(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the head is: the largest connected thing that is not air, and what it encloses."""
    from scipy import ndimage

    scale = min(1.0, HEAD_SIZE / max(pixels.shape))
    small = resize(pixels, tuple(max(1, round(n * scale)) for n in pixels.shape))
    tissue = small > AIR * np.percentile(small, BRIGHT)
    # letters and rulers that touch the head
    parts, count = ndimage.label(ndimage.binary_opening(tissue, iterations=2))
    if not count:
        return np.ones(pixels.shape, bool)
    sizes = np.bincount(parts.ravel())[1:]
    head = ndimage.binary_fill_holes(parts == 1 + int(sizes.argmax()))
    if head.mean() < SMALLEST_HEAD:
        return np.ones(pixels.shape, bool)
    return resize(head.astype(np.float32), pixels.shape) >= 0.5


def _overlap(start: int, length: int, whole: int) -> tuple[slice, slice]:
    """What a span from `start` has of 0..whole: there, and within the span."""
    first, last = max(start, 0), min(start + length, whole)
    return slice(first, last), slice(first - start, last - start)


def resize(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Values (rows, columns) on another grid over the same area: linear between pixels, means of
    many.
    """
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)
