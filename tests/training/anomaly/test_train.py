"""The command that trains on healthy slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import training.anomaly.train
from neurobento.networks import build
from neurobento.networks.weights import read_values
from tests.training.heads import draw_head, head_images, write_heads
from tests.training.tiny import PNG
from training.anomaly.figures import draw_examples
from training.anomaly.recipe import AnomalyRecipe
from training.anomaly.slices import read_slices
from training.anomaly.task import AnomalyTask
from training.anomaly.train import main
from training.loop.run import Run

pytestmark = pytest.mark.usefixtures("tiny_networks")


# --- the command ---


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Recipe, training and validation slices of every run that the command starts."""
    seen: list[Any] = []

    class Watched(AnomalyTask):
        def __init__(self, recipe: AnomalyRecipe, train: Any, validation: Any, *more: Any) -> None:
            seen.append((recipe, train, validation))
            super().__init__(recipe, train, validation, *more)

    monkeypatch.setattr(training.anomaly.train, "AnomalyTask", Watched)
    return seen


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Its arguments for a short run; one of ten healthy pictures is there twice."""
    folder = write_heads(tmp_path / "slices", 10, 3)
    Image.fromarray(draw_head(3)).resize((200, 220)).save(folder / "no" / "again.png")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'network = "vgg16_autoencoder"\nobjective = "reconstruction"\nepochs = 1\nseed = 3\n'
    )
    return [str(recipe), "--slices", str(folder), "-o", str(tmp_path / "run"), "--device", "cpu"]


def pictures(images: Any) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.usefixtures("drawn_curves")
def test_the_command_leaves_weights_log_and_figures(command: list[str], tmp_path: Path) -> None:
    assert main(command) == 0
    run = tmp_path / "run"
    names = {"best.pt", "last.pt", "log.csv", "curves.png", "examples.png"}
    assert {path.name for path in run.iterdir() if "tfevents" not in path.name} == names
    assert all((run / name).read_bytes().startswith(PNG) for name in names if "png" in name)


def test_the_command_trains_and_validates_with_healthy_pictures_alone(
    command: list[str], tmp_path: Path, started: list[Any]
) -> None:
    """A fifth of them validates; a picture that comes twice takes part once."""
    Image.fromarray(draw_head(9)).resize((200, 220)).save(tmp_path / "slices/yes/healthy.png")
    slices = read_slices(tmp_path / "slices")
    main(command)
    ((_, train, validation),) = started
    assert pictures(train) & pictures(validation) == set()
    names = dict(zip((image.tobytes() for image in slices.images), slices.names, strict=True))
    used = {names[each] for each in pictures(train) | pictures(validation)}
    once_healthy = {f"no/{i:02d}.png" for i in range(9)}
    assert used == once_healthy, "also without the one that is in both folders"
    assert (len(train), len(validation)) == (7, 2)


def test_the_command_takes_another_encoder_than_the_recipes(
    command: list[str], started: list[Any], encoder: Path, tmp_path: Path
) -> None:
    main([*command, "--encoder", str(encoder)])
    assert started[0][0].encoder == str(encoder)
    found = read_values(tmp_path / "run" / "best.pt")["average"]
    expected = torch.load(encoder)["features.0.weight"]
    assert torch.equal(found["features.0.weight"], expected)


def test_the_command_goes_on(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(command)
    first = (tmp_path / "run" / "log.csv").read_text()
    epochs = []
    real = Run.advance
    monkeypatch.setattr(Run, "advance", lambda run: epochs.append(1) or real(run))
    assert main([*command, "--resume"]) == 0
    assert epochs == [], "the run was finished"
    assert (tmp_path / "run" / "log.csv").read_text() == first
    with pytest.raises(FileNotFoundError):
        main([*command[:4], str(tmp_path / "other"), *command[5:], "--resume"])


@pytest.mark.parametrize("preset", ["anomaly_unet", "denoising_autoencoder", "vgg16_autoencoder"])
def test_examples_show_slices_what_the_network_makes_of_them_and_errors(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a network that gives logits its probabilities."""
    from matplotlib.axes import Axes

    shown: list[Any] = []
    real = Axes.imshow
    monkeypatch.setattr(Axes, "imshow", lambda axes, x, **k: shown.append(x) or real(axes, x, **k))
    network: Any = build(preset).eval()
    images = head_images(0, 1, 2)
    draw_examples(network, images, tmp_path / "examples.png")
    assert (tmp_path / "examples.png").read_bytes().startswith(PNG)
    assert {value.shape for value in shown} == {(128, 128)} and len(shown) == 9
    assert np.array_equal(shown[:3], images)
    with torch.inference_mode():
        batch = torch.from_numpy(images)[:, None]
        made = network(batch).reshape(3, 128, 128)
        errors = network.error_map(batch)
    made = made.sigmoid() if network.gives_logits else made
    np.testing.assert_allclose(shown[3:6], made.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(shown[6:], errors.numpy(), rtol=1e-5, atol=1e-6)
