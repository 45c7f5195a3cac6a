"""The benchmark's report: Markdown tables and figures from the runs, and README's table.

    python -m benchmarks.report [RUN.json ...] [-o benchmarks/results] [--readme README.md]

Without runs, all in the output folder. Runs of one machine have to be alike;
machines stand one after another. README's table goes between its markers.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report.charts import draw_latency, draw_load, draw_stages
from benchmarks.report.comparison import Machine, by_machine
from benchmarks.report.tables import (
    backends_table,
    end_to_end_table,
    fault_answers_table,
    faults_table,
    jobs_table,
    load_table,
    memory_table,
    offline_table,
    overhead_table,
    prediction_table,
    registration_table,
    soak_table,
)
from benchmarks.results import Run
from neurobento.errors import ConfigError
from neurobento.files import write_atomically

__all__ = ["MARKERS", "draw", "main", "markdown", "read_runs", "readme_text", "with_readme_text"]

MARKERS = ("<!-- benchmarks -->", "<!-- /benchmarks -->")

RESULTS = Path(__file__).resolve().parents[1] / "results"

HOW_ALONE = (
    "All candidates of a run took part in the same rounds; ratios are of medians within one run. "
    "A backend takes host images and returns host labels: a GPU's work is done when it returns, "
    "and the copies are in the time."
)


def read_runs(folder: Path) -> list[Run]:
    """All runs in a folder, by file name; JSON files without a kind are other commands' results.

    Raises
    ------
    ConfigError
        There is none, or one is not of this format.
    """
    paths = [p for p in sorted(folder.glob("*.json")) if "kind" in json.loads(p.read_text())]
    if not paths:
        raise ConfigError(
            subject=str(folder),
            expected="runs, NAME.json",
            found="none",
            remedy="Measure with benchmarks.inference.latency, .memory or .load first.",
        )
    return [Run.read(path) for path in paths]


def markdown(machines: Sequence[Machine]) -> str:
    """The whole report."""
    parts = [
        "# The benchmark",
        "Made by `python -m benchmarks.report`; the raw samples are in the JSON files beside it.",
        "## Prediction time, s, mean ± SD (report A's table 4.3)",
        prediction_table(machines),
        HOW_ALONE,
    ]
    for machine in machines:
        parts += [f"## {machine.name}", _facts(machine)]
        parts += [part for part in _sections(machine) if part]
    return "\n\n".join(parts) + "\n"


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


def _sections(machine: Machine) -> list[str]:
    slug = _slug(machine)
    parts: list[str] = []
    if machine.of("latency"):
        parts += ["### Network alone, SingleStream, s", backends_table(machine)]
        parts += [f"![Median of every candidate]({slug}_latency.png)"]
        offline = offline_table(machine)
        parts += ["### Network alone, Offline, s a scan (median)", offline] if offline else []
    if machine.of("slices"):
        parts += ["### Slices, network alone, SingleStream, s", backends_table(machine, "slices")]
        offline = offline_table(machine, "slices")
        parts += ["### Slices, Offline, s a slice (median)", offline] if offline else []
    for number, whole in enumerate(machine.of("end_to_end"), 1):
        preprocessing = whole.scenario.get("preprocessing") or whole.scenario["level"]
        parts += [
            f"### End to end, preprocessing `{preprocessing}`: where each second goes (means)"
        ]
        parts += [end_to_end_table(whole), f"![Stages of a scan]({slug}_stages_{number}.png)"]
        against = registration_table(whole)
        parts += ["### Registration against the network (medians)", against] if against else []
    if machine.of("memory"):
        parts += ["### Memory, GB", memory_table(machine)]
    if machine.of("load"):
        parts += ["### Open-loop load, s", load_table(machine)]
        parts += [f"![Latency over rate]({slug}_load.png)"]
    if machine.of("overhead"):
        parts += ["### The service against the library in process (medians)"]
        parts += [overhead_table(machine)]
    if machine.of("soak"):
        parts += ["### Many clients for a long time", soak_table(machine)]
    if machine.of("faults"):
        parts += ["### Processes killed under load", faults_table(machine)]
        parts += [fault_answers_table(machine)]
    if machine.of("jobs"):
        parts += ["### Jobs under a server that is killed with -9", jobs_table(machine)]
    return [*parts, *_remarks(machine)]


def _remarks(machine: Machine) -> list[str]:
    warnings = dict.fromkeys(
        f"- {done.kind}: {text}" for done in machine.runs for text in done.warnings
    )
    reasons: dict[str, dict[str, None]] = {}
    for done in machine.runs:
        for name, why in done.left_out.items():
            reasons.setdefault(why, {})[name] = None
    left_out = [f"- {', '.join(names)}: {why}" for why, names in reasons.items()]
    found: list[str] = []
    if warnings:
        found += ["### What speaks against these numbers", "\n".join(warnings)]
    if left_out:
        found += ["### Left out", "\n".join(left_out)]
    return found


def draw(machines: Sequence[Machine], folder: Path) -> None:
    """Write the figures that the report shows."""
    for machine in machines:
        slug = _slug(machine)
        if machine.of("latency"):
            draw_latency(machine, folder / f"{slug}_latency.png")
        for number, whole in enumerate(machine.of("end_to_end"), 1):
            draw_stages(whole, folder / f"{slug}_stages_{number}.png")
        if machine.of("load"):
            draw_load(machine, folder / f"{slug}_load.png")


def _slug(machine: Machine) -> str:
    return re.sub(r"[^a-z0-9]+", "_", machine.name.lower()).strip("_")


def readme_text(machines: Sequence[Machine]) -> str:
    """What stands between README's markers."""
    measured = "; ".join(f"{m.name}, {m.threads}, {m.dates}" for m in machines)
    return (
        "Prediction time in seconds, mean ± SD, as in report A's table 4.3:\n\n"
        f"{prediction_table(machines)}\n\n"
        f"Measured on {measured}. Backends, batches, memory and load: "
        "[benchmarks/results/report.md](benchmarks/results/report.md).\n"
    )


def with_readme_text(
    document: str, text: str, markers: tuple[str, str] = MARKERS, subject: str = "README"
) -> str:
    """The document with a text between its markers; `subject` is what an error calls it.

    Raises
    ------
    ConfigError
        It has not each marker once, in order.
    """
    begin, end = markers
    before, opened, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed or begin in rest or end in before + after:
        raise ConfigError(
            subject=subject,
            expected=f"{begin} and {end}, each once, in this order",
            found="other markers",
            remedy="Put them where the table is to stand.",
        )
    return f"{before}{begin}\n{text}{end}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("runs", type=Path, nargs="*", help="default: all in OUTPUT")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="folder")
    parser.add_argument("--readme", type=Path, help="put the table into this file too")
    args = parser.parse_args(argv)
    runs = [Run.read(path) for path in args.runs] if args.runs else read_runs(args.output)
    machines = by_machine(runs)
    if args.readme:
        document = with_readme_text(args.readme.read_text(), readme_text(machines))
        write_atomically(args.readme, document.encode())
    args.output.mkdir(parents=True, exist_ok=True)
    draw(machines, args.output)
    write_atomically(args.output / "report.md", markdown(machines).encode())
    return 0
