"""The recipe of the brain finder."""

from __future__ import annotations

from pathlib import Path

import pytest

from neurobento.errors import ConfigError
from training.brain.recipe import BrainRecipe, read_brain_recipe

ROOT = Path(__file__).resolve().parents[3]
TEXT = """
network = "brain_finder"
heads = ["a*"]
stripped = ["b"]
validation = ["c"]
steps = 7
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(TEXT)
    return path


def test_a_recipe_says_what_its_file_says_and_the_default_otherwise(path: Path) -> None:
    recipe = read_brain_recipe(path)
    assert recipe == BrainRecipe("brain_finder", ("a*",), ("b",), ("c",), steps=7)
    assert recipe.as_dict()["steps"] == 7
    assert BrainRecipe(**recipe.as_dict()) == recipe


def test_the_repositorys_recipe_reads_and_keeps_validation_apart() -> None:
    recipe = read_brain_recipe(ROOT / "training" / "configs" / "brain_finder.toml")
    assert recipe.network == "brain_finder"
    assert not set(recipe.validation) & {*recipe.heads, *recipe.stripped}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch_size = 0", "batch_size"),
        ("patience = 0", "patience"),
        ("validation_maps = 0", "validation_maps"),
        ("drawn_share = -0.1", "shares"),
        ("stripped_share = 0.6", "at most 1"),
        ("unknown = 1", "unknown"),
    ],
)
def test_a_wrong_value_is_refused(path: Path, line: str, expected: str) -> None:
    path.write_text(f"{TEXT}{line}\n")
    with pytest.raises(ConfigError, match=expected):
        read_brain_recipe(path)
