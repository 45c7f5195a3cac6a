"""Affines are stated as ANTs states them, to the last bit: bias correction depends on it."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from neurobento.preprocessing.ants_image import geometry, to_ants


@pytest.mark.parametrize("tilt", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("shear", [0.0, 1e-7])
def test_the_geometry_is_that_of_the_ants_image(tilt: float, shear: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        rotation = nib.eulerangles.euler2mat(*rng.normal(scale=tilt, size=3))
        sizes = rng.uniform(0.4, 5, 3) * rng.choice([-1, 1], 3)
        linear = rotation @ np.diag(sizes) + rng.normal(scale=shear, size=(3, 3))
        affine = nib.affines.from_matvec(linear, rng.normal(scale=100, size=3))
        image, stated = to_ants(np.zeros((1, 1, 1)), affine), geometry(affine)
        assert np.array_equal(image.origin, stated.origin)
        assert np.array_equal(image.spacing, stated.spacing)
        assert np.array_equal(image.direction, stated.direction)
