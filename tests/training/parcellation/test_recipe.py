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
    # those of networks for anomalies are `training.anomaly.train`'s
    if "\nobjective =" not in path.read_text()
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
    return type(value) in (str, int, float, bool)


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


@pytest.mark.parametrize(
    "line",
    [
        "",
        "steps = 0",
        "steps = -1",
        "epochs = 0",
        "steps = 7\nepochs = 1",
        "steps = 7\nbatch_size = 0",
        "steps = 7\npatience = 0",
    ],
)
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
        ("steps = 7", 'steps = 7\nloss = "mse"'),
        ("steps = 7", 'steps = 7\noptimiser = "sgd"'),
        ("steps = 7", 'steps = 7\nschedule = "step"'),
        ("steps = 7", "steps = 7\npatch = 32"),
        ("steps = 7", "steps = 7\npatch = [32, 32, 32.5]"),
        ("steps = 7", "steps = 7\ncheckpointing = 1"),
        ("steps = 7", "steps = 7\nmixing_from = 0.5"),
        ("steps = 7", 'steps = 7\nmixing_from = "never"'),
        (GOOD[GOOD.index("[data]") : GOOD.index("[opt")], 'data = "everything"\n'),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(path: Path, old: str, new: str) -> None:
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError):
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


def test_a_recipe_may_count_epochs(path: Path) -> None:
    path.write_text(GOOD.replace("steps = 7", "epochs = 3"))
    options = read_recipe(path).optimisation
    assert (options.steps, options.epochs) == (0, 3)


def test_a_recipe_may_hold_the_mixing_until_a_step(path: Path) -> None:
    assert read_recipe(path).optimisation.mixing_from == 0
    path.write_text(GOOD.replace("steps = 7", "steps = 7\nmixing_from = 5"))
    assert read_recipe(path).optimisation.mixing_from == 5


def test_a_patch_has_three_sides(path: Path) -> None:
    path.write_text(GOOD.replace("steps = 7", "steps = 7\npatch = [64, 48, 32]"))
    assert read_recipe(path).optimisation.patch == (64, 48, 32)


@pytest.mark.parametrize("patch", ["[64]", "[64, 48]", "[64, 48, 32, 16]", "[64, 48, 0]"])
def test_a_patch_of_another_form_is_refused(path: Path, patch: str) -> None:
    path.write_text(GOOD.replace("steps = 7", f"steps = 7\npatch = {patch}"))
    with pytest.raises(ConfigError, match="a patch of three sides"):
        read_recipe(path)


def test_positions_are_not_learnt_from_patches(path: Path) -> None:
    line = 'steps = 7\nloss = "positions"\npatch = [64, 48, 32]'
    path.write_text(GOOD.replace("steps = 7", line))
    with pytest.raises(ConfigError, match="positions need the whole brain"):
        read_recipe(path)
