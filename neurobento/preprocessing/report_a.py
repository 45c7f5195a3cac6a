"""Report A's nine steps, which `compact`, `atlas_map`, `unet` and `highresnet` were trained with.

1 skull stripping (ROBEX), 2 bias correction (N4), 3 Spacing to 1 mm, 4 Orientation RAS, 5
HistogramNormalize, 6 ScaleIntensity to [0, 1], 7 CropForeground, 8 SetOriginToZeroWithANTs, 9
Resize to (91, 122, 123).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import NotABrain
from neurobento.imaging.geometry import NETWORK_SHAPE, Grid
from neurobento.imaging.scan import Scan
from neurobento.preprocessing.bias_correction import correct_bias
from neurobento.preprocessing.brain import BRAIN_RANGE_ML
from neurobento.preprocessing.clock import Clock
from neurobento.preprocessing.mode import Preprocessing

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
    image, network_voxel_to_ras = _monai_steps(array, scan.voxel_to_ras, clock)
    grid = Grid(scan.shape, scan.voxel_to_ras, network_voxel_to_ras)
    return PreparedScan(image, grid, clock.seconds)


def _monai_steps(
    array: NDArray[np.float32], voxel_to_ras: NDArray[np.float64], clock: Clock
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
    low, high = BRAIN_RANGE_ML
    if not low <= volume_ml <= high:
        raise NotABrain(
            expected=f"a brain of {low:.0f} to {high:.0f} ml on a background of zero",
            found=f"{volume_ml:.0f} ml of positive voxels",
            remedy="Use the preprocessing `full` for a head with skull.",
        )
