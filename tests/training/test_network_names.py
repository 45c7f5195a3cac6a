"""Training knows no network by name: a new one is a file and a line of the presets' table."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import training
from neurobento.networks import ANOMALY_PRESETS, PRESETS, network_class

PRESET_NAMES = {*PRESETS, *ANOMALY_PRESETS}
NAMES = {network_class(preset).__name__ for preset in PRESET_NAMES} | PRESET_NAMES
FOLDER = Path(training.__file__).parent
FILES = sorted(FOLDER.rglob("*.py"))


def names_in(source: str) -> Iterator[str]:
    """Names, attributes, parts of imported modules, and strings that are one word."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (part for alias in node.names for part in alias.name.split("."))
            if isinstance(node, ast.ImportFrom) and node.module:
                yield from node.module.split(".")


@pytest.mark.parametrize("file", FILES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_file_names_no_network(file: Path) -> None:
    assert NAMES & {*names_in(file.read_text())} == set()


@pytest.mark.parametrize(
    "source",
    [
        "from neurobento.networks.compact import Other",
        "from neurobento import networks\nisinstance(x, networks.compact.Compact)",
        "recipe.network == 'atlas_map'",
        "import neurobento.networks.unet",
    ],
)
def test_the_rule_sees_every_way_to_name_one(source: str) -> None:
    assert NAMES & {*names_in(source)}
