"""What a module says it exports is there, and is all it defines for others."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("neurobento", "training", "export", "benchmarks")
MODULES = [
    path.relative_to(ROOT)
    for part in PARTS
    for path in sorted(ROOT.glob(f"{part}/**/*.py"))
    if (text := path.read_text()).strip() and "run_old_name(__name__" not in text
]


def name_of(file: Path) -> str:
    return ".".join(file.with_suffix("").parts).removesuffix(".__init__")


def declared(file: Path) -> list[str] | None:
    """The file's `__all__`, as it is written."""
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def test_modules_are_found() -> None:
    assert len(MODULES) > 35


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_a_module_says_what_it_exports(file: Path) -> None:
    assert declared(file), "no __all__"


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_what_it_exports_is_there(file: Path) -> None:
    module = importlib.import_module(name_of(file))
    missing = [name for name in declared(file) or [] if not hasattr(module, name)]
    assert missing == []


@pytest.mark.parametrize("file", MODULES, ids=str)
def test_each_exported_name_is_public_and_is_exported_once(file: Path) -> None:
    names = declared(file) or []
    assert len(names) == len(set(names))
    assert [n for n in names if n.startswith("_") and n != "__version__"] == []
