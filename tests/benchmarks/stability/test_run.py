"""The benchmark of stability, with a parcellator whose labels depend on the world alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.runs import Entry, begin_run
from benchmarks.stability.disturbances import FOR_STRIPPED
from benchmarks.stability.figure import draw_stability
from benchmarks.stability.run import measure_scan, stability_table
from neurobento.errors import NotABrain
from neurobento.imaging.geometry import Grid
from neurobento.parcellation.answer import Answer


class Fixed:
    """Labels the same half of the world in every scan, moved by some network voxels at times."""

    def __init__(self, affine: Any, shape: Any) -> None:
        self.affine, self.shape, self.calls = affine, shape, 0
        self.moved_at: int | None = None
        self.fails_at: int | None = None

    def parcellate(self, scan: Any, preprocessing: str) -> Any:
        self.calls += 1
        if self.calls == self.fails_at:
            raise NotABrain(expected="a brain", found="none", remedy="None.")
        labels = np.zeros(self.shape, np.uint8)
        x, y, z = self.shape
        start = x // 4 + (4 if self.calls == self.moved_at else 0)
        labels[start : start + x // 2, y // 4 : -y // 4, z // 4 : -z // 4] = 7
        grid = Grid(scan.shape, scan.voxel_to_ras, self.affine, self.shape)
        prepared = SimpleNamespace(brain=None, preprocessing=preprocessing, grid=grid)
        answer = Answer(labels, self.affine)
        return SimpleNamespace(labels=grid.restore(labels), answer=answer, prepared=prepared)


@pytest.fixture
def fixed(phantom: Any) -> Fixed:
    return Fixed(phantom.affine, phantom.shape)


def test_labels_that_depend_on_the_world_alone_are_stable(fixed: Fixed, phantom: Any) -> None:
    found = measure_scan(fixed, phantom.scan(), "stripped")  # type: ignore[arg-type]
    assert list(found) == list(FOR_STRIPPED)
    for dice in found.values():
        assert not isinstance(dice, str)
        assert dice[7] == 1
        assert np.isnan(dice[8])


def test_moved_labels_lower_the_dice_and_an_error_is_named(fixed: Fixed, phantom: Any) -> None:
    fixed.moved_at, fixed.fails_at = 2, 3
    found = measure_scan(fixed, phantom.scan(), "stripped")  # type: ignore[arg-type]
    first, second, third = list(found.values())[:3]
    assert not isinstance(first, str) and not isinstance(third, str)
    share = 1 - 4 / (phantom.shape[0] // 2)
    assert first[7] == pytest.approx(share, abs=0.05)
    assert second == "NotABrain"
    assert third[7] == 1


def test_table_and_figure_show_every_disturbance(tmp_path: Path) -> None:
    run = begin_run("stability", {"preprocessing": "stripped", "scans": 2}, {})
    facts = {"model": "m", "worst_regions": {"signed": ["Vermis_10", 0.5]}}
    entry = Entry(facts, {"signed": [0.9, 0.7], "bias field": [0.99, 0.97]})
    run = replace(run, entries={"m": entry})
    table = stability_table(run)
    rows = [line for line in table.splitlines() if line.startswith(("| signed", "| bias"))]
    assert rows == [
        "| signed | 0.800 | 0.700 | Vermis_10 0.500 |",
        "| bias field | 0.980 | 0.970 | n/a |",
    ]
    draw_stability(run, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert json.dumps(entry.samples)
