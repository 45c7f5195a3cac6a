"""Recipes of networks for anomalies: those of the repository read, wrong ones are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import training.anomaly.recipe
from neurobento.errors import ConfigError
from neurobento.networks import ANOMALY_PRESETS
from training.anomaly.recipe import AnomalyRecipe, read_anomaly_recipe

CONFIGS = Path(training.anomaly.recipe.__file__).parents[1] / "configs"

TOML = """
network = "anomaly_unet"
objective = "synthetic"
epochs = 7
learning_rate = 1
augment = false
"""


def test_there_is_a_recipe_for_each_network() -> None:
    names = ("report_autoencoder", "anomaly_unet", "denoising_autoencoder", "mirror")
    recipes = [read_anomaly_recipe(CONFIGS / f"{name}.toml") for name in names]
    assert {recipe.network for recipe in recipes} == {*ANOMALY_PRESETS}
    assert {r.objective for r in recipes} == {"reconstruction", "synthetic", "denoising", "none"}


def test_the_reports_recipe_says_what_the_report_chose() -> None:
    recipe = read_anomaly_recipe(CONFIGS / "report_autoencoder.toml")
    assert (recipe.network, recipe.encoder) == ("vgg16_autoencoder", "imagenet")
    assert (recipe.objective, recipe.epochs) == ("reconstruction", 100)
    assert (recipe.augment, recipe.weight_decay, recipe.repeats) == (False, 0, 1)


def test_a_recipe_says_what_its_file_says(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML)
    expected = AnomalyRecipe(
        "anomaly_unet", "synthetic", epochs=7, learning_rate=1.0, augment=False
    )
    assert read_anomaly_recipe(path) == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('network = "anomaly_unet"\n', ""),
        ("epochs = 7", "epoch = 7"),
        ("epochs = 7", "epochs = 7.5"),
        ('"synthetic"', '"supervised"'),
        ("augment = false", "augment = 0"),
        ("learning_rate = 1", 'learning_rate = "fast"'),
        ("epochs = 7", "epochs = "),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML.replace(old, new))
    with pytest.raises(ConfigError, match="a recipe with network and objective") as caught:
        read_anomaly_recipe(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("key", ["epochs", "repeats", "batch_size", "cut_after", "stop_after"])
def test_a_run_without_an_epoch_or_a_slice_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} of at least 1; found 0"):
        dataclasses.replace(AnomalyRecipe("anomaly_unet", "synthetic"), **{key: 0})
