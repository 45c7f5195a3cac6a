"""Draw the parts that pictures of scans and of slices share."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["png_bytes", "write_letters"]


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG of 100 pixels per inch; equal figures give equal bytes."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=100, metadata={"Software": None})
    return png.getvalue()


def write_letters(axes: Axes, letters: tuple[str, str, str, str]) -> None:
    """Write the orientation letters at the left, right, top and bottom of a picture."""
    positions = ((0.02, 0.5), (0.98, 0.5), (0.5, 0.97), (0.5, 0.03))
    for letter, (x, y) in zip(letters, positions, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            color="white",
            ha="center",
            va="center",
            fontsize=11,
        )
