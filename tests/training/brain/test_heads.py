"""Real heads on the finder's grid: made from scans, read back, changed at random."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import training.brain.heads
from neurobento.errors import ConfigError
from neurobento.imaging.geometry import FINDER_SHAPE, FINDER_VOXEL_MM
from training.brain.augmentation import change_head
from training.brain.heads import Head, main, read_heads

PHANTOM_ML = 4 / 3 * np.pi * 60 * 75 * 55 / 1000


@pytest.fixture
def scan(phantom: Any, write_nifti: Callable[..., Path]) -> Path:
    return write_nifti(phantom.image, phantom.affine, "sub-01.nii.gz")


@pytest.fixture
def head(scan: Path, tmp_path: Path) -> Head:
    assert main([str(scan), "-o", str(tmp_path / "heads"), "--stripped"]) == 0
    (found,) = read_heads(tmp_path / "heads", ["sub-*"])
    return found


def volume_ml(brain: Any) -> float:
    return float(brain.sum()) * FINDER_VOXEL_MM**3 / 1000


def test_a_stripped_scan_becomes_its_image_and_what_it_has_left(head: Head) -> None:
    assert head.name == "sub-01"
    for part in (head.image, head.brain):
        assert part.shape == FINDER_SHAPE
        assert part.dtype == torch.float32
        assert (part.min(), part.max()) == (0, 1)
    assert volume_ml(head.brain) == pytest.approx(PHANTOM_ML, rel=0.02)
    assert not head.image[head.brain == 0].any()


def test_the_mask_of_a_head_with_skull_is_the_teachers(
    scan: Path, phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the phantom, so that it is told from what is left."""
    mask = phantom.image > 0
    mask[: mask.shape[0] // 2] = False
    monkeypatch.setattr(training.brain.heads, "deepbet_mask", lambda scan: mask)
    assert main([str(scan), "-o", str(tmp_path / "heads")]) == 0
    (head,) = read_heads(tmp_path / "heads", ["sub-01"])
    expected = mask.sum() * abs(np.linalg.det(phantom.affine)) / 1000
    assert volume_ml(head.brain) == pytest.approx(expected, rel=0.02)


def test_a_head_that_is_there_is_not_made_again(
    head: Head, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.brain.heads, "read_scan", lambda path: pytest.fail("read"))
    assert main([str(scan), "-o", str(tmp_path / "heads"), "--stripped"]) == 0


def test_heads_are_chosen_by_patterns_and_none_is_refused(head: Head, tmp_path: Path) -> None:
    folder = tmp_path / "heads"
    assert [each.name for each in read_heads(folder, ["x", "sub-0[1-3]"])] == ["sub-01"]
    with pytest.raises(ConfigError, match="heads named ixi"):
        read_heads(folder, ["ixi*"])
    nib.save(nib.Nifti1Image(np.zeros((5, 5, 5)), np.eye(4)), folder / "sub-01_brain.nii.gz")
    with pytest.raises(ConfigError, match=r"found \(5, 5, 5\)"):
        read_heads(folder, ["sub-01"])


def test_a_change_is_a_function_of_the_generator_and_moves_both(head: Head) -> None:
    before = head.image.clone()
    for seed in range(3):
        image, brain = change_head(head, np.random.default_rng(seed))
        again = change_head(head, np.random.default_rng(seed))
        assert torch.equal(image, again[0])
        assert torch.equal(brain, again[1])
        assert image.shape == brain.shape == FINDER_SHAPE
        assert image.min() >= 0
        assert image.max() <= 1
        assert not torch.equal(brain, head.brain)
        # where there is brain there is signal
        assert image[brain > 0.9].mean() > 3 * image[brain == 0].mean()
    assert torch.equal(head.image, before)
