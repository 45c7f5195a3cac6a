"""The simulated cohort as docs/scaling.md tells it, from the file that benchmarks.cohort wrote.

python -m benchmarks.cohort.report benchmarks/results/cohort.json --document docs/scaling.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report.run import with_readme_text
from neurobento.command import run
from neurobento.files import write_atomically

__all__ = ["MARKERS", "cohort_text", "main"]

MARKERS = ("<!-- cohort -->", "<!-- /cohort -->")


def cohort_text(result: dict[str, Any]) -> str:
    """The table of sizes, and what growth, the killed worker and the empty items came to."""
    parts = ["\n".join(_table(result)), _growth(result), _killed(result), _no_ops(result)]
    return "\n\n".join([*parts, _measured(result)]) + "\n"


def _table(result: dict[str, Any]) -> list[str]:
    lines = [
        "| scans | finished | begun | CPU s, all processes | CPU s a scan | wall clock, s |",
        "|---|---|---|---|---|---|",
    ]
    named = [(f"{r['scans']:,}", r) for r in result["sizes"]]
    named.append((f"{result['killed']['scans']:,}, a worker killed", result["killed"]))
    for name, found in named:
        cells = (name, f"{found['done']:,}", f"{found['begun']:,}", f"{found['cpu_s']['all']:,.0f}")
        each = f"{found['cpu_s']['all'] / found['scans']:.3f}"
        lines.append(f"| {' | '.join(cells)} | {each} | {found['wall_s']:,.0f} |")
    return lines


def _growth(result: dict[str, Any]) -> str:
    growth = result["growth"]
    line = growth["line_of_all_cpu_s"]
    # less than nothing is what noise leaves of next to nothing
    start = f", on top of {line['start_s']:.0f} for starting" if line["start_s"] > 1 else ""
    return (
        f"Cost grows as the number of scans to the power of "
        f"{growth['exponent_of_scans_cpu_s']:.2f} (CPU seconds of the scans themselves; "
        f"{growth['exponent_of_all_cpu_s']:.2f} with starting up): a line of "
        f"{line['per_scan_s']:.3f} CPU seconds a scan{start}."
    )


def _killed(result: dict[str, Any]) -> str:
    killed = result["killed"]
    same = killed["files_that_differ"] == 0
    return (
        f"One of the workers got SIGKILL after {killed['killed_after_scans']:,} scans: "
        f"{killed['done']:,} of {killed['scans']:,} were finished, {killed['begun_again']} begun "
        f"a second time, and {'no' if same else killed['files_that_differ']} files differ from "
        "those without the kill (but for those that hold seconds)."
    )


def _no_ops(result: dict[str, Any]) -> str:
    nothing = result["no_ops"]
    return (
        f"{nothing['items']:,} items that do nothing took {nothing['cpu_s']:.0f} CPU seconds in "
        f"all, {nothing['cpu_ms_per_item']:.1f} ms each: what Dask and this bookkeeping add."
    )


def _measured(result: dict[str, Any]) -> str:
    machine, warnings = result["environment"], result["warnings"]
    busy = "; ".join(warnings) or "nothing else was at work"
    return (
        f"Measured {machine['date'][:10]} on {machine['cpu']}, {machine['cores']} cores, "
        f"niceness {result['scenario']['niceness']}; {busy}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort.report")
    parser.add_argument("result", type=Path, help="of benchmarks.cohort")
    parser.add_argument("--document", type=Path, required=True, help="with the markers")
    args = parser.parse_args(argv)
    text = cohort_text(json.loads(args.result.read_text()))
    document = with_readme_text(args.document.read_text(), text, MARKERS, str(args.document))
    write_atomically(args.document, document.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.cohort.report"))
