"""Write the results of the simulated cohort into docs/scaling.md.

python -m benchmarks.cohort.document benchmarks/results/cohort.json --document docs/scaling.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import replace_between
from neurobento.command import run
from neurobento.files import write_atomically

__all__ = ["MARKERS", "cohort_text", "main"]

MARKERS = ("<!-- cohort -->", "<!-- /cohort -->")


def cohort_text(result: dict[str, Any]) -> str:
    """Return the table of sizes, and sentences on growth, the killed worker and empty items."""
    parts = [
        _table(result),
        _growth(result),
        _kill_text(result),
        _no_ops(result),
        _measurement_text(result),
    ]
    return "\n\n".join(parts) + "\n"


def _table(result: dict[str, Any]) -> str:
    lines = [
        "| scans | finished | begun | CPU s, all processes | CPU s a scan | wall clock, s |",
        "|---|---|---|---|---|---|",
    ]
    named = [(f"{cost['scans']:,}", cost) for cost in result["sizes"]]
    named.append((f"{result['killed']['scans']:,}, a worker killed", result["killed"]))
    for name, cost in named:
        cpu_s = cost["cpu_s"]["all"]
        cells = [name, f"{cost['done']:,}", f"{cost['begun']:,}", f"{cpu_s:,.0f}"]
        cells += [f"{cpu_s / cost['scans']:.3f}", f"{cost['wall_s']:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _growth(result: dict[str, Any]) -> str:
    growth = result["growth"]
    line = growth["line_of_all_cpu_s"]
    # Noise may turn a tiny start-up cost negative.
    start = f", on top of {line['start_s']:.0f} for starting" if line["start_s"] > 1 else ""
    return (
        f"Cost grows as the number of scans to the power of "
        f"{growth['exponent_of_scans_cpu_s']:.2f} (CPU seconds of the scans themselves; "
        f"{growth['exponent_of_all_cpu_s']:.2f} with starting up): a line of "
        f"{line['per_scan_s']:.3f} CPU seconds a scan{start}."
    )


def _kill_text(result: dict[str, Any]) -> str:
    killed = result["killed"]
    same = killed["files_that_differ"] == 0
    return (
        f"One of the workers got SIGKILL after {killed['killed_after_scans']:,} scans: "
        f"{killed['done']:,} of {killed['scans']:,} were finished, {killed['begun_again']} begun "
        f"a second time, and {'no' if same else killed['files_that_differ']} files differ from "
        "those without the kill (except those that hold seconds)."
    )


def _no_ops(result: dict[str, Any]) -> str:
    no_ops = result["no_ops"]
    return (
        f"{no_ops['items']:,} items that do nothing took {no_ops['cpu_s']:.0f} CPU seconds in "
        f"all, {no_ops['cpu_ms_per_item']:.1f} ms each: the cost of Dask and of our bookkeeping."
    )


def _measurement_text(result: dict[str, Any]) -> str:
    machine, warnings = result["environment"], result["warnings"]
    busy = "; ".join(warnings) or "nothing else was running"
    return (
        f"Measured {machine['date'][:10]} on {machine['cpu']}, {machine['cores']} cores, "
        f"niceness {result['scenario']['niceness']}; {busy}."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort.document")
    parser.add_argument("result", type=Path, help="written by benchmarks.cohort")
    parser.add_argument("--document", type=Path, required=True, help="with the markers")
    args = parser.parse_args(argv)
    text = cohort_text(json.loads(args.result.read_text()))
    document = replace_between(MARKERS, args.document.read_text(), text, str(args.document))
    write_atomically(args.document, document.encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.cohort.document"))
