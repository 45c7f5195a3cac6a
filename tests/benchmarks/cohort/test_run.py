"""A small run of the cohort benchmark loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.cohort.run import cost_exponent, differing_files, main


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_the_power_of_the_cost(power: float) -> None:
    sizes = [125, 250, 500, 1000]
    assert cost_exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(
        power, abs=1e-4
    )


def test_files_differ_by_content_and_by_being_there(tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same").write_text("a")
        (tmp_path / folder / "changed").write_text(folder)
        (tmp_path / folder / "a_run.json").write_text(folder)
    (tmp_path / "one" / "missing").touch()
    assert differing_files(tmp_path / "one", tmp_path / "other") == ["changed", "missing"]


@pytest.mark.slow
def test_a_small_run_loses_nothing_with_a_killed_worker(tmp_path: Path) -> None:
    output = tmp_path / "cohort.json"
    options = ["--sizes", "2", "8", "--workers", "2", "--no-ops", "50"]
    assert main(["-o", str(output), *options]) == 0
    result = json.loads(output.read_text())
    assert [run["done"] for run in result["sizes"]] == [2, 8]
    assert {run["begun"] - run["scans"] for run in result["sizes"]} == {0}
    killed = result["killed"]
    assert 4 <= killed["killed_after_scans"] < 8
    assert killed["done"] == killed["records_that_hold"] == 8
    assert killed["begun_again"] in (0, 1)
    assert killed["files_that_differ"] == 0
    assert result["growth"]["exponent_of_scans_cpu_s"] > 0
    assert result["no_ops"]["done"] == 50
