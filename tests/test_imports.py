"""Imports go one way, and stay light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("neurobento", "training", "export", "benchmarks", "service")
CORE, SERVING = "neurobento", "neurobento.serving"
ALLOWED = {
    CORE: {CORE},
    SERVING: {CORE, SERVING},
    "training": {CORE, "training"},
    "export": {CORE, "export"},
    "benchmarks": {CORE, "benchmarks"},
    "service": {CORE, SERVING},
}
WINGS = {"neurobento.parcellation", "neurobento.anomaly"}
NOT_OF_WINGS = {f"neurobento.{part}" for part in ("serving", "cli", "cohort", "client")}
FORBIDDEN = {
    "neurobento.parcellation": {"neurobento.anomaly", *NOT_OF_WINGS},
    "neurobento.anomaly": {"neurobento.parcellation", *NOT_OF_WINGS},
    "neurobento.preprocessing": WINGS,
    "neurobento.imaging": WINGS,
    "neurobento.backends": WINGS,
    "neurobento.serving": {"neurobento.client"},
    "neurobento.client": {"neurobento.serving"},
    "neurobento.networks": WINGS,
}
"""Folder -> folders it must not import: the wings know neither each other nor what uses them,
and the server and its client share `neurobento.contract` alone."""

HEAVY = ("torch", "monai", "ants", "openvino", "matplotlib")
FILES = [
    path.relative_to(ROOT)
    for part in PARTS
    for path in sorted([*ROOT.glob(f"{part}.py"), *ROOT.glob(f"{part}/**/*.py")])
]


def imported(source: str, package: str) -> Iterator[str]:
    """Every module a file names in an import, at its top or inside a function."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = package if node.level else node.module or ""
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))


def part_of(module: str) -> str:
    """Return the part that a dotted module name belongs to: `neurobento.serving` is its own."""
    return SERVING if f"{module}.".startswith(f"{SERVING}.") else module.split(".")[0]


def own_parts(source: str, package: str) -> set[str]:
    return {part_of(name) for name in imported(source, package)} & {*ALLOWED}


def test_every_part_is_looked_at() -> None:
    assert {file.parts[0].removesuffix(".py") for file in FILES} == {*PARTS}
    assert len(FILES) > 40


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_part_imports_only_what_it_may(file: Path) -> None:
    part = part_of(".".join(file.with_suffix("").parts))
    assert own_parts((ROOT / file).read_text(), part) <= ALLOWED[part]


@pytest.mark.parametrize("package", FORBIDDEN)
def test_the_wings_and_server_and_client_stay_apart(package: str) -> None:
    files = [file for file in FILES if package == ".".join(file.parts[:2])]
    assert files
    for file in files:
        modules = imported((ROOT / file).read_text(), package)
        folders = {".".join(module.split(".")[:2]) for module in modules}
        assert not folders & FORBIDDEN[package], file


@pytest.mark.parametrize(
    "source",
    [
        "import training.parcellation.train",
        "from training import train",
        "from training.parcellation.train import main",
        "def f():\n    from training.parcellation.train import main",
        "import os, training as t",
    ],
)
def test_the_rule_sees_every_way_to_import(source: str) -> None:
    assert own_parts(source, "neurobento") == {"training"}


@pytest.mark.parametrize("file", [f for f in FILES if f.parts[0] == "neurobento"], ids=str)
def test_no_file_of_the_core_imports_itself_as_a_whole(file: Path) -> None:
    """`from neurobento import NAME` inside the package runs in circles, but for its modules."""
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "neurobento":
            folder = ROOT / "neurobento"
            names = [alias.name for alias in node.names]
            assert all((folder / f"{n}.py").exists() or (folder / n).is_dir() for n in names)


def loaded_with(module: str, watched: tuple[str, ...], **env: str) -> list[str]:
    """Return which of some modules are loaded in a process that imports one."""
    code = f"import sys, {module}; print(*(m for m in {watched!r} if m in sys.modules))"
    command, environment = [sys.executable, "-c", code], {**os.environ, **env}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("module", ["neurobento", "neurobento.cli.main", "service"])
def test_importing_is_light(module: str, known_model: Path, tmp_path: Path) -> None:
    """So `--help`, `bentoml build` and the runners start without what they do not need."""
    bentoml = {"BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    models = {"NEUROBENTO_MODELS": str(known_model.parent)}
    assert loaded_with(module, HEAVY, **bentoml, **models) == []


def test_importing_the_client_needs_no_numpy() -> None:
    assert loaded_with("neurobento.client.http", ("numpy", "grpc")) == []
