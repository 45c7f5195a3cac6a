"""Pictures of where a slice, or a scan, does not look like a healthy head's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.axial import AxialSlices, axial_slices
from neurobento.anomaly.detector import AIR, ScanAnomaly, SliceAnomaly
from neurobento.anomaly.fit import resize
from neurobento.imaging.scan import Scan
from neurobento.pictures import write_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["NOTE", "scan_figure", "slice_figure"]

NOTE = "For research; not a diagnosis."

COLOURS = "inferno"
OPACITY = 0.85
SHOWN = 4
APART_MM = 10.0
"""Between two slices that are shown: closer ones show the same."""

LONGEST = 1024
"""Edge in pixels that a drawn image has at most."""

WINDOW = (0.5, 99.5)
"""Percentiles of the pixels that are black and white."""

Pixels = NDArray[np.float32]


def slice_figure(pixels: Pixels, anomaly: SliceAnomaly) -> Figure:
    """The slice beside the slice with its heat map over it, and what was found.

    Parameters
    ----------
    pixels
        (rows, columns), in any unit.
    anomaly
        Of the same slice.
    """
    from matplotlib.figure import Figure

    top = _top(anomaly)
    rows, columns = pixels.shape
    grey, heat = (_small(_windowed(pixels)), _small(anomaly.heat_map))
    figure = Figure(figsize=(10, 5.6), facecolor="black", layout="constrained")
    both = figure.subplots(1, 2)
    _show(both[0], grey[..., None].repeat(3, -1), rows / columns / (grey.shape[0] / grey.shape[1]))
    _show(both[1], _blend(grey, heat, top), rows / columns / (grey.shape[0] / grey.shape[1]))
    _write_bar(figure, list(both), top)
    _write_verdict(figure, anomaly)
    return figure


def scan_figure(scan: Scan, anomaly: ScanAnomaly) -> Figure:
    """The slices of the highest scores without and with the heat map, and all slices' scores.

    The slices are seen from above: the nose is up, the subject's left on the left.

    Parameters
    ----------
    scan
        In any orientation.
    anomaly
        Of the same scan.
    """
    from matplotlib.figure import Figure

    slices = axial_slices(scan.shape, scan.voxel_to_ras)
    planes, heat = slices.view(scan.array), slices.view(anomaly.heat_map)
    shown = _highest_apart(anomaly, slices.thickness_mm)
    numbers = [slices.native_index(index) for index in shown]
    box = _around(planes[numbers])
    dark, bright = _window(planes[numbers][:, box[0], box[1]])
    aspect, top = slices.pixel_mm[0] / slices.pixel_mm[1], _top(anomaly)
    figure = Figure(figsize=(11, 8.4), facecolor="black", layout="constrained")
    grid = figure.add_gridspec(3, len(shown), height_ratios=(1, 1, 0.55))
    panels = []
    for column, (index, number) in enumerate(zip(shown, numbers, strict=True)):
        grey = _scaled(planes[number][box], dark, bright)
        above, below = (figure.add_subplot(grid[row, column]) for row in (0, 1))
        _show(above, grey[..., None].repeat(3, -1), aspect)
        _show(below, _blend(grey, heat[number][box], top), aspect)
        above.set_title(f"slice {index}: {anomaly.slices[index]:.4g}", color="white", fontsize=11)
        write_letters(above, ("L", "R", "A", "P"))
        panels += [above, below]
    _write_bar(figure, panels, top)
    _draw_scores(figure.add_subplot(grid[2, :]), anomaly, shown, slices)
    _write_verdict(figure, anomaly)
    return figure


def _top(anomaly: SliceAnomaly | ScanAnomaly) -> float:
    """The value of the brightest colour; a slice's threshold at least, so that little looks
    little."""
    of_slice = anomaly.slice_threshold if isinstance(anomaly, ScanAnomaly) else anomaly.threshold
    return max(float(anomaly.heat_map.max()), of_slice) or 1.0


def _highest_apart(anomaly: ScanAnomaly, thickness_mm: float) -> list[int]:
    """The slices of the highest scores that are apart from each other, in rising order."""
    shown: list[int] = []
    for index in sorted(anomaly.slices, key=lambda i: anomaly.slices[i], reverse=True):
        if all(abs(index - other) * thickness_mm >= APART_MM for other in shown):
            shown.append(index)
    return sorted(shown[:SHOWN])


def _around(planes: Pixels) -> tuple[slice, slice]:
    """The rows and columns in which there is something, and a margin."""
    dark, bright = _window(planes)
    there = np.any(planes > dark + AIR * (bright - dark), axis=0)
    spans = []
    for axis in (1, 0):
        found = np.flatnonzero(np.any(there, axis=axis))
        margin = there.shape[1 - axis] // 20
        ends = (found[0], found[-1] + 1) if len(found) else (0, there.shape[1 - axis])
        spans.append(slice(max(0, int(ends[0]) - margin), int(ends[1]) + margin))
    return spans[0], spans[1]


def _window(pixels: Pixels) -> tuple[float, float]:
    dark, bright = np.percentile(pixels, WINDOW)
    return float(dark), float(bright)


def _windowed(pixels: Pixels) -> Pixels:
    return _scaled(pixels, *_window(pixels))


def _scaled(pixels: Pixels, dark: float, bright: float) -> Pixels:
    """In [0, 1]; of one value only where the window has no width."""
    values = (pixels.astype(np.float64) - dark) / ((bright - dark) or 1.0)
    return np.asarray(np.clip(values, 0, 1), np.float32)


def _small(values: Pixels) -> Pixels:
    scale = min(1.0, LONGEST / max(values.shape))
    return resize(values, tuple(max(1, round(n * scale)) for n in values.shape))


def _blend(grey: Pixels, heat: Pixels, top: float) -> Pixels:
    """(rows, columns, 3): the hotter, the less of the slice's grey shows through."""
    from matplotlib import colormaps

    share = np.clip(heat / top, 0, 1)
    opacity = OPACITY * share[..., None]
    return np.asarray(
        (1 - opacity) * grey[..., None] + opacity * colormaps[COLOURS](share)[..., :3], np.float32
    )


