"""Run the nine steps of the package's docstring and time each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import NotABrain, NotOnNetworkGrid
from neurobento.imaging.geometry import NETWORK_SHAPE, Grid, axis_codes
from neurobento.imaging.scan import Scan
from neurobento.preprocessing.bias_correction import correct_bias
from neurobento.preprocessing.mode import Preprocessing, Progress, ignore_progress
from neurobento.preprocessing.skull_stripping import extract_brain

__all__ = ["PreparedScan", "preprocess"]

SKULL_STRIPPING_LIMIT_S = 600.0

STRIPPED_RANGE_ML = (250.0, 3000.0)
"""From less than a newborn's brain to a large brain in a loose mask; a head has over 4,000 ml."""


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan's image for the network, with what the way back to the scan's grid needs."""

    # `NETWORK_SHAPE`, in [0, 1], RAS, zero outside the brain.
    image: NDArray[np.float32]
    grid: Grid
    # Step name -> wall-clock seconds, in the order of the steps.
    seconds: dict[str, float]


def preprocess(
    scan: Scan,
    preprocessing: Preprocessing = "full",
    *,
    progress: Progress = ignore_progress,
    skull_stripping_limit_s: float = SKULL_STRIPPING_LIMIT_S,
) -> PreparedScan:
    """Return a T1-weighted scan on the network grid; `none` requires that it is there already."""
    clock = _Clock(progress)
    if preprocessing == "none":
        return _pass_through(scan, clock)
    array = scan.array
    if preprocessing == "full":
        with clock("skull_stripping"):
            brain = extract_brain(array, scan.voxel_to_ras, time_limit_s=skull_stripping_limit_s)
    else:
        brain = array > 0
        _require_stripped(brain, scan)
    with clock("bias_correction"):
        array = correct_bias(np.where(brain, array, 0), brain, scan.voxel_to_ras)
    image, network_voxel_to_ras = _monai_steps(array, scan.voxel_to_ras, clock)
    return PreparedScan(
        image, Grid(scan.shape, scan.voxel_to_ras, network_voxel_to_ras), clock.seconds
    )


class _Clock:
    """Times named steps and reports each as it begins."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        self._progress(step)
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def _monai_steps(
    array: NDArray[np.float32], voxel_to_ras: NDArray[np.float64], clock: _Clock
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Run steps 3 to 9 and return the network's image and its true affine."""
    import torch
    from monai.data.meta_tensor import MetaTensor
    from monai.transforms import (
        CropForeground,
        HistogramNormalize,
        Orientation,
        Resize,
        ScaleIntensity,
        Spacing,
    )

    from neurobento.preprocessing.origin import SetOriginToZeroWithANTs

    # Name the steps in order.
    steps: dict[str, Callable[[Any], Any]] = {
        "spacing": Spacing(pixdim=(1.0, 1.0, 1.0), mode="bilinear", padding_mode="border"),
        "orientation": Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        "histogram_normalize": HistogramNormalize(),
        "scale_intensity": ScaleIntensity(minv=0.0, maxv=1.0),
        "crop_foreground": CropForeground(),
        "set_origin_to_zero": SetOriginToZeroWithANTs(),
        "resize": Resize(spatial_size=NETWORK_SHAPE, mode="area"),
    }
    image: Any = MetaTensor(torch.from_numpy(array[None].copy()), affine=torch.tensor(voxel_to_ras))
    # Run them, and keep the affine of the crop: step 8 discards the true origin.
    cropped_voxel_to_ras, cropped_shape = voxel_to_ras, array.shape
    for name, step in steps.items():
        with clock(name):
            image = step(image)
        if name == "crop_foreground":
            cropped_voxel_to_ras = image.affine.numpy().astype(np.float64)
            cropped_shape = tuple(image.shape[1:])
    on_network = image.as_tensor()[0].numpy().astype(np.float32)
    return np.clip(on_network, 0, 1), _resized_affine(cropped_voxel_to_ras, cropped_shape)


def _resized_affine(
    voxel_to_ras: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the affine after step 9, which keeps the field of view: edges align, not centres."""
    factor = np.array(shape) / np.array(NETWORK_SHAPE)
    resize = np.diag([*factor, 1.0])
    resize[:3, 3] = (factor - 1) / 2
    return np.asarray(voxel_to_ras @ resize, dtype=np.float64)


def _require_stripped(brain: NDArray[np.bool_], scan: Scan) -> None:
    volume_ml = float(brain.sum() * abs(np.linalg.det(scan.voxel_to_ras[:3, :3]))) / 1000
    low, high = STRIPPED_RANGE_ML
    if not low <= volume_ml <= high:
        raise NotABrain(
            expected=f"a brain of {low:.0f} to {high:.0f} ml on a background of zero",
            found=f"{volume_ml:.0f} ml of positive voxels",
            remedy="Use the preprocessing `full` for a head with skull.",
        )


def _pass_through(scan: Scan, clock: _Clock) -> PreparedScan:
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
