"""The command that trains the brain finder, on files, with a tiny network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from neurobento.errors import ConfigError
from neurobento.networks.weights import load_network
from tests.training.brain.head_map import map_values
from tests.training.tiny import FINDER
from training.brain import augmentation, drawn_heads, heads
from training.brain.train import main

RECIPE = """
network = "brain_finder"
heads = ["head_*"]
stripped = ["brain_*"]
validation = ["kept_*"]
validation_maps = 1
steps = 2
validate_every = 1
"""

Train = Callable[..., int]


@pytest.fixture
def train(tmp_path: Path, tiny_networks: None, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Run the command on two maps and three heads of a coarse grid; takes further options."""
    for module in (drawn_heads, augmentation, heads):
        monkeypatch.setattr(module, "FINDER_SHAPE", FINDER)
    for module in (drawn_heads, augmentation):
        monkeypatch.setattr(module, "FINDER_VOXEL_MM", 8.1)
    recipe, maps, folder = tmp_path / "recipe.toml", tmp_path / "maps", tmp_path / "heads"
    recipe.write_text(RECIPE)
    maps.mkdir()
    folder.mkdir()
    for name in ("a", "b"):
        nib.save(nib.Nifti1Image(map_values(), np.eye(4)), maps / f"{name}.nii.gz")
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in FINDER], indexing="ij")
    ball = (np.sqrt(x**2 + y**2 + z**2) < 0.6).astype(np.uint8)
    for name in ("head_1", "brain_1", "kept_1"):
        for kind in ("image", "brain"):
            nib.save(nib.Nifti1Image(ball, np.eye(4)), folder / f"{name}_{kind}.nii.gz")

    def run(*options: str) -> int:
        paths = ["--maps", str(maps), "--heads", str(folder), "-o", str(tmp_path / "run")]
        return main([str(recipe), *paths, "--device", "cpu", *options])

    return run


def test_a_run_is_stopped_continued_and_started_from(train: Train, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train("--minutes", "0") == 0
    assert not (folder / "best.pt").exists()
    assert train("--resume") == 0
    assert (folder / "log.csv").read_text().count("\n") == 3
    network = load_network(folder / "best.pt")
    best = (folder / "best.pt").rename(tmp_path / "weights.pt")
    (folder / "last.pt").unlink()
    assert train("--start-from", str(best), "--minutes", "0") == 0
    assert network.shape == FINDER


def test_a_folder_with_a_run_is_not_overwritten(train: Train) -> None:
    with pytest.raises(ConfigError, match="a run to continue"):
        train("--resume")
    assert train("--minutes", "0") == 0
    with pytest.raises(ConfigError, match="a folder without a run"):
        train()
