"""Tables say what the samples say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.inference.end_to_end import REGISTRATION
from benchmarks.report.comparison import Machine, group_by_machine
from benchmarks.report.inference import (
    backends_table,
    end_to_end_table,
    memory_table,
    offline_table,
    prediction_table,
    registration_table,
    stage_means,
)
from benchmarks.runs import Entry, Run
from tests.benchmarks.report.cells import cells

MakeRun = Callable[..., Run]


@pytest.fixture
def machine(make_run: MakeRun) -> Machine:
    """A machine on which everything was measured."""

    def network(model: str, *seconds: float, batch: int = 1) -> Entry:
        return Entry({"model": model, "batch": batch}, {"seconds": seconds})

    latency = {
        "unet pytorch fp32": network("unet", 12.0, 14.0, 13.0),
        "unet openvino bf16": network("unet", 2.0, 2.0, 2.0),
        "unet openvino fp32": network("unet", 4.0, 4.0, 4.0),
        "unet openvino bf16 batch 2": network("unet", 3.0, 3.0, 3.0, batch=2),
    }
    whole = {
        "unet openvino bf16": Entry(
            {"model": "unet"},
            {"read_s": [1, 1], "spacing_s": [4, 6], "infer_s": [2, 2], "total_s": [9, 11]},
        ),
        REGISTRATION: Entry({}, {"read_s": [1], "register_s": [400], "total_s": [410]}),
    }
    return group_by_machine(
        [make_run(entries=latency), make_run("end_to_end", whole, {"preprocessing": "full"})]
    )[0]


def test_table_4_3_has_report_as_figures_beside_ours(machine: Machine) -> None:
    assert cells(prediction_table([machine])) == [
        [
            *("unet", "0.079 ± 0.013", "Abacus 9, 2 cores", "13.000 ± 1.000"),
            *("2.000 ± 0.000", "openvino bf16", "6.50", "6.50", "10.000 ± 1.414"),
        ]
    ]


def test_report_as_highresnet_is_the_quicker_one(make_run: MakeRun) -> None:
    entries = {"highresnet pytorch fp32": Entry({"model": "highresnet"}, {"seconds": [1.0]})}
    (row,) = cells(prediction_table(group_by_machine([make_run(entries=entries)])))
    assert row[:2] == ["highresnet", "0.051 ± 0.001"]


def test_backends_are_listed_slowest_first_without_batches(machine: Machine) -> None:
    rows = cells(backends_table(machine))
    assert [row[0] for row in rows] == [
        *("unet pytorch fp32", "unet openvino fp32", "unet openvino bf16")
    ]
    assert rows[1][2:] == ["4.0000", "4.0000", "4.0000", "3.25", "3.25"]


def test_offline_seconds_are_a_scans_and_need_batches(machine: Machine, make_run: MakeRun) -> None:
    rows = {row[0]: row[1:] for row in cells(offline_table(machine))}
    assert rows["unet openvino bf16"] == ["2.0000", "1.5000"]
    assert rows["unet pytorch fp32"] == ["13.0000", ""]
    entries = {"unet pytorch fp32": Entry({"model": "unet"}, {"seconds": [1.0]})}
    assert offline_table(group_by_machine([make_run(entries=entries)])[0]) == ""


def test_shares_of_the_stages_make_up_the_whole(machine: Machine) -> None:
    (run,) = machine.runs_of("end_to_end")
    means = stage_means(run.entries["unet openvino bf16"])
    assert means == {"read": 1, "spacing": 5, "infer": 2, "between stages": 2}
    rows = {row[0]: row[1] for row in cells(end_to_end_table(run))}
    assert rows["spacing"] == "5.00 s (50.0 %)"
    assert rows["between stages"] == "2.00 s (20.0 %)"
    assert rows["register"] == ""
    assert rows["all"] == "10.00 s"


def test_registration_stands_against_the_network(machine: Machine) -> None:
    (run,) = machine.runs_of("end_to_end")
    assert cells(registration_table(run)) == [
        ["report A", "", "", "at least 196"],
        ["unet openvino bf16", "400.00", "2.000", "200.0"],
    ]


def test_memory_is_a_peak_above_the_libraries(make_run: MakeRun) -> None:
    facts = {"model": "unet", "backend": "openvino", "precision": "fp32", "batch": 4}
    samples = {"host_baseline_bytes": [1e9], "host_peak_bytes": [2e9, 3.5e9]}
    on_gpu = {**samples, "device_peak_bytes": [7e9]}
    run = make_run("memory", {"a": Entry(facts, samples), "b": Entry(facts, on_gpu)})
    rows = cells(memory_table(group_by_machine([run])[0]))
    assert rows[0] == ["unet openvino fp32", "4", "1.00", "3.50", "2.50", ""]
    assert rows[1][-1] == "7.00"
