"""Find the brain in a scan, and make the image that a network was trained with."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ConfigError, NotOnNetworkGrid
from neurobento.imaging.geometry import NETWORK_SHAPE, Grid, axis_codes
from neurobento.imaging.scan import Scan
from neurobento.preprocessing.brain import Brain, brain_of_stripped_scan, find_brain
from neurobento.preprocessing.clock import Clock
from neurobento.preprocessing.image_kind import refuse_labels, value_doubts
from neurobento.preprocessing.mode import Preprocessing, Progress, ignore_progress
from neurobento.preprocessing.network_image import network_image
from neurobento.preprocessing.signal import positive_signal
from neurobento.spec import REPORT_A_VERSION

__all__ = ["PreparedScan", "preprocess"]

SKULL_STRIPPING_LIMIT_S = 600.0
"""For ROBEX alone."""


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan's image for the network, with what the way back to the scan's grid needs."""

    # `NETWORK_SHAPE`, in [0, 1], RAS, zero outside the brain.
    image: NDArray[np.float32]
    grid: Grid
    # Step name -> wall-clock seconds, in the order of the steps.
    seconds: dict[str, float]
    # The mask, from preprocessing of version 2.
    brain: Brain | None = None


def preprocess(
    scan: Scan,
    preprocessing: Preprocessing = "full",
    *,
    version: int = REPORT_A_VERSION,
    progress: Progress = ignore_progress,
    skull_stripping_limit_s: float = SKULL_STRIPPING_LIMIT_S,
) -> PreparedScan:
    """Return a T1-weighted scan on the network grid; `none` requires that it is there already.

    `version` is the model's, a key of `SCAN_PREPROCESSING`.
    """
    clock = Clock(progress)
    if preprocessing == "none":
        return _pass_through(scan, clock)
    if version == REPORT_A_VERSION:
        from neurobento.preprocessing.report_a import run_report_a

        refuse_labels(scan.array)
        return run_report_a(scan, preprocessing, clock, skull_stripping_limit_s)
    if preprocessing == "report_a":
        raise ConfigError(
            subject="preprocessing",
            expected="report_a with a model that was trained on it, such as compact",
            found="a model that was trained on other images",
            remedy="Choose such a model, or the preprocessing `full`.",
        )
    with clock("scale"):
        refuse_labels(scan.array)
        signal = positive_signal(scan.array)
    with clock("find_brain"):
        find = find_brain if preprocessing == "full" else brain_of_stripped_scan
        brain = find(signal, scan.voxel_to_ras)
        if doubts := value_doubts(scan.array):
            brain = replace(brain, doubts=(*doubts, *brain.doubts))
    with clock("resample"):
        image, network_voxel_to_ras = network_image(signal, scan.voxel_to_ras, brain)
    grid = Grid(scan.shape, scan.voxel_to_ras, network_voxel_to_ras)
    return PreparedScan(image, grid, clock.seconds, brain)


def _pass_through(scan: Scan, clock: Clock) -> PreparedScan:
    """Return an image that an earlier run has put on the network grid."""
    with clock("check"):
        low, high = float(scan.array.min()), float(scan.array.max())
        codes = axis_codes(scan.voxel_to_ras)
        # A float image that was stored with fewer bits may exceed 1 a little.
        in_range = low >= 0 and high <= 1.001
        if scan.shape != NETWORK_SHAPE or codes != "RAS" or not in_range:
            shape = " x ".join(str(n) for n in scan.shape)
            inside = "inside" if in_range else "outside"
            raise NotOnNetworkGrid(
                expected=" x ".join(str(n) for n in NETWORK_SHAPE) + " voxels, RAS, in [0, 1]",
                found=f"{shape} voxels, {codes}, values {inside} [0, 1]",
                remedy="Use the preprocessing `full`, or `stripped` for a scan without skull.",
            )
    grid = Grid(scan.shape, scan.voxel_to_ras, scan.voxel_to_ras)
    return PreparedScan(np.clip(scan.array, 0, 1), grid, clock.seconds)
