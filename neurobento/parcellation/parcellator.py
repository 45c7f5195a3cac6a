"""The whole path of a scan: prepare -> infer -> restore -> measure."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.backends.base import Backend
from neurobento.imaging.geometry import Grid
from neurobento.imaging.scan import NativeSpace, Scan
from neurobento.parcellation.volumetry import RegionVolume, brain_warnings, measure
from neurobento.preprocessing.mode import Preprocessing, Progress, ignore_progress

__all__ = ["Parcellation", "Parcellator", "PreparedScan", "prepare", "restore_and_measure"]


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan ready for the network, with all that is needed once the labels are there.

    Attributes
    ----------
    image
        (91, 122, 123) float32 in [0, 1].
    grid
        The way back to the native grid.
    space
        The native grid as the file states it.
    level
        The preprocessing that was done.
    seconds
        Stage -> wall-clock seconds so far.
    """

    image: NDArray[np.float32]
    grid: Grid
    space: NativeSpace
    preprocessing: Preprocessing
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Parcellation:
    """The regions of one scan.

    Attributes
    ----------
    labels
        uint8, class indices on the scan's own grid.
    network_labels
        (91, 122, 123) uint8, as the network gave them.
    prepared
        What the network saw.
    volumes
        Of all 116 regions.
    warnings
        What does not look like a brain.
    seconds
        Stage -> wall-clock seconds.
    """

    labels: NDArray[np.uint8]
    network_labels: NDArray[np.uint8]
    prepared: PreparedScan
    volumes: tuple[RegionVolume, ...]
    warnings: list[str]
    seconds: dict[str, float]


class Parcellator:
    """Parcellates scans with one model.

    Parameters
    ----------
    backend
        Runs the model; `neurobento.backends.open_backend` opens one.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def parcellate(
        self,
        scan: Scan,
        preprocessing: Preprocessing = "full",
        *,
        progress: Progress = ignore_progress,
    ) -> Parcellation:
        """The parcellation of a scan in the scan's own space.

        Parameters
        ----------
        scan
            A T1-weighted scan; `neurobento.imaging.scan.read_scan` reads one.
        level
            `full` with skull, `stripped` without, `none` on the network grid.
        progress
            Told each stage as it begins.

        Raises
        ------
        PreprocessingError, NotOnNetworkGrid
            The scan cannot be brought onto the network grid.
        """
        prepared = prepare(scan, preprocessing, progress=progress)
        progress("infer")
        start = time.perf_counter()
        network_labels = self.backend.infer(prepared.image[None, None])[0]
        seconds = {"infer": time.perf_counter() - start}
        return restore_and_measure(prepared, network_labels, seconds, progress=progress)


def prepare(
    scan: Scan, preprocessing: Preprocessing, *, progress: Progress = ignore_progress
) -> PreparedScan:
    """The scan on the network grid; see `neurobento.preprocessing.preprocess`."""
    from neurobento.preprocessing import preprocess

    done = preprocess(scan, preprocessing, progress=progress)
    return PreparedScan(done.image, done.grid, scan.space, preprocessing, done.seconds)


def restore_and_measure(
    prepared: PreparedScan,
    network_labels: NDArray[np.uint8],
    seconds: dict[str, float],
    *,
    progress: Progress = ignore_progress,
) -> Parcellation:
    """The network's labels on the native grid, and their volumes.

    Parameters
    ----------
    prepared
        What the network saw.
    network_labels
        (91, 122, 123) uint8.
    seconds
        Of the stages between `prepare` and this one.
    progress
        Told each stage as it begins.
    """
    progress("restore")
    start = time.perf_counter()
    labels = prepared.grid.restore(network_labels)
    restored = time.perf_counter()
    progress("measure")
    volumes = measure(labels, prepared.space.voxel_to_ras)
    measured = time.perf_counter()
    return Parcellation(
        labels=labels,
        network_labels=network_labels,
        prepared=prepared,
        volumes=volumes,
        warnings=brain_warnings(volumes),
        seconds={
            **prepared.seconds,
            **seconds,
            "restore": restored - start,
            "measure": measured - restored,
        },
    )
