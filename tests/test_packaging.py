"""What is packed and installed says the same as what it was derived from."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def lines(name: str) -> list[str]:
    text = (ROOT / name).read_text().splitlines()
    return [line for line in text if line and not line.startswith("#")]


def named(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower()


def test_the_bento_needs_what_core_and_serving_need_at_the_tested_versions() -> None:
    pins = {named(line): line for line in lines("constraints.txt")}
    needs = lines("requirements/core.txt") + lines("requirements/serving.txt")
    assert lines("requirements/bento.txt") == [pins[named(need)] for need in needs]


def test_every_direct_need_is_pinned() -> None:
    pins = {named(line) for line in lines("constraints.txt")}
    for part in ("core", "serving", "training", "export", "dev"):
        missing = {named(need) for need in lines(f"requirements/{part}.txt")} - pins
        assert not missing, part


def test_floors_that_close_known_holes_hold() -> None:
    floors = {
        "bentoml": (1, 4, 39),
        "starlette": (0, 49, 1),
        "python-multipart": (0, 0, 27),
        "torch": (2, 10),
        "monai": (1, 6, 1),
        "onnx": (1, 21),
    }
    pins = {named(line): line.split("==")[1] for line in lines("constraints.txt")}
    for name, floor in floors.items():
        assert tuple(int(part) for part in pins[name].split(".")) >= floor, name


def test_every_extra_of_pyproject_has_its_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["tool"]["setuptools"]["dynamic"]["optional-dependencies"]
    for extra in extras.values():
        assert all((ROOT / name).is_file() for name in extra["file"])


def test_tables_and_recipes_are_packed_with_the_code_that_reads_them() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packed = project["tool"]["setuptools"]["package-data"]
    for package in ("neurobento", "training"):
        folder = ROOT / package
        found = {path for pattern in packed[package] for path in folder.glob(pattern)}
        assert found == {*folder.rglob("*.tsv"), *folder.rglob("*.toml")}, package


def test_ci_runs_what_people_run() -> None:
    commands = [c for c in lines(".ci/run") if c.startswith("scripts/")]
    assert commands == ["scripts/check", "scripts/test"]
