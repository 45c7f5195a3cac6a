"""Pictures of a parcellation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm
from neurobento.labels import CLASS_COUNT, aal116
from neurobento.pictures import png_bytes, write_letters

if TYPE_CHECKING:
    pass

__all__ = ["overlay_png"]

OPACITY = 0.55

PLANES = (
    ("coronal", 1, ("L", "R", "S", "I")),
    ("axial", 2, ("L", "R", "A", "P")),
    ("sagittal", 0, ("P", "A", "S", "I")),
)
"""Name, axis cut through (in RAS), and the letters at left, right, top and bottom."""


def overlay_png(
    array: NDArray[np.float32], labels: NDArray[np.uint8], voxel_to_ras: NDArray[np.float64]
) -> bytes:
    """A PNG of the regions over the scan: three planes, the subject's left on the left.

    The planes follow the scan's own axes, turned to the nearest anatomical
    ones; through the middle of the labels, the sagittal one beside the midline.

    Parameters
    ----------
    array, labels
        The scan and its parcellation, (X, Y, Z), any orientation.
    voxel_to_ras
        (4, 4), voxel index -> world RAS in mm.
    """
    from matplotlib.figure import Figure

    ras_array, ras_labels, sizes = _to_ras(array, labels, voxel_to_ras)
    box = _foreground(ras_array)
    ras_array, ras_labels = ras_array[box], ras_labels[box]
    cuts = _cuts(ras_labels)
    grey = _window(ras_array)
    figure = Figure(figsize=(12, 4.4), facecolor="black", layout="constrained")
    for axes, (name, axis, letters) in zip(figure.subplots(1, 3), PLANES, strict=True):
        a, b = (i for i in range(3) if i != axis)
        panel = _blend(grey, ras_labels, axis, cuts[axis])
        aspect = sizes[b] / sizes[a]
        axes.imshow(panel.swapaxes(0, 1), origin="lower", aspect=aspect, interpolation="nearest")
        axes.set_title(name, color="white", fontsize=11)
        axes.set_axis_off()
        write_letters(axes, letters)
    return png_bytes(figure)


def _to_ras(
    array: NDArray[np.float32], labels: NDArray[np.uint8], voxel_to_ras: NDArray[np.float64]
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64]]:
    from nibabel.orientations import apply_orientation, io_orientation

    orientation = io_orientation(voxel_to_ras)
    sizes = np.empty(3)
    sizes[orientation[:, 0].astype(int)] = voxel_sizes_mm(voxel_to_ras)
    return apply_orientation(array, orientation), apply_orientation(labels, orientation), sizes


def _foreground(array: NDArray[np.float32]) -> tuple[slice, ...]:
    """The box around what is not background, with a margin for the letters."""
    box = []
    for axis in range(3):
        others = tuple(i for i in range(3) if i != axis)
        found = np.flatnonzero((array > 0).any(axis=others))
        margin = array.shape[axis] // 20
        ends = (found[0], found[-1] + 1) if len(found) else (0, array.shape[axis])
        box.append(slice(max(0, ends[0] - margin), ends[1] + margin))
    return tuple(box)


def _cuts(labels: NDArray[np.uint8]) -> tuple[int, int, int]:
    """Where to cut: the middle of the labels' extent, sagittally 40 % into it."""
    cuts = []
    for axis, share in enumerate((0.4, 0.5, 0.5)):
        others = tuple(i for i in range(3) if i != axis)
        found = np.flatnonzero((labels > 0).any(axis=others))
        extent = (found[0], found[-1]) if len(found) else (0, labels.shape[axis] - 1)
        cuts.append(int(extent[0] + share * (extent[1] - extent[0])))
    return cuts[0], cuts[1], cuts[2]


def _window(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scan in [0, 1], the brightest half percent of its foreground cut off."""
    inside = array[array > 0]
    high = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    return np.clip(array / (high or 1.0), 0, 1)


def _blend(
    grey: NDArray[np.float32], labels: NDArray[np.uint8], axis: int, cut: int
) -> NDArray[np.float32]:
    """(A, B, 3) colours of one plane: the region's over the scan's grey."""
    plane_grey, plane_labels = np.take(grey, cut, axis), np.take(labels, cut, axis)
    palette = np.zeros((CLASS_COUNT, 3), dtype=np.float32)
    for region in aal116():
        palette[region.class_index] = np.array(region.rgb) / 255
    opacity = (plane_labels > 0)[..., None] * OPACITY
    colours = (1 - opacity) * plane_grey[..., None] + opacity * palette[plane_labels]
    return np.asarray(colours, np.float32)
