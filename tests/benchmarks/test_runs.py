"""Runs come back from their files as they were, and unlike runs are not compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import runs
from benchmarks.runs import RUN_FORMAT, Entry, Run, begin_run, require_comparable, summary
from neurobento.errors import ConfigError

MakeRun = Callable[..., Run]


def test_a_run_survives_its_file_and_a_later_state_is_written_over_it(
    tmp_path: Path, make_run: MakeRun
) -> None:
    run = make_run(entries={"a": Entry({"batch": 2}, {"seconds": [1.5, 2.5]})})
    run = dataclasses.replace(run, left_out={"b": "no GPU"}, warnings=("busy",))
    run.write(tmp_path / "new" / "run.json")
    assert Run.read(tmp_path / "new" / "run.json") == run
    later = dataclasses.replace(run, entries={"a": Entry({}, {"seconds": [1.0]})})
    later.write(tmp_path / "new" / "run.json")
    assert Run.read(tmp_path / "new" / "run.json") == later


def test_a_run_cannot_be_changed(make_run: MakeRun) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_run().kind = "load"  # type: ignore[misc]


@pytest.mark.parametrize("there", [None, "not a run"])
def test_another_file_is_never_written_over(
    there: str | None, tmp_path: Path, make_run: MakeRun
) -> None:
    path = tmp_path / "run.json"
    if there is None:
        make_run(date="2025-01-01T00:00:00.000000+00:00").write(path)
    else:
        path.write_text(there)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another file"):
        make_run().write(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change", [{"format": 1}, {"kind": "taste"}, {"entries": [1]}, {"unknown": 1}]
)
def test_only_runs_of_this_format_are_read(
    change: dict[str, Any], tmp_path: Path, make_run: MakeRun
) -> None:
    path = tmp_path / "run.json"
    make_run().write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError, match=f"a benchmark run of format {RUN_FORMAT}"):
        Run.read(path)


def test_alike_runs_may_hold_different_models(make_run: MakeRun) -> None:
    other = make_run("load", models={"unet": "cd"}, date="2027-01-01T00:00:00", scenario={})
    require_comparable([make_run(), other])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cpu": "Slide rule"}, "cpu Abacus 9 and Slide rule"),
        ({"cpu_flags": []}, "cpu_flags"),
        ({"cores": 64}, "cores 2 and 64"),
        ({"gpu": {"name": "G", "driver": "1"}}, "gpu None and"),
        ({"versions": {"torch": "2.1", "tensorrt": None}}, "version of torch 2.0 and 2.1"),
        ({"versions": {"torch": "2.0", "tensorrt": "10"}}, "version of tensorrt None and 10"),
        ({"scenario": {"threads": 4}}, "threads 2 and 4"),
        ({"models": {"compact": "cd"}}, "model compact ab and cd"),
    ],
)
def test_unlike_runs_are_not_compared(
    change: dict[str, Any], named: str, make_run: MakeRun
) -> None:
    with pytest.raises(ConfigError) as caught:
        require_comparable([make_run(scenario={}), make_run(), make_run(**change)])
    assert named in caught.value.found


def test_a_noisy_start_is_recorded_and_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        runs, "machine_facts", lambda: {"load_at_start": [3.0, 0, 0], "date": "2026-01-02T03:04"}
    )
    begun = begin_run("latency", {}, {})
    assert len(begun.warnings) == 1
    assert begun.warnings[0] in capsys.readouterr().out


def test_summary_agrees_with_numpy_and_one_sample_has_no_spread() -> None:
    samples = np.random.default_rng(0).uniform(1, 2, 50)
    found = summary(samples.tolist())
    wanted = {f"p{q}": np.quantile(samples, q / 100) for q in (50, 95, 99)}
    wanted |= {"mean": samples.mean(), "sd": samples.std(ddof=1)}
    assert found == pytest.approx(wanted, abs=1e-6)
    assert summary([2.0]) == {"mean": 2.0, "sd": 0.0, "p50": 2.0, "p95": 2.0, "p99": 2.0}
