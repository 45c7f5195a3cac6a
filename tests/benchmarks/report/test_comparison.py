"""Ratios are of medians, within a run, at equal numbers of scans."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.report.comparison import Timing, end_to_end_timings, group_by_machine, timings
from benchmarks.report.inference import offline_table
from benchmarks.runs import Entry, Run
from neurobento.errors import ConfigError

MakeRun = Callable[..., Run]
GPU = {"name": "NVIDIA Abacus", "driver": "570.1", "memory_bytes": 1 << 30}


def entry(model: str, seconds: list[float], batch: int = 1) -> Entry:
    return Entry({"model": model, "batch": batch}, {"seconds": seconds})


def by_name(found: list[Timing]) -> dict[tuple[str, int], Timing]:
    return {(timing.candidate, timing.batch): timing for timing in found}


def test_a_candidate_is_measured_by_its_own_network_and_the_reports(make_run: MakeRun) -> None:
    run = make_run(
        entries={
            "unet pytorch fp32": entry("unet", [12.0, 12.0, 90.0]),
            "compact pytorch fp32": entry("compact", [3.0]),
            "compact openvino fp32": entry("compact", [0.5, 0.5, 0.1]),
            "compact openvino fp32 batch 4": entry("compact", [1.0], batch=4),
        }
    )
    found = by_name(timings(group_by_machine([run])[0]))
    single = found["compact openvino fp32", 1]
    assert (single.own_ratio, single.report_ratio) == (6.0, 24.0)
    batch = found["compact openvino fp32", 4]
    assert batch.seconds["p50"] == 0.25
    assert (batch.own_ratio, batch.report_ratio) == (12.0, 48.0)


def test_no_ratio_is_taken_across_runs(make_run: MakeRun) -> None:
    reference = make_run(entries={"unet pytorch fp32": entry("unet", [12.0])})
    other = make_run(entries={"compact openvino fp32": entry("compact", [1.0])})
    found = by_name(timings(group_by_machine([reference, other])[0]))
    assert found["compact openvino fp32", 1].own_ratio is None
    assert found["compact openvino fp32", 1].report_ratio is None


def test_the_whole_of_a_scan_is_what_end_to_end_compares(make_run: MakeRun) -> None:
    samples = {"infer_s": [1.0], "total_s": [8.0]}
    run = make_run("end_to_end", {"compact openvino fp32": Entry({"model": "compact"}, samples)})
    (found,) = end_to_end_timings(group_by_machine([run])[0])
    assert found.seconds["mean"] == 8.0


def test_a_gpu_or_avx_512_makes_another_machine(make_run: MakeRun) -> None:
    with_avx_512 = make_run(cpu_flags=["amx_bf16", "avx512f"])
    machines = group_by_machine([make_run(), make_run(gpu=GPU), make_run("memory"), with_avx_512])
    assert [(machine.name, len(machine.runs)) for machine in machines] == [
        ("Abacus 9, 2 cores", 2),
        ("NVIDIA Abacus, Abacus 9, 2 cores", 1),
        ("Abacus 9 with AVX-512, 2 cores", 1),
    ]


def test_slices_are_not_among_scans(make_run: MakeRun) -> None:
    entry = Entry({"model": "anomaly", "batch": 2}, {"seconds": [0.5]})
    (machine,) = group_by_machine([make_run("slices", {"anomaly openvino fp32 batch 2": entry})])
    assert timings(machine) == []
    (found,) = timings(machine, "slices")
    assert (found.batch, found.seconds["p50"]) == (2, 0.25)
    assert "anomaly openvino fp32 | 0.2500" in offline_table(machine, "slices")


def test_unlike_runs_of_one_machine_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(ConfigError, match="version of torch"):
        group_by_machine([make_run(), make_run(versions={"torch": "3"})])


def test_dates_are_a_day_or_a_range(make_run: MakeRun) -> None:
    later = make_run(date="2026-02-01T00:00:00+00:00")
    assert group_by_machine([make_run()])[0].dates == "2026-01-02"
    assert group_by_machine([later, make_run()])[0].dates == "2026-01-02 to 2026-02-01"
