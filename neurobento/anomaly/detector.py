"""How little a slice, or a scan slice by slice, looks like a healthy head's, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.anomaly.axial import axial_slices
from neurobento.anomaly.fit import FittedSlice, fit_slice, resize
from neurobento.anomaly.thresholds import scan_threshold, slice_threshold
from neurobento.backends.base import Backend
from neurobento.errors import EmptyScan
from neurobento.imaging.scan import Scan
from neurobento.preprocessing.mode import Progress, ignore_progress

__all__ = ["AnomalyDetector", "ScanAnomaly", "SliceAnomaly", "slice_anomaly"]

BATCH_SIZE = 8
"""Slices that go through the model at once."""

EXTENT_MM, EXTENT_PIXELS = 10.0, 15
"""What a scan is judged by extends this far from slice to slice, and along each axis of what the
network saw of one: what is thinner is noise more often than not."""

TISSUE, RIM_PIXELS = 0.12, 4
"""Of the brightest; and what lies less deep in the head than this, there or in its mirror place,
does not count: a scan cut off at a pole, or stripped tightly, is anomalous there and nowhere
else."""

AIR, DARK, BRIGHT = 0.12, 0.5, 99.5
"""Darker than this share of the way from the dark to the bright is air; these are percentiles."""

VERTEX = 0.05
"""Of the largest slice's area: what is less is above the head."""

LEAST_HEAD = 0.5
"""Of the largest slice's area: the top of a head looks like no slice of training."""

DEEPEST_MM = 90.0
"""Below the vertex: further down are the skull's base, the face and the neck."""


@dataclass(frozen=True, eq=False)
class SliceAnomaly:
    """Of one slice.

    Attributes
    ----------
    score
        The higher, the less it looks healthy.
    threshold
        Above it a slice is called anomalous; of healthy ones few are, see the model's spec.
    heat_map
        (rows, columns) float32, 0 or more: where, on the slice's own pixels.
    fitted
        What the network saw.
    """

    score: float
    threshold: float
    heat_map: NDArray[np.float32]
    fitted: FittedSlice

    @property
    def is_anomalous(self) -> bool:
        """Whether the score is above the threshold."""
        return self.score > self.threshold


@dataclass(frozen=True, eq=False)
class ScanAnomaly:
    """Of a scan.

    Attributes
    ----------
    score
        The highest mean of the error map over a block inside of the head, 10 mm of slices by
        15 x 15 pixels of what the network saw.
    threshold
        Above it a scan is called anomalous; None of a model for which none was measured.
    slice_threshold
        Of one slice. Of the many in a healthy scan some often are above it.
    slices
        Index along the scan's own axis -> score, of the slices that were looked at, in
        rising order of the index.
    axis
        The voxel axis that runs between feet and head, most nearly.
    heat_map
        (X, Y, Z) float32, 0 or more, on the scan's own grid; 0 in slices that were not
        looked at.
    """

    score: float
    threshold: float | None
    slice_threshold: float
    slices: dict[int, float]
    axis: int
    heat_map: NDArray[np.float32]

    @property
    def is_anomalous(self) -> bool | None:
        """Whether the score is above the threshold, if there is one."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def slices_above(self) -> int:
        """How many slices' scores are above the threshold of one."""
        return sum(score > self.slice_threshold for score in self.slices.values())


def slice_anomaly(
    fitted: FittedSlice, score: float, error_map: NDArray[np.float32], threshold: float
) -> SliceAnomaly:
    """What a network gave of a slice, on the slice's own pixels.

    Parameters
    ----------
    fitted
        What the network saw.
    score, error_map
        What it gave: a number, and `SLICE_SHAPE` float32.
    threshold
        Of the model's spec.
    """
    return SliceAnomaly(score, threshold, fitted.restore(error_map), fitted)


