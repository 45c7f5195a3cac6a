"""Write a heat map as a PNG of 16-bit grey; needs no more than NumPy and Pillow."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["GREY_LEVELS", "heat_map_png", "value_per_level"]

# The largest grey value of 16 bits
GREY_LEVELS = 65_535


def heat_map_png(heat_map: NDArray[np.float32]) -> bytes:
    """Return a PNG of a (rows, columns) map of values of 0 or more, its largest value white."""
    levels = np.round(heat_map.astype(np.float64) / value_per_level(heat_map)).clip(0, GREY_LEVELS)
    png = io.BytesIO()
    Image.fromarray(levels.astype(np.uint16)).save(png, "PNG")
    return png.getvalue()


def value_per_level(heat_map: NDArray[np.float32]) -> float:
    """Return the value that one grey level stands for, as `slice_facts` states it."""
    return float(heat_map.max()) / GREY_LEVELS or 1.0
