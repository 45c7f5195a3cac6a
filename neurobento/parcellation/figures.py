"""Draw a parcellation over its scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import voxel_sizes_mm
from neurobento.labels import CLASS_COUNT, aal116
from neurobento.pictures import png_bytes, write_letters

__all__ = ["overlay_png"]

OPACITY = 0.55

# Name, the RAS axis across the plane, and the letters at left, right, top and bottom
PLANES = (
    ("coronal", 1, ("L", "R", "S", "I")),
    ("axial", 2, ("L", "R", "A", "P")),
    ("sagittal", 0, ("P", "A", "S", "I")),
)

# Position of the cut along each RAS axis of the labels; the sagittal one is beside the midline
CUT_SHARES = (0.4, 0.5, 0.5)


def overlay_png(
    array: NDArray[np.float32], labels: NDArray[np.uint8], voxel_to_ras: NDArray[np.float64]
) -> bytes:
    """Return a PNG of the regions over the scan in three planes, the subject's left on the left.

    Scan and labels are (X, Y, Z); the planes follow the scan's own axes, turned to anatomical ones.
    """
    from matplotlib.figure import Figure

    # turn to RAS and crop to the head
    ras_array, ras_labels, sizes = _to_ras(array, labels, voxel_to_ras)
    box = _foreground_box(ras_array)
    ras_array, ras_labels = ras_array[box], ras_labels[box]
    # draw one panel for each plane
    cuts = _cut_indices(ras_labels)
    grey = _apply_window(ras_array)
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
    """Return scan and labels turned to RAS, and the edges of a voxel in mm."""
    from nibabel.orientations import apply_orientation, io_orientation

    orientation = io_orientation(voxel_to_ras)
    sizes = np.empty(3)
    sizes[orientation[:, 0].astype(int)] = voxel_sizes_mm(voxel_to_ras)
    return apply_orientation(array, orientation), apply_orientation(labels, orientation), sizes


def _foreground_box(array: NDArray[np.float32]) -> tuple[slice, ...]:
    """Return the box around all positive voxels, with a margin for the letters."""
    box = []
    for axis in range(3):
        first, last = _extent(array > 0, axis)
        margin = array.shape[axis] // 20
        box.append(slice(max(0, first - margin), last + 1 + margin))
    return tuple(box)


def _cut_indices(labels: NDArray[np.uint8]) -> list[int]:
    """Return the index along each axis at which to cut."""
    cuts = []
    for axis, share in enumerate(CUT_SHARES):
        first, last = _extent(labels > 0, axis)
        cuts.append(int(first + share * (last - first)))
    return cuts


def _extent(mask: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """Return the first and the last index of a mask along an axis; all if the mask is empty."""
    others = tuple(i for i in range(3) if i != axis)
    indices = np.flatnonzero(mask.any(axis=others))
    return (indices[0], indices[-1]) if len(indices) else (0, mask.shape[axis] - 1)


def _apply_window(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale the scan to [0, 1] and clip the brightest half percent of its foreground."""
    foreground = array[array > 0]
    high = float(np.percentile(foreground, 99.5)) if foreground.size else 1.0
    return np.clip(array / (high or 1.0), 0, 1)


def _blend(
    grey: NDArray[np.float32], labels: NDArray[np.uint8], axis: int, cut: int
) -> NDArray[np.float32]:
    """Return one plane as colours (A, B, 3): the regions' over the scan's grey."""
    plane_grey, plane_labels = np.take(grey, cut, axis), np.take(labels, cut, axis)
    palette = np.zeros((CLASS_COUNT, 3), dtype=np.float32)
    for region in aal116():
        palette[region.class_index] = np.array(region.rgb) / 255
    opacity = (plane_labels > 0)[..., None] * OPACITY
    colours = (1 - opacity) * plane_grey[..., None] + opacity * palette[plane_labels]
    return np.asarray(colours, np.float32)
