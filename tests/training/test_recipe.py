"""Recipes: those of the repository read, and wrong ones are refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import training.recipe
from neurobento.errors import ConfigError
from neurobento.networks import PRESETS
from training.recipe import Data, Optimisation, Recipe, read_recipe

CONFIGS = sorted((Path(training.recipe.__file__).parent / "configs").glob("*.toml"))

GOOD = """
network = "compact"
[data]
train = ["a/*", "b/s1"]
validation = ["b/s2"]
[data.test]
far = ["c/*"]
[optimisation]
steps = 7
learning_rate = 1e-3
[augmentation]
gamma = 0.5
displacement = [0.2, 0.1]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    return path


def test_there_are_recipes() -> None:
    assert "compact" in {path.stem for path in CONFIGS}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_each_recipe_of_the_repository_reads(config: Path) -> None:
    recipe = read_recipe(config)
    assert recipe.network in PRESETS
    assert recipe.data.train and recipe.data.validation and recipe.data.test
    assert recipe.optimisation.warmup_steps < recipe.optimisation.steps
    assert recipe == read_recipe(config)


def test_a_recipe_says_what_its_file_says(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.network == "compact"
    assert recipe.data == Data(("a/*", "b/s1"), ("b/s2",), {"far": ("c/*",)})
    assert recipe.optimisation == Optimisation(steps=7, learning_rate=1e-3)
    assert (recipe.augmentation.gamma, recipe.augmentation.displacement) == (0.5, (0.2, 0.1))


def test_what_a_file_leaves_out_is_the_default(path: Path) -> None:
    path.write_text(GOOD.split("[augmentation]")[0])
    assert (
        read_recipe(path).augmentation == Recipe("unet", Data((), ()), Optimisation(1)).augmentation
    )
    assert read_recipe(path).optimisation.batch_size == 1


def plain(value: Any) -> bool:
    """Whether a value is made of what a weights-only checkpoint may hold."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, tuple | list):
        return all(plain(v) for v in value)
    return type(value) in (str, int, float)


def test_as_dict_is_plain_and_complete(path: Path) -> None:
    values = read_recipe(path).as_dict()
    assert plain(values)
    assert set(values) == {f.name for f in dataclasses.fields(Recipe)}
    assert values["data"]["test"] == {"far": ("c/*",)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('network = "compact"', 'network = "compact"\ncolour = "blue"'),
        ("steps = 7", "steps = 7\nstep = 8"),
        ("gamma = 0.5", "gama = 0.5"),
        ('validation = ["b/s2"]', 'validation = ["b/s2"]\nvalidate = ["b/s3"]'),
        ('network = "compact"\n', ""),
        ("steps = 7\n", ""),
        ('train = ["a/*", "b/s1"]\n', ""),
        ("[optimisation]", "[optimization]"),
    ],
)
def test_an_unknown_or_missing_key_is_refused(path: Path, old: str, new: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match="a recipe: network") as caught:
        read_recipe(path)
    assert caught.value.subject == str(path)


def test_an_unknown_network_is_answered_with_the_known_ones(path: Path) -> None:
    path.write_text(GOOD.replace('"compact"', '"compactor"'))
    with pytest.raises(ConfigError, match=f"one of {', '.join(PRESETS)}; found 'compactor'"):
        read_recipe(path)


@pytest.mark.parametrize("text", ["network = ", "[data", "steps: 7", '"'])
def test_broken_toml_is_refused(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize("line", ["steps = 0", "steps = -1", "steps = 7\nbatch_size = 0"])
def test_a_run_without_a_step_or_a_scan_is_refused(path: Path, line: str) -> None:
    path.write_text(GOOD.replace("steps = 7", line))
    with pytest.raises(ConfigError, match="of at least 1"):
        read_recipe(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("steps = 7", 'steps = "seven"'),
        ("steps = 7", 'steps = 7\nprecision = "fp64"'),
        ("steps = 7", "steps = 7\nvalidate_epochs = 0"),
        ("[0.2, 0.1]", "[0.2]"),
        ("[0.2, 0.1]", "0.2"),
        ('train = ["a/*", "b/s1"]', 'train = "a/*"'),
        ("learning_rate = 1e-3", 'learning_rate = "fast"'),
        ("gamma = 0.5", 'gamma = "much"'),
        (GOOD[GOOD.index("[data]") : GOOD.index("[opt")], 'data = "everything"\n'),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(path: Path, old: str, new: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError):
        read_recipe(path)
