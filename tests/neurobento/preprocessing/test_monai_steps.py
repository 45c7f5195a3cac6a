"""Steps 3 to 9 of report A give MONAI's images and affines, without MONAI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import NotABrain
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.preprocessing.clock import Clock
from neurobento.preprocessing.mode import ignore_progress
from neurobento.preprocessing.monai_steps import run_monai_steps

SHEAR = np.array([[1, 0.1, 0], [0, 1, 0], [0, 0, 1]])
GRIDS: dict[str, dict[str, Any]] = {
    "RAS": {"codes": "RAS"},
    "LAS": {"codes": "LAS"},
    "LIA": {"codes": "LIA", "sizes_mm": (2.5, 4.0, 3.0)},
    "thick": {"codes": "PSR", "sizes_mm": (3.0, 5.0, 4.0)},
    "fine": {"codes": "RAS", "sizes_mm": (2.0, 2.0, 0.7), "shape": (70, 84, 190)},
    "1 mm": {"codes": "LPS", "sizes_mm": (1.0, 1.0, 1.0), "shape": (130, 160, 120)},
    "nearly 1 mm": {"codes": "RAS", "sizes_mm": (1.0005, 1.0, 3.0), "shape": (130, 160, 40)},
    "not quite 1 mm": {"codes": "RAS", "sizes_mm": (1.002, 0.998, 3.0), "shape": (130, 160, 40)},
    "oblique": {"codes": "LPS", "tilt_rad": 0.25},
    "very oblique": {"codes": "RAS", "sizes_mm": (3.0, 3.0, 4.5), "tilt_rad": 0.7},
}


def monais(array: Any, voxel_to_ras: Any) -> tuple[Any, Any, tuple[int, ...]]:
    """Return MONAI's image, the affine of its crop, and the shape of its crop."""
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

    image: Any = MetaTensor(torch.from_numpy(array[None].copy()), affine=torch.tensor(voxel_to_ras))
    for step in (
        Spacing(pixdim=(1.0, 1.0, 1.0), mode="bilinear", padding_mode="border"),
        Orientation(axcodes="RAS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
        HistogramNormalize(),
        ScaleIntensity(minv=0.0, maxv=1.0),
        CropForeground(),
    ):
        image = step(image)
    affine, shape = image.affine.numpy().astype(np.float64), tuple(image.shape[1:])
    resized = Resize(spatial_size=NETWORK_SHAPE, mode="area")(image)
    return np.clip(resized.as_tensor()[0].numpy(), 0, 1), affine, shape


def ours(array: Any, voxel_to_ras: Any) -> tuple[Any, Any]:
    return run_monai_steps(array, voxel_to_ras, Clock(ignore_progress))


def assert_like_monai(array: Any, voxel_to_ras: Any) -> None:
    image, affine = ours(array, voxel_to_ras)
    their_image, their_affine, their_shape = monais(array, voxel_to_ras)
    assert image.dtype == np.float32
    assert np.abs(image - their_image).max() < 2e-6
    # the edges of the field of view are those of MONAI's crop
    edges = np.array([[-0.5] * 3, np.array(NETWORK_SHAPE) - 0.5])
    their_edges = np.array([[-0.5] * 3, np.array(their_shape) - 0.5])
    np.testing.assert_allclose(
        nib.affines.apply_affine(affine, edges),
        nib.affines.apply_affine(their_affine, their_edges),
        rtol=0,
        atol=1e-9,
    )


def textured(phantom: Any) -> Any:
    """The phantom with noise, so that every voxel's place in the histogram counts."""
    noise = np.random.default_rng(0).normal(1, 0.1, phantom.shape)
    return (phantom.image * noise).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS)
def test_image_and_affine_are_monais(grid: str, phantom_on: Callable[..., Any]) -> None:
    phantom = phantom_on(**GRIDS[grid])
    assert_like_monai(textured(phantom), phantom.affine)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sheared_grid_loses_its_shear_as_with_monai(
    sign: int, phantom_on: Callable[..., Any]
) -> None:
    phantom = phantom_on("RAS", sizes_mm=(4.0, 3.0, 5.0), tilt_rad=0.2)
    affine = phantom.affine.copy()
    affine[:3, :3] = affine[:3, :3] @ (SHEAR if sign > 0 else np.linalg.inv(SHEAR))
    assert_like_monai(textured(phantom), affine)


def test_values_below_zero_and_a_brain_of_one_value_are_as_with_monai(
    phantom_on: Callable[..., Any],
) -> None:
    phantom = phantom_on("RAS")
    array = textured(phantom)
    assert_like_monai(array - np.float32(5), phantom.affine)
    assert_like_monai((array > 0).astype(np.float32), phantom.affine)


def test_a_scan_of_one_value_is_no_brain() -> None:
    with pytest.raises(NotABrain, match="found one value in all voxels"):
        ours(np.full((40, 50, 40), 7, np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))
