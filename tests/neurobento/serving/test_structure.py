"""Environment variables are read in one file, private parts of BentoML used in one file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_imports import imported

ROOT = Path(__file__).resolve().parents[3]
FILES = [
    path.relative_to(ROOT)
    for path in (ROOT / "service.py", *sorted((ROOT / "neurobento/serving").rglob("*.py")))
]
READS_ENVIRONMENT = Path("neurobento/serving/settings.py")
REACHES_INTO_BENTOML = Path("neurobento/serving/bentoml_patches.py")
PRIVATE = ("bentoml._internal", "_bentoml_impl", "_bentoml_sdk", "circus")

WRITES = {Path("neurobento/serving/process/run_folder.py"): 2}
"""File -> how many variables it sets for the processes that it starts."""


def environment_uses(source: str) -> Iterator[tuple[str, int]]:
    """Yield ("read" or "write", line) for each use of the process's environment."""
    tree = ast.parse(source)
    written = {
        id(target.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Subscript)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "environb"):
            yield ("write" if id(node) in written else "read"), node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in ("getenv", "getenvb"):
            yield "read", node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names = {alias.name for alias in node.names}
            if names & {"environ", "environb", "getenv", "getenvb"}:
                yield "read", node.lineno


@pytest.mark.parametrize("file", FILES, ids=str)
def test_settings_alone_read_the_environment(file: Path) -> None:
    uses = list(environment_uses((ROOT / file).read_text()))
    reads = [line for kind, line in uses if kind == "read"]
    assert bool(reads) == (file == READS_ENVIRONMENT), reads
    assert len(uses) - len(reads) == WRITES.get(file, 0)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("import os\nos.environ['A']", "read"),
        ("import os\nos.environ.get('A')", "read"),
        ("import os\nx = os.getenv('A')", "read"),
        ("import os\nx = {**os.environ}", "read"),
        ("from os import environ", "read"),
        ("from os import getenv as g", "read"),
        ("import os\nos.environ['A'] = 'b'", "write"),
        ("import os\nos.environ['A'] = x = 'b'", "write"),
    ],
)
def test_every_use_of_the_environment_is_seen(source: str, kind: str) -> None:
    assert [found for found, _ in environment_uses(source)] == [kind]


@pytest.mark.parametrize("file", FILES, ids=str)
def test_one_file_alone_reaches_into_bentoml(file: Path) -> None:
    modules = imported((ROOT / file).read_text(), "neurobento.serving")
    reached = [name for name in modules if f"{name}.".startswith(tuple(f"{p}." for p in PRIVATE))]
    assert bool(reached) == (file == REACHES_INTO_BENTOML), reached


def test_settings_know_no_transport() -> None:
    """Neither HTTP nor gRPC, nor what admits requests, stands behind settings and requests."""
    for name in ("settings", "request"):
        source = (ROOT / f"neurobento/serving/{name}.py").read_text()
        ours = {m for m in imported(source, "neurobento.serving") if m.startswith("neurobento.")}
        assert ours
        core = ("cores", "errors")
        assert all(m.split(".")[1] in core or m.split(".")[2] == "request" for m in ours)
    admission = (ROOT / "neurobento/serving/admission.py").read_text()
    modules = set(imported(admission, "neurobento.serving"))
    assert not [
        m for m in modules if m.startswith(("neurobento.serving.http", "starlette", "grpc"))
    ]
