"""Write the benchmark report: Markdown tables and figures, and the table in docs/benchmarks.md.

    python -m benchmarks.report [RUN.json ...] [-o benchmarks/results]
        [--document docs/benchmarks.md]

Without runs, all of the output folder are used; each machine gets its own section.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import replace_between
from benchmarks.report import inference, service
from benchmarks.report.charts import draw_latency, draw_load, draw_stages
from benchmarks.report.comparison import Machine, group_by_machine
from benchmarks.runs import Run
from neurobento.errors import ConfigError
from neurobento.files import write_atomically

__all__ = ["MARKERS", "draw_figures", "main", "read_runs", "report_text", "summary_text"]

MARKERS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")

RESULTS = Path(__file__).resolve().parents[1] / "results"

METHOD = (
    "All candidates of a run took part in the same rounds; ratios are of medians within one run. "
    "A backend takes host images and returns host labels: a GPU's work is done when it returns, "
    "and the copies are included in the time."
)


def read_runs(folder: Path) -> list[Run]:
    """Read all runs in a folder, by file name; raise ConfigError if there is none."""
    paths = [p for p in sorted(folder.glob("*.json")) if "kind" in json.loads(p.read_text())]
    if not paths:
        raise ConfigError(
            subject=str(folder),
            expected="runs, NAME.json",
            found="no run",
            remedy="Measure with benchmarks.inference.latency, .memory or .service.load first.",
        )
    return [Run.read(path) for path in paths]


def report_text(machines: Sequence[Machine]) -> str:
    """Return the whole report."""
    parts = [
        "# The benchmark",
        "Made by `python -m benchmarks.report`; the raw samples are in the JSON files beside it.",
        "## Prediction time, s, mean ± SD (report A's table 4.3)",
        inference.prediction_table(machines),
        METHOD,
    ]
    for machine in machines:
        parts += [f"## {machine.name}", _facts(machine)]
        parts += [*_inference_parts(machine), *_service_parts(machine), *_remarks(machine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(machine: Machine) -> str:
    environment = machine.runs[0].environment
    gpu = environment["gpu"]
    versions = [f"{name} {v}" for name, v in environment["versions"].items() if v]
    facts = [
        f"Measured {machine.dates}; {machine.threads}; Python {environment['python']}",
        f"CPU flags: {', '.join(environment['cpu_flags']) or 'none of note'}",
        *([f"NVIDIA driver {gpu['driver']}"] if gpu else []),
        f"versions: {', '.join(versions)}",
    ]
    return "; ".join(facts) + "."


def _inference_parts(machine: Machine) -> list[str]:
    slug = _slug(machine)
    parts: list[str] = []
    if machine.runs_of("latency"):
        parts += ["### Network alone, SingleStream, s", inference.backends_table(machine)]
        parts += [f"![Median of every candidate]({slug}_latency.png)"]
        offline = inference.offline_table(machine)
        parts += ["### Network alone, Offline, s a scan (median)", offline] if offline else []
    if machine.runs_of("slices"):
        parts += ["### Slices, network alone, SingleStream, s"]
        parts += [inference.backends_table(machine, "slices")]
        offline = inference.offline_table(machine, "slices")
        parts += ["### Slices, Offline, s a slice (median)", offline] if offline else []
    for number, run in enumerate(machine.runs_of("end_to_end"), 1):
        # Runs before 2026-11-30 call it "level".
        preprocessing = run.scenario["preprocessing"]
        parts += [f"### End to end, preprocessing `{preprocessing}`: mean seconds of each stage"]
        parts += [inference.end_to_end_table(run)]
        parts += [f"![Stages of a scan]({slug}_stages_{number}.png)"]
        ratios = inference.registration_table(run)
        parts += ["### Registration against the network (medians)", ratios] if ratios else []
    if machine.runs_of("memory"):
        parts += ["### Memory, GB", inference.memory_table(machine)]
    return parts


def _service_parts(machine: Machine) -> list[str]:
    parts: list[str] = []
    if machine.runs_of("load"):
        parts += ["### Open-loop load, s", service.load_table(machine)]
        parts += [f"![Latency over rate]({_slug(machine)}_load.png)"]
    if machine.runs_of("overhead"):
        parts += ["### The service against the library in process (medians)"]
        parts += [service.overhead_table(machine)]
    if machine.runs_of("soak"):
        parts += ["### Soak: many clients for a long time", service.soak_table(machine)]
    if machine.runs_of("faults"):
        parts += ["### Processes killed under load", service.faults_table(machine)]
        parts += [service.fault_outcomes_table(machine)]
    if machine.runs_of("jobs"):
        parts += ["### Jobs while the server is killed (SIGKILL)", service.jobs_table(machine)]
    return parts


def _remarks(machine: Machine) -> list[str]:
    warnings = dict.fromkeys(
        f"- {run.kind}: {text}" for run in machine.runs for text in run.warnings
    )
    names_by_reason: dict[str, dict[str, None]] = {}
    for run in machine.runs:
        for name, reason in run.left_out.items():
            names_by_reason.setdefault(reason, {})[name] = None
    left_out = [f"- {', '.join(names)}: {reason}" for reason, names in names_by_reason.items()]
    parts: list[str] = []
    if warnings:
        parts += ["### Caveats", "\n".join(warnings)]
    if left_out:
        parts += ["### Not measured", "\n".join(left_out)]
    return parts


def draw_figures(machines: Sequence[Machine], folder: Path) -> None:
    """Write the figures that the report shows."""
    for machine in machines:
        slug = _slug(machine)
        if machine.runs_of("latency"):
            draw_latency(machine, folder / f"{slug}_latency.png")
        for number, run in enumerate(machine.runs_of("end_to_end"), 1):
            draw_stages(run, folder / f"{slug}_stages_{number}.png")
        if machine.runs_of("load"):
            draw_load(machine, folder / f"{slug}_load.png")


def _slug(machine: Machine) -> str:
    return re.sub(r"[^a-z0-9]+", "_", machine.name.lower()).strip("_")


def summary_text(machines: Sequence[Machine]) -> str:
    """Return the text between the markers of docs/benchmarks.md."""
    measured = "; ".join(f"{m.name}, {m.threads}, {m.dates}" for m in machines)
    return (
        "Prediction time in seconds, mean ± SD, as in report A's table 4.3:\n\n"
        f"{inference.prediction_table(machines)}\n\n"
        f"Measured on {measured}. Backends, batches, memory and load: "
        "[benchmarks/results/report.md](../benchmarks/results/report.md).\n"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("runs", type=Path, nargs="*", help="default: all in OUTPUT")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder")
    parser.add_argument(
        "--document", "--readme", type=Path, help="put the table into this file too"
    )
    args = parser.parse_args(argv)
    runs = [Run.read(path) for path in args.runs] if args.runs else read_runs(args.output)
    machines = group_by_machine(runs)
    if args.document:
        text = replace_between(
            MARKERS, args.document.read_text(), summary_text(machines), str(args.document)
        )
        write_atomically(args.document, text.encode())
    args.output.mkdir(parents=True, exist_ok=True)
    draw_figures(machines, args.output)
    write_atomically(args.output / "report.md", report_text(machines).encode())
    return 0
