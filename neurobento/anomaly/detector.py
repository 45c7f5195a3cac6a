"""Score how abnormal a slice or a scan looks, with a heat map on its own pixels or voxels."""

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

# Slices that go through the model at once
BATCH_SIZE = 8

# A scan's score is a mean over a block of this extent: across slices, and along each axis of the
# network's grid. Anything thinner is more often noise.
BLOCK_MM, BLOCK_PIXELS = 10.0, 15

# Tissue is brighter than this share of the brightest. Its rim of this width, or the mirror image
# of the rim, does not count: tightly stripped and cut-off heads look anomalous there and nowhere
# else.
TISSUE, RIM_PIXELS = 0.12, 4

# Air is darker than this share of the way from dark to bright, which are these percentiles
AIR, DARK, BRIGHT = 0.12, 0.5, 99.5

# Share of the largest slice's area; above the head slices have less
VERTEX_AREA = 0.05

# Share of the largest slice's area; the network was not trained on the smaller slices near the
# vertex
SMALLEST_AREA = 0.5

# Below the vertex: deeper are the skull base, the face and the neck
DEEPEST_MM = 90.0


@dataclass(frozen=True, eq=False)
class SliceAnomaly:
    """The score and the heat map of one slice."""

    # The higher, the more abnormal
    score: float
    # A slice above it is called anomalous
    threshold: float
    # (rows, columns) on the slice's own pixels, 0 or more
    heat_map: NDArray[np.float32]
    # The network's input
    fitted: FittedSlice

    @property
    def is_anomalous(self) -> bool:
        """The verdict."""
        return self.score > self.threshold


@dataclass(frozen=True, eq=False)
class ScanAnomaly:
    """The score and the heat map of a scan, and the scores of its slices."""

    # The highest mean of the error map over a block inside the head; see `BLOCK_MM`
    score: float
    # A scan above it is called anomalous; None if none was measured for the model
    threshold: float | None
    # Of single slices. A healthy scan has many slices, and often some above it.
    slice_threshold: float
    # Index along `axis` -> score, in rising order, of the slices that were scored
    slices: dict[int, float]
    # The voxel axis that runs most nearly between feet and head
    axis: int
    # (X, Y, Z) on the scan's own grid, 0 or more; 0 in slices that were not scored
    heat_map: NDArray[np.float32]

    @property
    def is_anomalous(self) -> bool | None:
        """The verdict, or None without a threshold."""
        return None if self.threshold is None else self.score > self.threshold

    @property
    def slices_above(self) -> int:
        """The number of slices above the threshold of single slices."""
        return sum(score > self.slice_threshold for score in self.slices.values())


def slice_anomaly(
    fitted: FittedSlice, score: float, error_map: NDArray[np.float32], threshold: float
) -> SliceAnomaly:
    """Return a network's score and error map (128, 128) as an anomaly on the slice's pixels."""
    return SliceAnomaly(score, threshold, fitted.restore(error_map), fitted)


