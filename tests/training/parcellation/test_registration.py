"""The atlas, and where a registration's transforms put the blocks of an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ants
import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from neurobento.errors import ConfigError
from neurobento.preprocessing.ants_image import RAS_TO_LPS, to_ants
from training.parcellation.registration import _atlas_positions, find_atlas

SHAPE, BLOCKS = (15, 18, 17), (8, 9, 9)
AFFINE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(z=0.2, y=-0.1, x=0.3) @ np.diag([1.5, 1.25, 2.0]), [-12, -9, -14]
)
MATRIX = np.array([[1.05, 0.1, -0.05], [-0.08, 0.95, 0.1], [0.02, -0.12, 1.1]])
OFFSET_MM = np.array([4.0, -3.0, 2.5])
"""Maps the image's world to the atlas's, RAS in mm."""


@pytest.fixture
def transforms(tmp_path: Path) -> list[str]:
    """The map as ANTs keeps it."""
    affine = ants.new_ants_transform(dimension=3, transform_type="AffineTransform")
    linear, offset = RAS_TO_LPS @ MATRIX @ RAS_TO_LPS, RAS_TO_LPS @ OFFSET_MM
    affine.set_parameters(np.concatenate([linear.ravel(), offset]))
    path = tmp_path / "0GenericAffine.mat"
    ants.write_transform(affine, str(path))
    return [str(path)]


def block_centres_mm() -> NDArray[np.float64]:
    """(*BLOCKS, 3) in the image's world."""
    voxels = np.moveaxis(2.0 * np.indices(BLOCKS) + 0.5, 0, -1)
    return np.asarray(nib.affines.apply_affine(AFFINE, voxels))


def test_a_position_is_where_the_map_puts_the_blocks_centre(transforms: list[str]) -> None:
    """On an oblique grid with odd sides."""
    positions = _atlas_positions(SHAPE, AFFINE, transforms)
    assert (positions.shape, positions.dtype) == ((*BLOCKS, 3), np.float32)
    expected = block_centres_mm() @ MATRIX.T + OFFSET_MM
    np.testing.assert_allclose(positions, expected, atol=1e-3)


def test_positions_say_where_ants_looks_the_labels_up(transforms: list[str]) -> None:
    """An atlas whose value is its own world coordinate, brought onto the image by ANTs."""
    positions = _atlas_positions(SHAPE, AFFINE, transforms)
    atlas_affine = nib.affines.from_matvec(np.diag([2.0, 2.0, 2.0]), [-60, -60, -60])
    places = np.moveaxis(np.indices((61, 61, 61)), 0, -1)
    fixed = to_ants(np.zeros(SHAPE), AFFINE)
    for axis in range(3):
        value = nib.affines.apply_affine(atlas_affine, places)[..., axis]
        moving = to_ants(value, atlas_affine)
        moved = ants.apply_transforms(fixed, moving, transforms, interpolator="linear").numpy()
        even = moved[:14, :18, :16].reshape(7, 2, 9, 2, 8, 2).mean(axis=(1, 3, 5))
        np.testing.assert_allclose(positions[:7, :9, :8, axis], even, atol=1e-2)


def write_atlas(
    write_nifti: Callable[..., Path], shape: tuple[int, ...], affine: Any
) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    brain = random.uniform(0, 200, (16, 17, 18)).astype(np.float32)
    labels = random.integers(0, 117, shape).astype(np.uint8)
    write_nifti(brain, np.eye(4), "ch2bet.nii.gz")
    write_nifti(labels, affine, "aal.nii.gz")
    return brain, labels


def test_an_atlas_is_a_brain_and_labels(write_nifti: Callable[..., Path], tmp_path: Path) -> None:
    brain, labels = write_atlas(write_nifti, (16, 17, 18), np.eye(4))
    atlas = find_atlas(tmp_path)
    assert np.array_equal(atlas.brain, brain)
    assert np.array_equal(atlas.labels, labels)
    assert atlas.labels.dtype == np.uint8
    assert np.array_equal(atlas.voxel_to_ras, np.eye(4))


@pytest.mark.parametrize("missing", ["ch2bet.nii.gz", "aal.nii.gz"])
def test_an_atlas_without_one_of_its_files_is_refused(
    write_nifti: Callable[..., Path], tmp_path: Path, missing: str
) -> None:
    write_atlas(write_nifti, (16, 17, 18), np.eye(4))
    (tmp_path / missing).unlink()
    with pytest.raises(ConfigError, match=f"found no {missing}"):
        find_atlas(tmp_path)


@pytest.mark.parametrize(
    ("shape", "affine"), [((16, 17, 19), np.eye(4)), ((16, 17, 18), np.diag([1.0, 1.0, 2.0, 1.0]))]
)
def test_an_atlas_on_two_grids_is_refused(
    write_nifti: Callable[..., Path], tmp_path: Path, shape: tuple[int, ...], affine: Any
) -> None:
    write_atlas(write_nifti, shape, affine)
    with pytest.raises(ConfigError, match="found two grids"):
        find_atlas(tmp_path)
