"""Fit the head in a 2D slice to a network's grid, and map values on that grid back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import SLICE_SHAPE

__all__ = ["FittedSlice", "fit_slice", "resize", "shrink"]

# Longest edge in pixels of the image in which the head is searched
HEAD_SEARCH_SIZE = 256

# Air is darker than this share of the bright value, which is this percentile
AIR, BRIGHT = 0.12, 99.5

# Largest difference within a uniform border, as a share of the image's range: JPEG adds some
BORDER_SPREAD = 0.02

# Smallest share of the image that a head fills; anything smaller is not taken for one
SMALLEST_HEAD = 0.05


@dataclass(frozen=True, eq=False)
class FittedSlice:
    """A slice on the network's grid, and the way back to its own pixels."""

    # `SLICE_SHAPE`, in [0, 1]: the head, not turned, in the middle; zero outside of it, one at its
    # 99.5th percentile
    image: NDArray[np.float32]
    # Rows and columns of the slice
    shape: tuple[int, int]
    # First row and column of the square around the head; they may lie outside the slice
    corner: tuple[int, int]
    # Edge of that square in the slice's pixels
    edge: int

    def restore(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return values on the network's grid as values of the slice's own pixels."""
        native = np.zeros(self.shape, np.float32)
        square = resize(values, (self.edge, self.edge))
        in_native, in_square = zip(
            *(_overlap(c, self.edge, n) for c, n in zip(self.corner, self.shape, strict=True)),
            strict=True,
        )
        native[in_native] = square[in_square]
        return native


def fit_slice(pixels: NDArray[np.float32]) -> FittedSlice:
    """Return the head in a slice, (rows, columns) in any unit, on the network's grid.

    Borders, letters and rulers are cut away; air must be darker than tissue.
    """
    # cut borders off, and find the head in the rest
    shape = pixels.shape[0], pixels.shape[1]
    content = _without_borders(pixels)
    pixels = _scale_to_unit(pixels[content])
    head = _find_head(pixels)
    # the square around the head
    rows, columns = (np.flatnonzero(head.any(axis=axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left
    edge = max(height, width)
    corner = top - (edge - height) // 2, left - (edge - width) // 2
    # copy the head into it; it may reach beyond the slice
    square = np.zeros((edge, edge), np.float32)
    (row_in, row_out), (column_in, column_out) = (
        _overlap(start, edge, length) for start, length in zip(corner, pixels.shape, strict=True)
    )
    square[row_out, column_out] = np.where(head, pixels, 0)[row_in, column_in]
    # scale it; all is zero if no pixel of the head is brighter than the darkest one
    bright = float(np.percentile(pixels[head], BRIGHT))
    image = np.clip(resize(square, SLICE_SHAPE) / (bright or 1.0), 0, 1)
    native_corner = corner[0] + content[0].start, corner[1] + content[1].start
    return FittedSlice(image, shape, native_corner, edge)


def _without_borders(pixels: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the rows and columns inside uniform borders, such as padding or a white page."""
    dark, bright = np.percentile(pixels, (100 - BRIGHT, BRIGHT))
    least_spread = BORDER_SPREAD * (bright - dark)
    spans = [slice(0, n) for n in pixels.shape]
    # a page around padding has two borders; many nested ones are a drawing
    for _ in range(4):
        for axis in (0, 1):
            content = pixels[spans[0], spans[1]]
            spread = content.max(axis=1 - axis).astype(float) - content.min(axis=1 - axis)
            varied = np.flatnonzero(spread > least_spread)
            if len(varied):
                start = spans[axis].start
                spans[axis] = slice(start + int(varied[0]), start + int(varied[-1]) + 1)
    return spans[0], spans[1]


def _scale_to_unit(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale values to [0, 1]; in float64, because differences of float32 may overflow."""
    values = pixels.astype(np.float64)
    values -= values.min()
    return np.asarray(values / (values.max() or 1.0), dtype=np.float32)


def _find_head(pixels: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return a mask of the largest connected tissue and all it encloses, or of all pixels."""
    from scipy import ndimage

    small = shrink(pixels, HEAD_SEARCH_SIZE)
    tissue = small > AIR * np.percentile(small, BRIGHT)
    # opening cuts off letters and rulers that touch the head
    parts, count = ndimage.label(ndimage.binary_opening(tissue, iterations=2))
    if not count:
        return np.ones(pixels.shape, bool)
    sizes = np.bincount(parts.ravel())[1:]
    head = ndimage.binary_fill_holes(parts == 1 + int(sizes.argmax()))
    if head.mean() < SMALLEST_HEAD:
        return np.ones(pixels.shape, bool)
    return resize(head.astype(np.float32), pixels.shape) >= 0.5


def _overlap(start: int, length: int, whole: int) -> tuple[slice, slice]:
    """Return the part of a span that lies in 0..whole: its indices there, and within the span."""
    first, last = max(start, 0), min(start + length, whole)
    return slice(first, last), slice(first - start, last - start)


def resize(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Resample (rows, columns) over the same area: interpolate linearly, or average if smaller."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def shrink(values: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """Resample (rows, columns) so that neither edge is longer than `longest` pixels."""
    scale = min(1.0, longest / max(values.shape))
    return resize(values, tuple(max(1, round(n * scale)) for n in values.shape))
