"""Draw an anomaly's heat map over its slice or scan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.axial import AxialSlices, axial_slices
from neurobento.anomaly.detector import AIR, ScanAnomaly, SliceAnomaly
from neurobento.anomaly.fit import shrink
from neurobento.imaging.scan import Scan
from neurobento.pictures import write_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NOTE", "scan_figure", "slice_figure"]

NOTE = "For research; not a diagnosis."

COLOURS = "inferno"
OPACITY = 0.85
SHOWN_SLICES = 4
# Least distance of two shown slices: closer ones look the same
APART_MM = 10.0

# Of a drawn image, in pixels
LONGEST_EDGE = 1024

# Percentiles of the pixels that are drawn black and white
GREY_WINDOW = (0.5, 99.5)

Pixels = NDArray[np.float32]


def slice_figure(pixels: Pixels, anomaly: SliceAnomaly) -> Figure:
    """Draw a slice (rows, columns), beside it the same with its heat map, and the verdict above."""
    from matplotlib.figure import Figure

    top = _top_value(anomaly)
    grey, heat = shrink(_apply_window(pixels), LONGEST_EDGE), shrink(anomaly.heat_map, LONGEST_EDGE)
    aspect = pixels.shape[0] / pixels.shape[1] / (grey.shape[0] / grey.shape[1])
    figure = Figure(figsize=(10, 5.6), facecolor="black", layout="constrained")
    plain, hot = figure.subplots(1, 2)
    _show(plain, grey[..., None].repeat(3, -1), aspect)
    _show(hot, _blend(grey, heat, top), aspect)
    _add_colour_bar(figure, [plain, hot], top)
    _write_verdict(figure, anomaly)
    return figure


def scan_figure(scan: Scan, anomaly: ScanAnomaly) -> Figure:
    """Draw the most abnormal slices, plain and with heat map, and a curve of all scores."""
    from matplotlib.figure import Figure

    # choose the slices, and one crop and one grey window for all of them
    slices = axial_slices(scan.shape, scan.voxel_to_ras)
    planes, heat = slices.view(scan.array), slices.view(anomaly.heat_map)
    shown = _highest_slices(anomaly, slices.thickness_mm)
    numbers = [slices.native_index(index) for index in shown]
    box = _head_box(planes[numbers])
    dark, bright = _grey_window(planes[numbers][:, box[0], box[1]])
    aspect, top = slices.pixel_mm[0] / slices.pixel_mm[1], _top_value(anomaly)
    # a column for each slice: plain above, with the heat map below
    figure = Figure(figsize=(11, 8.4), facecolor="black", layout="constrained")
    grid = figure.add_gridspec(3, len(shown), height_ratios=(1, 1, 0.55))
    panels = []
    for column, (index, number) in enumerate(zip(shown, numbers, strict=True)):
        grey = _scale(planes[number][box], dark, bright)
        above, below = (figure.add_subplot(grid[row, column]) for row in (0, 1))
        _show(above, grey[..., None].repeat(3, -1), aspect)
        _show(below, _blend(grey, heat[number][box], top), aspect)
        above.set_title(f"slice {index}: {anomaly.slices[index]:.4g}", color="white", fontsize=11)
        write_letters(above, ("L", "R", "A", "P"))
        panels += [above, below]
    # what belongs to all of them
    _add_colour_bar(figure, panels, top)
    _draw_scores(figure.add_subplot(grid[2, :]), anomaly, shown, slices)
    _write_verdict(figure, anomaly)
    return figure


def _top_value(anomaly: SliceAnomaly | ScanAnomaly) -> float:
    """Return the value of the brightest colour; low values look dark beside the threshold."""
    threshold = anomaly.slice_threshold if isinstance(anomaly, ScanAnomaly) else anomaly.threshold
    return max(float(anomaly.heat_map.max()), threshold) or 1.0


def _highest_slices(anomaly: ScanAnomaly, thickness_mm: float) -> list[int]:
    """Return the slices with the highest scores, some distance apart, in rising order."""
    shown: list[int] = []
    for index in sorted(anomaly.slices, key=lambda i: anomaly.slices[i], reverse=True):
        if all(abs(index - other) * thickness_mm >= APART_MM for other in shown):
            shown.append(index)
    return sorted(shown[:SHOWN_SLICES])


def _head_box(planes: Pixels) -> tuple[slice, slice]:
    """Return the rows and columns around the head in any of the slices, with a margin."""
    dark, bright = _grey_window(planes)
    head = np.any(planes > dark + AIR * (bright - dark), axis=0)
    spans = []
    for axis in (1, 0):
        indices = np.flatnonzero(np.any(head, axis=axis))
        margin = head.shape[1 - axis] // 20
        ends = (indices[0], indices[-1] + 1) if len(indices) else (0, head.shape[1 - axis])
        spans.append(slice(max(0, int(ends[0]) - margin), int(ends[1]) + margin))
    return spans[0], spans[1]


def _grey_window(pixels: Pixels) -> tuple[float, float]:
    dark, bright = np.percentile(pixels, GREY_WINDOW)
    return float(dark), float(bright)


def _apply_window(pixels: Pixels) -> Pixels:
    return _scale(pixels, *_grey_window(pixels))


def _scale(pixels: Pixels, dark: float, bright: float) -> Pixels:
    """Scale dark..bright to [0, 1]; a window without width gives 0 and 1 alone."""
    values = (pixels.astype(np.float64) - dark) / ((bright - dark) or 1.0)
    return np.asarray(np.clip(values, 0, 1), np.float32)


def _blend(grey: Pixels, heat: Pixels, top: float) -> Pixels:
    """Return (rows, columns, 3): the hotter a pixel, the less its grey shows through."""
    from matplotlib import colormaps

    share = np.clip(heat / top, 0, 1)
    opacity = OPACITY * share[..., None]
    return np.asarray(
        (1 - opacity) * grey[..., None] + opacity * colormaps[COLOURS](share)[..., :3], np.float32
    )


def _show(axes: Axes, picture: Pixels, aspect: float) -> None:
    axes.imshow(picture, aspect=aspect, interpolation="nearest")
    axes.set_axis_off()


def _add_colour_bar(figure: Figure, panels: list[Axes], top: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLOURS), ax=panels, shrink=0.9)
    bar.set_label("heat map", color="white")
    bar.ax.tick_params(colors="white")


def _write_verdict(figure: Figure, anomaly: SliceAnomaly | ScanAnomaly) -> None:
    text = f"score {anomaly.score:.4g}, no threshold"
    if anomaly.threshold is not None:
        verdict = "anomalous" if anomaly.is_anomalous else "not anomalous"
        text = f"score {anomaly.score:.4g}, threshold {anomaly.threshold:.4g}: {verdict}"
    if isinstance(anomaly, ScanAnomaly):
        text += f"; {anomaly.slices_above} of {len(anomaly.slices)} slices above that of one"
    figure.suptitle(f"{text}\n{NOTE}", color="white", fontsize=13)


def _draw_scores(axes: Axes, anomaly: ScanAnomaly, shown: list[int], slices: AxialSlices) -> None:
    axes.set_facecolor("black")
    axes.plot([*anomaly.slices], [*anomaly.slices.values()], color="white", lw=1.2, label="slices")
    axes.plot(shown, [anomaly.slices[i] for i in shown], "o", color="orange", label="shown above")
    axes.axhline(anomaly.slice_threshold, color="orange", ls="--", label="threshold of one slice")
    axes.set_ylim(bottom=0)
    # the feet are on the left, whichever way the index grows
    if slices.native_index(0):
        axes.invert_xaxis()
    axes.set_xlabel(f"slice along axis {anomaly.axis}, feet to head", color="white")
    axes.set_ylabel("score", color="white")
    axes.tick_params(colors="white")
    for spine in axes.spines.values():
        spine.set_color("grey")
    axes.legend(facecolor="black", labelcolor="white", framealpha=0.5, ncols=3, fontsize=9)
