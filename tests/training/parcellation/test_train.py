"""The command that trains."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from neurobento.errors import ConfigError
from neurobento.imaging.geometry import NETWORK_SHAPE
from tests.training.tiny import labels_of
from training.loop.checkpoint import read_checkpoint
from training.parcellation.dataset import Pair, write_pack
from training.parcellation.train import main

RECIPE = (
    'network = "unet"\n[data]\ntrain = ["s*"]\nvalidation = ["v*"]\n[data.test]\nx = ["t*"]\n'
    '[optimisation]\nsteps = 2\nprecision = "fp32"\n'
)


pytestmark = pytest.mark.usefixtures("tiny_networks")

Command = Callable[..., int]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    """Runs the command on a pack of small pairs; the run's folder is `tmp_path / "run"`."""
    labels = torch.from_numpy(labels_of((9, 10, 11), width=4))
    pair = Pair("", (labels * 60)[None], labels, np.eye(4), torch.zeros(3, 5, 5, 6))
    write_pack(tmp_path / "pairs.npz", [replace(pair, name=name) for name in ("s1", "s2", "v1")])
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def start(*options: str, folder: str = "run") -> int:
        files = [str(tmp_path / name) for name in ("recipe.toml", "pairs.npz", folder)]
        return main([files[0], "--pairs", files[1], "-o", files[2], "--device", "cpu", *options])

    return start


def test_the_command_trains_then_resumes_on_the_network_grid(tmp_path: Path) -> None:
    arrays = {
        "labels": labels_of(NETWORK_SHAPE, width=4),
        "image": labels_of(NETWORK_SHAPE, width=4).astype(np.float32) / 4,
        "positions": np.zeros((46, 61, 62, 3), np.float32),
    }
    for name in ("s1", "v1"):
        for kind, array in arrays.items():
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / f"{name}_{kind}.nii.gz")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.replace("steps = 2", "steps = 1"))
    run = tmp_path / "run"
    command = [str(recipe), "--pairs", str(tmp_path), "-o", str(run), "--device", "cpu"]
    assert main(command) == 0
    once = read_checkpoint(run / "last.pt")
    assert once.step == 1
    assert main([*command, "--resume"]) == 0
    again = read_checkpoint(run / "last.pt")
    assert (again.step, again.history) == (1, once.history)


def test_a_run_out_of_time_goes_on_later(command: Command, tmp_path: Path) -> None:
    assert command("--minutes", "0") == 0
    assert read_checkpoint(tmp_path / "run" / "last.pt").step == 0
    assert command("--minutes", "60", "--resume") == 0
    assert read_checkpoint(tmp_path / "run" / "last.pt").step == 2


def test_the_command_takes_a_pack_for_a_folder_and_says_how_it_went(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert command() == 0
    assert read_checkpoint(tmp_path / "run" / "last.pt").step == 2
    best = read_checkpoint(tmp_path / "run" / "best.pt")
    assert caplog.messages == [
        "2 training scans, 1 for validation; fp32",
        f"best validation Dice {best.best:.4f} at step {best.best_step}",
    ]


def test_a_run_begins_in_a_folder_without_one_and_goes_on_in_one_with(
    command: Command, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"a run to continue; found no last\.pt"):
        command("--resume")
    assert not (tmp_path / "run").exists()
    command()
    before = (tmp_path / "run" / "last.pt").read_bytes()
    with pytest.raises(ConfigError, match=r"a folder without a run in it; found last\.pt"):
        command()
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_a_new_run_may_start_from_a_checkpoint(command: Command, tmp_path: Path) -> None:
    command()
    start = tmp_path / "run" / "best.pt"
    assert command("--start-from", str(start), "--minutes", "0", folder="new") == 0
    new = read_checkpoint(tmp_path / "new" / "last.pt")
    expected = read_checkpoint(start).average
    assert new.step == 0
    assert all(torch.equal(new.network[name], expected[name]) for name in expected)


def test_a_run_either_goes_on_or_starts_from_another(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        command("--resume", "--start-from", "best.pt")
    assert caught.value.code == 2
    assert "not allowed with" in capsys.readouterr().err


def test_a_patch_becomes_part_of_the_recipe(command: Command, tmp_path: Path) -> None:
    assert command("--patch", "8", "9", "6", "--minutes", "0") == 0
    recipe = read_checkpoint(tmp_path / "run" / "last.pt").recipe
    assert recipe["optimisation"]["patch"] == (8, 9, 6)
    with pytest.raises(ConfigError, match="a checkpoint of this recipe"):
        command("--resume")


@pytest.mark.parametrize("side", ["0", "-4"])
def test_a_patch_of_nothing_is_refused(command: Command, side: str) -> None:
    with pytest.raises(ConfigError, match="a patch of three sides"):
        command("--patch", "8", side, "8")


@pytest.fixture
def map_recipe(command: Command, tmp_path: Path) -> None:
    """In place of the command's own."""
    assert command
    text = RECIPE.replace("unet", "atlas_map").replace("steps = 2", 'steps = 2\nloss = "positions"')
    (tmp_path / "recipe.toml").write_text(text)


@pytest.mark.usefixtures("map_recipe")
def test_the_map_network_needs_an_atlas_and_weights_to_see_regions_by(
    command: Command, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="the atlas files") as caught:
        command("--atlas", str(tmp_path / "nowhere"), "--start-from", "weights.pt")
    assert caught.value.subject == str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"weights of compact.*found none.*--start-from") as error:
        command()
    assert error.value.subject == "atlas_map"
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("map_recipe")
def test_a_run_of_the_map_network_goes_on_without_them(command: Command, tmp_path: Path) -> None:
    """Its own checkpoint has them; that far it comes, and no atlas is where it looks."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(ConfigError, match="the atlas files"):
        command("--atlas", str(tmp_path / "nowhere"), "--resume")


def test_pairs_have_to_be_there(command: Command, tmp_path: Path) -> None:
    (tmp_path / "pairs.npz").unlink()
    with pytest.raises(ConfigError, match="found nothing"):
        command()
