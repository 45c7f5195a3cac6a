"""The command that packs a recipe's pairs into one file."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import training.parcellation.dataset
from neurobento.errors import ConfigError
from training.parcellation.dataset import find_split, open_pairs
from training.parcellation.pack import main
from training.parcellation.recipe import read_recipe

SHAPE, BLOCKS = (5, 6, 7), (3, 3, 4)
AFFINE = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.125]), [-60, -75, -45])
RECIPE = """
network = "unet"
[data]
train = ["a/s*"]
validation = ["v*"]
[data.test]
far = ["t*"]
[optimisation]
steps = 1
"""


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small pairs, one of which no recipe names."""
    monkeypatch.setattr(training.parcellation.dataset, "NETWORK_SHAPE", SHAPE)
    monkeypatch.setattr(training.parcellation.dataset, "POSITION_SHAPE", (*BLOCKS, 3))
    folder = tmp_path / "pairs"
    (folder / "a").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("a/s1", "a/s2", "v1", "t1", "other"):
        arrays = {
            "image": (random.integers(0, 256, SHAPE) / 255).astype(np.float32),
            "labels": random.integers(0, 117, SHAPE).astype(np.uint8),
            "positions": random.uniform(-90, 90, (*BLOCKS, 3)).astype(np.float32),
        }
        for kind, array in arrays.items():
            nib.save(nib.Nifti1Image(array, AFFINE), folder / f"{name}_{kind}.nii.gz")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_the_command_packs_what_training_needs(pairs: Path, recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "pairs.npz"
    assert main([str(recipe), "--pairs", str(pairs), "-o", str(output)]) == 0
    packed, folder = open_pairs(output), open_pairs(pairs)
    assert packed.names() == ["a/s1", "a/s2", "v1"]
    for name in packed.names():
        one, other = packed.load(name), folder.load(name)
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.labels, other.labels)
        assert np.array_equal(one.voxel_to_ras, other.voxel_to_ras)
        torch.testing.assert_close(one.positions, other.positions, atol=0.0251, rtol=0)


def test_the_test_scans_are_packed_where_asked_for(
    pairs: Path, recipe: Path, tmp_path: Path
) -> None:
    output = tmp_path / "pairs.npz"
    assert main([str(recipe), "--pairs", str(pairs), "-o", str(output), "--tests"]) == 0
    data = read_recipe(recipe).data
    splits = [
        find_split(open_pairs(path), data.train, data.validation, data.test)
        for path in (pairs, output)
    ]
    assert splits[0] == splits[1]
    assert splits[1].test == {"far": ("t1",)}


def test_test_scans_are_missed_only_where_asked_for(
    pairs: Path, recipe: Path, tmp_path: Path
) -> None:
    for path in pairs.glob("t1_*"):
        path.unlink()
    command = [str(recipe), "--pairs", str(pairs), "-o", str(tmp_path / "pairs.npz")]
    assert main(command) == 0
    with pytest.raises(ConfigError, match=r"match 't\*'; found none"):
        main([*command, "--tests"])