class AnomalyDetector:
    """Scores slices and scans with the model of a backend, which must state a threshold."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.threshold = slice_threshold(backend.spec)
        self.scan_threshold = scan_threshold(backend.spec)

    def detect(
        self, pixels: NDArray[np.float32], progress: Progress = ignore_progress
    ) -> SliceAnomaly:
        """Return the anomaly of a slice, (rows, columns) in any unit; see `read_slice`."""
        progress("fit")
        fitted = fit_slice(pixels)
        progress("infer")
        ((score, error_map),) = self._infer([fitted])
        progress("restore")
        return slice_anomaly(fitted, score, error_map, self.threshold)

    def detect_scan(self, scan: Scan, progress: Progress = ignore_progress) -> ScanAnomaly:
        """Return the anomaly of a scan from its axial slices; EmptyScan if there is no head."""
        # choose slices and fit each to the network's grid
        progress("fit")
        slices = axial_slices(scan.shape, scan.voxel_to_ras)
        planes = slices.view(scan.array)
        numbers = _brain_slices(planes, slices.thickness_mm)
        shape = _square_pixel_shape(planes.shape[1:], slices.pixel_mm)
        fitted = [fit_slice(resize(planes[number], shape)) for number in numbers]
        progress("infer")
        answers = self._infer(fitted)
        # put each error map onto its slice of the scan
        progress("restore")
        heat_map = np.zeros(scan.shape, np.float32)
        heat_planes = slices.view(heat_map)
        scores: dict[int, float] = {}
        for number, each, (score, error_map) in zip(numbers, fitted, answers, strict=True):
            heat_planes[number] = resize(each.restore(error_map), planes.shape[1:])
            scores[slices.native_index(number)] = score
        return ScanAnomaly(
            score=_scan_score(
                np.stack([each.image for each in fitted]),
                np.stack([error_map for _, error_map in answers]),
                slices.thickness_mm,
            ),
            threshold=self.scan_threshold,
            slice_threshold=self.threshold,
            slices=dict(sorted(scores.items())),
            axis=slices.axis,
            heat_map=heat_map,
        )

    def _infer(self, fitted: Sequence[FittedSlice]) -> list[tuple[float, NDArray[np.float32]]]:
        """Return the score and the error map of each slice."""
        answers: list[tuple[float, NDArray[np.float32]]] = []
        for start in range(0, len(fitted), BATCH_SIZE):
            images = np.stack([each.image for each in fitted[start : start + BATCH_SIZE]])[:, None]
            outputs = self.backend.run(images)
            error_maps = np.asarray(outputs["error_map"], np.float32)
            scores = np.asarray(outputs["score"], np.float64)
            answers += [(float(s), m) for s, m in zip(scores, error_maps, strict=True)]
        return answers


def _brain_slices(planes: NDArray[np.float32], thickness_mm: float) -> range:
    """Return the numbers of the slices that show the brain, more or less, the lowest first."""
    dark, bright = (float(value) for value in np.percentile(planes, (DARK, BRIGHT)))
    areas = (planes > dark + AIR * (bright - dark)).sum(axis=(1, 2))
    if not areas.any():
        raise EmptyScan(
            expected="a head", found="no slice with a head", remedy="Send a scan of a head."
        )
    vertex = int(np.flatnonzero(areas >= VERTEX_AREA * areas.max())[-1])
    lowest = max(0, round(vertex - DEEPEST_MM / thickness_mm))
    areas = areas[lowest : vertex + 1]
    large = lowest + np.flatnonzero(areas >= SMALLEST_AREA * areas.max())
    return range(int(large[0]), int(large[-1]) + 1)


def _square_pixel_shape(shape: tuple[int, ...], pixel_mm: tuple[float, float]) -> tuple[int, int]:
    """Return rows and columns of the same area in square pixels of the shorter edge."""
    edge = min(pixel_mm)
    rows, columns = (max(1, round(n * mm / edge)) for n, mm in zip(shape, pixel_mm, strict=True))
    return rows, columns


def _scan_score(
    images: NDArray[np.float32], error_maps: NDArray[np.float32], thickness_mm: float
) -> float:
    """Return the highest mean of neighbouring slices' error maps over a block inside the head."""
    from scipy.ndimage import uniform_filter

    count = min(max(1, round(BLOCK_MM / thickness_mm)), len(error_maps))
    inside = np.stack([_head_without_rim(image) for image in images])
    size = (count, BLOCK_PIXELS, BLOCK_PIXELS)
    return float(uniform_filter(error_maps * inside, size, mode="constant").max())


def _head_without_rim(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return a mask of the pixels, and mirrored pixels, well inside the head; (128, 128)."""
    from scipy.ndimage import binary_erosion, binary_fill_holes

    head = binary_erosion(binary_fill_holes(image > TISSUE), iterations=RIM_PIXELS)
    return np.asarray(head & head[:, ::-1])
