"""The whole path of a scan: prepare, infer, restore, measure."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurobento.backends.base import Backend
from neurobento.imaging.atlas import Atlas
from neurobento.imaging.geometry import Grid
from neurobento.imaging.native_space import NativeSpace, geometry_warnings
from neurobento.imaging.scan import Scan
from neurobento.parcellation.answer import Answer
from neurobento.parcellation.volumetry import RegionVolume, brain_warnings, measure
from neurobento.preprocessing.brain import Brain
from neurobento.preprocessing.mode import Preprocessing, Progress, ignore_progress

__all__ = ["Parcellation", "Parcellator", "PreparedScan", "prepare", "restore_and_measure"]


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan on the network grid, and what is needed to go back to its own grid."""

    image: NDArray[np.float32]  # (91, 122, 123), in [0, 1]
    grid: Grid  # maps labels between the two grids
    space: NativeSpace  # the scan's own grid, as its file states it
    preprocessing: Preprocessing
    seconds: dict[str, float]  # stage -> wall clock
    brain: Brain | None = None  # the mask, from preprocessing of version 2


@dataclass(frozen=True, eq=False)
class Parcellation:
    """The labelled regions of one scan."""

    labels: NDArray[np.uint8]  # class indices on the scan's own grid
    answer: Answer  # the network's, from which labels on any grid can be made
    prepared: PreparedScan
    volumes: tuple[RegionVolume, ...]  # of all 116 regions
    warnings: list[str]  # sentences about a contradictory header, an implausible mask or volumes
    seconds: dict[str, float]  # stage -> wall clock

    @functools.cached_property
    def network_labels(self) -> NDArray[np.uint8]:
        """Class indices on the network grid, (91, 122, 123)."""
        grid = self.prepared.grid
        return self.answer.labels_on(grid.network_voxel_to_ras, grid.network_shape)


class Parcellator:
    """Parcellates scans with the model of a backend; `neurobento.open_backend` opens one."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def parcellate(
        self,
        scan: Scan,
        preprocessing: Preprocessing = "full",
        *,
        progress: Progress = ignore_progress,
    ) -> Parcellation:
        """Return the regions of a T1-weighted scan on the scan's own grid.

        `progress` is called with each stage's name. Raise PreprocessingError or NotOnNetworkGrid.
        """
        version = self.backend.spec.preprocessing_version
        prepared = prepare(scan, preprocessing, version, progress=progress)
        progress("infer")
        start = time.perf_counter()
        answer = self.backend.answer(prepared.image[None, None])[0]
        seconds = {"infer": time.perf_counter() - start}
        atlas = self.backend.atlas
        return restore_and_measure(prepared, answer, seconds, atlas=atlas, progress=progress)


def prepare(
    scan: Scan,
    preprocessing: Preprocessing,
    version: int,
    *,
    progress: Progress = ignore_progress,
) -> PreparedScan:
    """Return the scan on the network grid, as models of a preprocessing version want it.

    See `neurobento.preprocessing.preprocess`.
    """
    from neurobento.preprocessing import preprocess

    result = preprocess(scan, preprocessing, version=version, progress=progress)
    return PreparedScan(
        result.image, result.grid, scan.space, preprocessing, result.seconds, result.brain
    )


def restore_and_measure(
    prepared: PreparedScan,
    values: NDArray[np.generic],
    seconds: dict[str, float],
    *,
    atlas: Atlas | None = None,
    progress: Progress = ignore_progress,
) -> Parcellation:
    """Return the labels on the scan's own grid, with volumes and the seconds of all stages.

    `values` are a network's answer for the scan, `atlas` the one that its positions refer to.
    """
    progress("restore")
    start = time.perf_counter()
    answer = Answer(values, prepared.grid.network_voxel_to_ras, atlas, prepared.brain)
    labels = answer.labels_on(prepared.space.voxel_to_ras, prepared.space.shape)
    restored = time.perf_counter()
    progress("measure")
    volumes = measure(labels, prepared.space.voxel_to_ras)
    measured = time.perf_counter()
    return Parcellation(
        labels=labels,
        answer=answer,
        prepared=prepared,
        volumes=volumes,
        warnings=[
            *(prepared.brain.doubts if prepared.brain else ()),
            *geometry_warnings(prepared.space),
            *_mask_warnings(prepared),
            *brain_warnings(volumes),
        ],
        seconds={
            **prepared.seconds,
            **seconds,
            "restore": restored - start,
            "measure": measured - restored,
        },
    )


def _mask_warnings(prepared: PreparedScan) -> list[str]:
    """Return a sentence if the brain finder did not recognise the brain of a stripped scan."""
    brain = prepared.brain
    if brain is None or prepared.preprocessing != "stripped" or brain.finder_sha256:
        return []
    return [
        "the brain finder did not recognise most of what the scan shows as brain, so all of it was "
        "taken: check that this is a T1-weighted brain without skull, and look at the overlay"
    ]
