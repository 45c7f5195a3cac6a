"""The report and docs/benchmarks.md are what the runs in benchmarks/results make them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.inference.end_to_end import REGISTRATION
from benchmarks.markdown import replace_between
from benchmarks.report.comparison import group_by_machine
from benchmarks.report.run import MARKERS, RESULTS, main, read_runs, report_text, summary_text
from benchmarks.runs import Entry, Run
from neurobento.errors import ConfigError

MakeRun = Callable[..., Run]

DOCUMENT = RESULTS.parents[1] / "docs/benchmarks.md"
BEGIN, END = MARKERS
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(make_run: MakeRun, tmp_path: Path) -> Path:
    """A folder with a run of each kind."""
    facts = {"model": "compact", "backend": "openvino", "precision": "fp32", "batch": 1}
    load = {"rate_per_s": 2.0, "sent": 1, "throughput_per_s": 1.0}
    load |= {"outcomes": {"ok": 1}, "batch_sizes": {}}
    scenario = {"service": "neurobento", "model": "compact", "protocol": "http"}
    samples = {
        "latency": {"seconds": [0.5, 0.6]},
        "end_to_end": {"read_s": [0.1], "resize_s": [3.0], "infer_s": [0.5], "total_s": [4.0]},
        "memory": {"host_baseline_bytes": [1e9], "host_peak_bytes": [2e9]},
    }
    registered = Entry({}, {"register_s": [90.0], "total_s": [99.0]})
    for kind, values in samples.items():
        entries = {"compact openvino fp32": Entry(facts, values)}
        entries |= {REGISTRATION: registered} if kind == "end_to_end" else {}
        run = make_run(kind, entries, {"threads": 2, "preprocessing": "full"})
        left_out = {"compact tensorrt fp16": "no GPU", "compact tensorrt bf16": "no GPU"}
        run = dataclasses.replace(run, left_out=left_out, warnings=("the machine was busy",))
        run.write(tmp_path / f"{kind}.json")
    make_run("load", {"2/s": Entry(load, {"ok_s": [1.0]})}, scenario).write(tmp_path / "load.json")
    return tmp_path


def test_every_kind_of_run_has_its_section_and_its_figure(folder: Path) -> None:
    assert main(["-o", str(folder)]) == 0
    text = (folder / "report.md").read_text()
    for title in ("4.3", "SingleStream", "mean seconds of each stage", "Memory", "Open-loop"):
        assert re.search(rf"^##+ .*{title}", text, re.MULTILINE), title
    assert "| compact openvino fp32 | 90.00 | 0.500 | 180.0 |" in text
    figures = re.findall(r"\]\((\w+\.png)\)", text)
    assert len(figures) == 3
    for name in figures:
        assert (folder / name).read_bytes().startswith(PNG)


def test_what_speaks_against_the_numbers_machine_date_and_versions_are_said(folder: Path) -> None:
    text = report_text(group_by_machine(read_runs(folder)))
    assert "- latency: the machine was busy" in text
    assert text.count("- compact tensorrt fp16, compact tensorrt bf16: no GPU") == 1
    assert "Measured 2026-01-02; 2 threads" in text
    assert "torch 2.0" in text
    assert "tensorrt None" not in text


def test_the_document_gets_its_table_between_the_markers(folder: Path, tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(["-o", str(folder), "--document", str(document)])
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert "0.550 ± 0.071" in text
    assert "Abacus 9, 2 cores, 2 threads, 2026-01-02" in text
    main(["-o", str(folder), "--readme", str(document)])
    assert document.read_text() == text


def test_only_runs_of_this_format_and_results_of_other_commands_are_accepted(folder: Path) -> None:
    before = read_runs(folder)
    (folder / "other.json").write_text('{"format": 1}')
    assert read_runs(folder) == before
    (folder / "old.json").write_text('{"format": 1, "kind": "latency"}')
    with pytest.raises(ConfigError, match="format 2"):
        read_runs(folder)


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Measure"):
        main(["-o", str(tmp_path)])


def test_the_document_holds_the_generated_table() -> None:
    text = DOCUMENT.read_text()
    table = summary_text(group_by_machine(read_runs(RESULTS)))
    assert replace_between(MARKERS, text, table, "docs/benchmarks.md") == text


def test_the_report_is_the_one_of_its_runs() -> None:
    report = RESULTS / "report.md"
    if not report.is_file():
        pytest.skip("no report was written yet")
    assert report.read_text() == report_text(group_by_machine(read_runs(RESULTS)))
