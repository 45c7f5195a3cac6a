"""The core reads its environment in one file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from neurobento.environment import child_environment, client_token, engines_folder

ROOT = Path(__file__).resolve().parents[2]
# threads.py sets variables for the libraries that it configures, and reads none.
ALLOWED = {"environment.py", "preprocessing/threads.py"}
NAMES = {"environ", "environb", "getenv", "getenvb"}


def reads_environment(source: str) -> bool:
    return any(
        (isinstance(node, ast.Attribute) and node.attr in NAMES)
        or (isinstance(node, ast.Name) and node.id in NAMES)
        or (isinstance(node, ast.alias) and node.name in NAMES)
        for node in ast.walk(ast.parse(source))
    )


@pytest.mark.parametrize(
    "source", ["os.environ['A']", "from os import getenv", "import os\nos.environ.get('A')"]
)
def test_the_rule_sees_every_way_to_read_a_variable(source: str) -> None:
    assert reads_environment(source)


def test_no_other_file_of_the_core_reads_the_environment() -> None:
    core = ROOT / "neurobento"
    files = [path.relative_to(core) for path in sorted(core.rglob("*.py"))]
    reading = {
        path.as_posix()
        for path in files
        if path.parts[0] != "serving" and reads_environment((core / path).read_text())
    }
    assert reading == ALLOWED


@pytest.mark.parametrize("value", ["secret", "", None])
def test_the_token_is_the_variable_or_none(
    monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("NEUROBENTO_TOKEN", raising=False)
    if value is not None:
        monkeypatch.setenv("NEUROBENTO_TOKEN", value)
    assert client_token() == (value or None)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"NEUROBENTO_ENGINES": "/e", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/e"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/neurobento/engines"),
        (
            {"NEUROBENTO_ENGINES": "", "XDG_CACHE_HOME": "", "HOME": "/h"},
            "/h/.cache/neurobento/engines",
        ),
        ({"HOME": "/h"}, "/h/.cache/neurobento/engines"),
    ],
)
def test_engines_lie_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name in ("NEUROBENTO_ENGINES", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert engines_folder() == Path(expected)


def test_a_child_gets_this_environment_with_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPT", "1")
    monkeypatch.setenv("CHANGED", "1")
    environment = child_environment(CHANGED="2", ADDED="3")
    assert (environment["KEPT"], environment["CHANGED"], environment["ADDED"]) == ("1", "2", "3")