def _show(axes: Axes, picture: Pixels, aspect: float) -> None:
    axes.imshow(picture, aspect=aspect, interpolation="nearest")
    axes.set_axis_off()


def _write_bar(figure: Figure, panels: list[Axes], top: float) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(ScalarMappable(Normalize(0, top), COLOURS), ax=panels, shrink=0.9)
    bar.set_label("heat map", color="white")
    bar.ax.tick_params(colors="white")


def _write_verdict(figure: Figure, anomaly: SliceAnomaly | ScanAnomaly) -> None:
    said = f"score {anomaly.score:.4g}, no threshold"
    if anomaly.threshold is not None:
        verdict = "anomalous" if anomaly.is_anomalous else "not anomalous"
        said = f"score {anomaly.score:.4g}, threshold {anomaly.threshold:.4g}: {verdict}"
    if isinstance(anomaly, ScanAnomaly):
        said += f"; {anomaly.slices_above} of {len(anomaly.slices)} slices above that of one"
    figure.suptitle(
        f"{said}\n{NOTE}",
        color="white",
        fontsize=13,
    )


def _draw_scores(axes: Axes, anomaly: ScanAnomaly, shown: list[int], slices: AxialSlices) -> None:
    axes.set_facecolor("black")
    axes.plot([*anomaly.slices], [*anomaly.slices.values()], color="white", lw=1.2, label="slices")
    axes.plot(shown, [anomaly.slices[i] for i in shown], "o", color="orange", label="shown above")
    axes.axhline(anomaly.slice_threshold, color="orange", ls="--", label="threshold of one slice")
    axes.set_ylim(bottom=0)
    if slices.native_index(0):
        axes.invert_xaxis()
    axes.set_xlabel(f"slice along axis {anomaly.axis}, feet to head", color="white")
    axes.set_ylabel("score", color="white")
    axes.tick_params(colors="white")
    for spine in axes.spines.values():
        spine.set_color("grey")
    axes.legend(facecolor="black", labelcolor="white", framealpha=0.5, ncols=3, fontsize=9)
