"""Comparing with somebody else's results finds what differs and by how much."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import NETWORK_SHAPE
from training.studies.compare_reference import corner_distance_mm, main

AFFINE = np.diag([1.4, 1.3, 1.0, 1.0])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    image = rng.uniform(0.1, 1, NETWORK_SHAPE).astype(np.float32)
    labels = rng.integers(0, 4, NETWORK_SHAPE).astype(np.uint8)
    pairs, reference = tmp_path / "pairs", tmp_path / "reference"
    pairs.mkdir()
    reference.mkdir()
    nib.Nifti1Image(image, AFFINE).to_filename(pairs / "a_image.nii.gz")
    nib.Nifti1Image(labels, AFFINE).to_filename(pairs / "a_labels.nii.gz")
    np.savez(reference / "a.npz", image=2 * image, label=labels, affine=AFFINE)
    return pairs, reference


def test_a_scan_equals_itself_whatever_its_scale(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    output = tmp_path / "result.json"
    assert main([*map(str, folders), "-o", str(output)]) == 0
    assert json.loads(output.read_text())["scans"]["a"] == {
        "correlation": 1.0,
        "corner_distance_mm": 0.0,
        "label_dice": 1.0,
    }


def test_a_shifted_grid_is_as_far_as_its_shift_and_a_scaled_one_farthest_at_its_corner() -> None:
    moved = AFFINE.copy()
    moved[:3, 3] = (3, 0, -4)
    assert corner_distance_mm(AFFINE, moved) == pytest.approx(5)
    scaled = AFFINE.copy()
    scaled[0, 0] += 0.1
    assert corner_distance_mm(AFFINE, scaled) == pytest.approx(0.1 * (NETWORK_SHAPE[0] - 1))


def test_nothing_in_common_is_an_error(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (folders[0] / "a_image.nii.gz").rename(folders[0] / "b_image.nii.gz")
    with pytest.raises(ConfigError, match="found none"):
        main([*map(str, folders), "-o", str(tmp_path / "result.json")])