class AnomalyDetector:
    """Scores slices and scans with one model.

    Parameters
    ----------
    backend
        Runs the model; `neurobento.backends.open_backend` opens one.

    Raises
    ------
    ConfigError
        The model is for something else.
    SpecMismatch
        Its spec states no threshold.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.threshold = slice_threshold(backend.spec)
        self.scan_threshold = scan_threshold(backend.spec)

    def detect(self, pixels: NDArray[np.float32], progress: Progress | None = None) -> SliceAnomaly:
        """The anomaly of a slice.

        Parameters
        ----------
        pixels
            (rows, columns), in any unit; `neurobento.imaging.slices.reader.read_slice` reads them.
        progress
            Told each stage as it begins: fit, infer, restore.
        """
        say = progress or ignore_progress
        say("fit")
        fitted = fit_slice(pixels)
        say("infer")
        ((score, error_map),) = self._run([fitted])
        say("restore")
        return slice_anomaly(fitted, score, error_map, self.threshold)

    def detect_scan(self, scan: Scan, progress: Progress | None = None) -> ScanAnomaly:
        """The anomaly of a scan, from its axial slices that hold enough of the head.

        Parameters
        ----------
        scan
            In any orientation; `neurobento.imaging.scan.read_scan` reads one.
        progress
            Told each stage as it begins: fit, infer, restore.

        Raises
        ------
        EmptyScan
            There is no head in it.
        """
        say = progress or ignore_progress
        say("fit")
        slices = axial_slices(scan.shape, scan.voxel_to_ras)
        planes = slices.view(scan.array)
        chosen = _with_head(planes, slices.thickness_mm)
        shape = _square(planes.shape[1:], slices.pixel_mm)
        fitted = [fit_slice(resize(planes[k], shape)) for k in chosen]
        say("infer")
        found = self._run(fitted)
        say("restore")
        heat_map = np.zeros(scan.shape, np.float32)
        heat = slices.view(heat_map)
        for k, each, (_, error_map) in zip(chosen, fitted, found, strict=True):
            heat[k] = resize(each.restore(error_map), planes.shape[1:])
        by_index = {slices.native_index(k): s for k, (s, _) in zip(chosen, found, strict=True)}
        images, maps = (
            np.stack(each) for each in ([f.image for f in fitted], [m for _, m in found])
        )
        return ScanAnomaly(
            score=_highest(images, maps, slices.thickness_mm),
            threshold=self.scan_threshold,
            slice_threshold=self.threshold,
            slices=dict(sorted(by_index.items())),
            axis=slices.axis,
            heat_map=heat_map,
        )

    def _run(self, fitted: Sequence[FittedSlice]) -> list[tuple[float, NDArray[np.float32]]]:
        found: list[tuple[float, NDArray[np.float32]]] = []
        for start in range(0, len(fitted), BATCH_SIZE):
            images = np.stack([each.image for each in fitted[start : start + BATCH_SIZE]])[:, None]
            answer = self.backend.run(images)
            maps = np.asarray(answer["error_map"], np.float32)
            scores = np.asarray(answer["score"], np.float64)
            found += [(float(s), m) for s, m in zip(scores, maps, strict=True)]
        return found


def _with_head(planes: NDArray[np.float32], thickness_mm: float) -> range:
    """The slices, from the lowest on, that show about the brain's level of a head."""
    dark, bright = (float(each) for each in np.percentile(planes, (DARK, BRIGHT)))
    areas = (planes > dark + AIR * (bright - dark)).sum(axis=(1, 2))
    if not areas.any():
        raise EmptyScan(
            expected="a head", found="no slice with one", remedy="Send a scan of a head."
        )
    vertex = int(np.flatnonzero(areas >= VERTEX * areas.max())[-1])
    lowest = max(0, round(vertex - DEEPEST_MM / thickness_mm))
    inside = areas[lowest : vertex + 1]
    large = lowest + np.flatnonzero(inside >= LEAST_HEAD * inside.max())
    return range(int(large[0]), int(large[-1]) + 1)


def _square(shape: tuple[int, ...], pixel_mm: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of the same area in square pixels, as small as a pixel's smaller edge."""
    edge = min(pixel_mm)
    rows, columns = (max(1, round(n * mm / edge)) for n, mm in zip(shape, pixel_mm, strict=True))
    return rows, columns


def _highest(images: NDArray[np.float32], maps: NDArray[np.float32], thickness_mm: float) -> float:
    """The highest mean of error maps (N, 128, 128) over a block inside of the head.

    Parameters
    ----------
    images, maps
        What the network saw of neighbouring slices, and what it gave.
    thickness_mm
        From one slice to the next.
    """
    from scipy.ndimage import uniform_filter

    count = min(max(1, round(EXTENT_MM / thickness_mm)), len(maps))
    inside = np.stack([_inside(image) for image in images])
    size = (count, EXTENT_PIXELS, EXTENT_PIXELS)
    return float(uniform_filter(maps * inside, size, mode="constant").max())


def _inside(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where a slice is deep in the head, and its mirror place too, (128, 128)."""
    from scipy.ndimage import binary_erosion, binary_fill_holes

    head = binary_erosion(binary_fill_holes(image > TISSUE), iterations=RIM_PIXELS)
    return np.asarray(head & head[:, ::-1])
