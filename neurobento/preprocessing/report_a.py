"""Report A's nine steps, which `compact`, `atlas_map`, `unet` and `highresnet` were trained with.

1 skull stripping (ROBEX), 2 bias correction (N4), 3 Spacing to 1 mm, 4 Orientation RAS, 5
HistogramNormalize, 6 ScaleIntensity to [0, 1], 7 CropForeground, 8 SetOriginToZeroWithANTs, 9
Resize to (91, 122, 123). All but the first run in NumPy and SciPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import NotABrain
from neurobento.imaging.geometry import Grid
from neurobento.imaging.scan import Scan
from neurobento.preprocessing.bias_correction import correct_bias
from neurobento.preprocessing.brain import BRAIN_RANGE_ML
from neurobento.preprocessing.clock import Clock
from neurobento.preprocessing.mode import Preprocessing
from neurobento.preprocessing.monai_steps import run_monai_steps

if TYPE_CHECKING:
    from neurobento.preprocessing.pipeline import PreparedScan

__all__ = ["run_report_a"]


def run_report_a(
    scan: Scan, preprocessing: Preprocessing, clock: Clock, skull_stripping_limit_s: float
) -> PreparedScan:
    """Return a scan after report A's steps, the first one only if it has its skull."""
    from neurobento.preprocessing.pipeline import PreparedScan

    array = scan.array
    if preprocessing == "stripped":
        brain = array > 0
        _require_stripped(brain, scan)
    else:
        from neurobento.preprocessing.skull_stripping import extract_brain

        with clock("skull_stripping"):
            brain = extract_brain(array, scan.voxel_to_ras, time_limit_s=skull_stripping_limit_s)
    with clock("bias_correction"):
        array = correct_bias(np.where(brain, array, 0), brain, scan.voxel_to_ras)
    image, network_voxel_to_ras = run_monai_steps(array, scan.voxel_to_ras, clock)
    grid = Grid(scan.shape, scan.voxel_to_ras, network_voxel_to_ras)
    return PreparedScan(image, grid, clock.seconds)


def _require_stripped(brain: NDArray[np.bool_], scan: Scan) -> None:
    volume_ml = float(brain.sum() * abs(np.linalg.det(scan.voxel_to_ras[:3, :3]))) / 1000
    low, high = BRAIN_RANGE_ML
    if not low <= volume_ml <= high:
        raise NotABrain(
            expected=f"a brain of {low:.0f} to {high:.0f} ml on a background of zero",
            found=f"{volume_ml:.0f} ml of positive voxels",
            remedy="Use the preprocessing `full` for a head with skull.",
        )
