"""Step 8: the origin moves, nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from neurobento.preprocessing.origin import SetOriginToZeroWithANTs


def meta_tensor(phantom: Any) -> MetaTensor:
    return MetaTensor(torch.from_numpy(phantom.image[None].copy()), affine=phantom.affine.copy())


@pytest.mark.parametrize(("codes", "tilt_rad"), [("RAS", 0.0), ("LPS", 0.0), ("RAS", 0.3)])
def test_the_first_voxel_is_the_origin_and_all_else_stays(
    codes: str, tilt_rad: float, phantom_on: Callable[..., Any]
) -> None:
    """Twice is once, and the caller's image is not modified."""
    phantom = phantom_on(codes, tilt_rad=tilt_rad)
    image, step = meta_tensor(phantom), SetOriginToZeroWithANTs()
    moved = step(image)
    assert np.array_equal(moved.affine[:3, 3], np.zeros(3))
    assert np.array_equal(moved.affine[:3, :3], phantom.affine[:3, :3])
    assert np.array_equal(moved.affine[3], [0, 0, 0, 1])
    assert np.array_equal(moved.as_tensor()[0].numpy(), phantom.image)
    assert np.array_equal(step(moved).affine, moved.affine)
    moved += 1
    assert np.array_equal(image.affine, phantom.affine)
    assert np.array_equal(image.as_tensor()[0].numpy(), phantom.image)
