"""Recipes: those of the repository read, and wrong ones are refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import training.parcellation.recipe
from neurobento.errors import ConfigError
from neurobento.networks import PRESETS
from training.parcellation.recipe import Data, Optimisation, Recipe, read_recipe

CONFIGS = [
    path
    for path in sorted(
        (Path(training.parcellation.recipe.__file__).parents[1] / "configs").glob("*.toml")
    )
    # those of networks for anomalies and of the brain finder are other commands'
    if "\nobjective =" not in path.read_text() and not path.stem.startswith("brain_finder")
]
REPORT = [path for path in CONFIGS if path.stem.startswith("report_")]

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

COUNT, PATCH = "of at least 1", "a patch of three sides"
POSITIONS = "positions need the whole brain"
ANY = "expected"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(GOOD)
    return path


def test_there_are_recipes() -> None:
    assert {path.stem for path in CONFIGS} >= {*PRESETS, "report_unet", "report_highresnet"}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: p.stem)
def test_each_recipe_of_the_repository_reads(config: Path) -> None:
    recipe = read_recipe(config)
    assert recipe.network in PRESETS
    assert recipe.data.train and recipe.data.validation and recipe.data.test
    options = recipe.optimisation
    assert options.epochs or options.warmup_steps < options.steps
    assert (options.loss == "positions") == (recipe.network == "atlas_map")
    assert recipe == read_recipe(config)


def test_the_recipes_of_the_repository_share_one_split() -> None:
    first, *others = [read_recipe(config).data for config in CONFIGS]
    assert [data for data in others if data != first] == []


@pytest.mark.parametrize("config", REPORT, ids=lambda p: p.stem)
def test_the_reports_recipes_say_what_the_report_chose(config: Path) -> None:
    recipe = read_recipe(config)
    assert recipe.network == config.stem.removeprefix("report_")
    assert recipe.augmentation.off
    options = recipe.optimisation
    assert (options.loss, options.optimiser, options.schedule) == ("dice", "adam", "constant")
    assert (options.steps, options.epochs) == (0, 150)
    assert (options.validate_epochs, options.patience) == (1, 10)
    assert options.precision == "auto"
    off = (options.weight_decay, options.warmup_steps, options.clip_norm, options.ema_decay)
    assert off == (0, 0, 0, 0)


def test_a_recipe_says_what_its_file_says_and_the_default_otherwise(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.network == "compact"
    assert recipe.data == Data(("a/*", "b/s1"), ("b/s2",), {"far": ("c/*",)})
    assert recipe.optimisation == Optimisation(steps=7, learning_rate=1e-3)
    assert (recipe.augmentation.gamma, recipe.augmentation.displacement) == (0.5, (0.2, 0.1))
    path.write_text(GOOD.split("[augmentation]")[0])
    default = Recipe("unet", Data((), ()), Optimisation(1))
    assert read_recipe(path).augmentation == default.augmentation
    assert read_recipe(path).optimisation.batch_size == 1


def plain(value: Any) -> bool:
    """Whether a value is made of what a weights-only checkpoint may hold."""
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, tuple | list):
        return all(plain(v) for v in value)
    return type(value) in (str, int, float, bool)


def test_as_dict_is_plain_and_complete(path: Path) -> None:
    values = read_recipe(path).as_dict()
    assert plain(values)
    assert set(values) == {f.name for f in dataclasses.fields(Recipe)}
    assert values["data"]["test"] == {"far": ("c/*",)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # An unknown or missing key.
        ('network = "compact"', 'network = "compact"\ncolour = "blue"'),
        ("steps = 7", "steps = 7\nstep = 8"),
        ("gamma = 0.5", "gama = 0.5"),
        ('validation = ["b/s2"]', 'validation = ["b/s2"]\nvalidate = ["b/s3"]'),
        ('network = "compact"\n', ""),
        ('train = ["a/*", "b/s1"]\n', ""),
        ("[optimisation]", "[optimization]"),
        # Broken TOML.
        (GOOD, "network = "),
        (GOOD, "[data"),
        (GOOD, "steps: 7"),
        (GOOD, '"'),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_by_name(path: Path, old: str, new: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match="a recipe: network") as caught:
        read_recipe(path)
    assert caught.value.subject == str(path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # A run without a step or a scan.
        ("steps = 7", "", COUNT),
        ("steps = 7", "steps = 0", COUNT),
        ("steps = 7", "steps = -1", COUNT),
        ("steps = 7", "epochs = 0", COUNT),
        ("steps = 7", "steps = 7\nepochs = 1", COUNT),
        ("steps = 7", "steps = 7\nbatch_size = 0", COUNT),
        ("steps = 7", "steps = 7\npatience = 0", COUNT),
        # A value of the wrong kind.
        ('"compact"', '"compactor"', f"one of {', '.join(PRESETS)}; found 'compactor'"),
        ("steps = 7", 'steps = "seven"', ANY),
        ("steps = 7", 'steps = 7\nprecision = "fp64"', ANY),
        ("steps = 7", "steps = 7\nvalidate_epochs = 0", ANY),
        ("[0.2, 0.1]", "[0.2]", ANY),
        ("[0.2, 0.1]", "0.2", ANY),
        ('train = ["a/*", "b/s1"]', 'train = "a/*"', ANY),
        ("learning_rate = 1e-3", 'learning_rate = "fast"', ANY),
        ("gamma = 0.5", 'gamma = "much"', ANY),
        ("steps = 7", 'steps = 7\nloss = "mse"', ANY),
        ("steps = 7", 'steps = 7\noptimiser = "sgd"', ANY),
        ("steps = 7", 'steps = 7\nschedule = "step"', ANY),
        ("steps = 7", "steps = 7\npatch = 32", ANY),
        ("steps = 7", "steps = 7\npatch = [32, 32, 32.5]", ANY),
        ("steps = 7", "steps = 7\ncheckpointing = 1", ANY),
        ("steps = 7", "steps = 7\nmixing_from = 0.5", ANY),
        ("steps = 7", 'steps = 7\nmixing_from = "never"', ANY),
        (GOOD[GOOD.index("[data]") : GOOD.index("[opt")], 'data = "everything"\n', ANY),
        # A patch of another form, and one where the whole brain is needed.
        ("steps = 7", "steps = 7\npatch = [64]", PATCH),
        ("steps = 7", "steps = 7\npatch = [64, 48]", PATCH),
        ("steps = 7", "steps = 7\npatch = [64, 48, 32, 16]", PATCH),
        ("steps = 7", "steps = 7\npatch = [64, 48, 0]", PATCH),
        ("steps = 7", 'steps = 7\nloss = "positions"\npatch = [64, 48, 32]', POSITIONS),
    ],
)
def test_a_wrong_value_is_refused(path: Path, old: str, new: str, expected: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError, match=expected):
        read_recipe(path)


@pytest.fixture
def data_beside(path: Path) -> Path:
    """The recipe with its data in a file of their own."""
    start, end = GOOD.index("[data]"), GOOD.index("[optimisation]")
    data = path.parent / "data" / "split.toml"
    data.parent.mkdir()
    data.write_text(GOOD[start:end].replace("[data]", "").replace("[data.test]", "[test]"))
    path.write_text('data = "data/split.toml"\n' + GOOD[:start] + GOOD[end:])
    return data


@pytest.mark.usefixtures("data_beside")
def test_data_may_lie_in_a_file_beside_the_recipe(path: Path, tmp_path: Path) -> None:
    beside = read_recipe(path)
    inside = tmp_path / "inside.toml"
    inside.write_text(GOOD)
    assert beside == read_recipe(inside)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "no file"),
        ("train = [", "Invalid value"),
        ('train = ["a"]\nvalidation = ["b"]\nvalidate = ["c"]', "unknown key validate"),
        ('train = ["a"]', "validation"),
        ('[data]\ntrain = ["a"]\nvalidation = ["b"]', "unknown key data"),
    ],
)
def test_a_wrong_file_of_data_is_refused(
    path: Path, data_beside: Path, text: str | None, found: str
) -> None:
    if text is None:
        data_beside.unlink()
    else:
        data_beside.write_text(text)
    with pytest.raises(ConfigError, match=found) as caught:
        read_recipe(path)
    assert caught.value.subject == str(path)


def test_a_recipe_may_count_epochs_hold_the_mixing_until_a_step_and_have_a_patch(
    path: Path,
) -> None:
    assert read_recipe(path).optimisation.mixing_from == 0
    path.write_text(GOOD.replace("steps = 7", "epochs = 3\nmixing_from = 5\npatch = [64, 48, 32]"))
    options = read_recipe(path).optimisation
    assert (options.steps, options.epochs, options.mixing_from) == (0, 3, 5)
    assert options.patch == (64, 48, 32)
