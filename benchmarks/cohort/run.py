"""Measure the cost of a cohort as it grows, and of a killed worker.

    python -m benchmarks.cohort -o benchmarks/results/cohort.json

Simulated are the scans, blocks of grey on the network grid, and the network, a graph that
multiplies and rounds; so a thousand take minutes. All else is real: `neurobento cohort` in its own
process, Dask's LocalCluster, files, hashes, records and tables. First come cohorts of growing size;
then the largest again, with a worker killed halfway; then the scheduler alone.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cohort.simulation import write_model, write_scan
from benchmarks.machine import load_warnings, machine_facts
from neurobento.cohort.cluster import map_on_cluster, open_cluster, scratch_folder
from neurobento.cohort.resume import matching_record
from neurobento.files import file_sha256, write_atomically

__all__ = ["cost_exponent", "differing_files", "main"]

COHORT_RUN_FORMAT = 1
"""Version of the file that `main` writes."""

SIZES = (125, 250, 500, 1000)
MODEL = "rounding"
WITH_SECONDS = ("_run.json", "_cohort.json", "cohort.tsv")
"""Files that hold durations, so they differ between runs."""

STEP_S = 0.2
"""Between two looks at a run's progress."""

LEAST_FOR_A_LINE, STRAIGHT = 100, 0.1
"""Smallest cohort in which growth is judged, and how far its exponent may be from 1."""


class _CohortRunner:
    """A folder with a model and scans, where cohorts run."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        write_model(folder / "models" / MODEL)

    def cohort(
        self, size: int, name: str, kill: Callable[[int, Path], None] | None = None
    ) -> dict[str, Any]:
        """Run a cohort of `size` scans into the folder `name`; return its cost."""
        output = self.folder / name
        command = [sys.executable, "-m", "neurobento", "cohort", str(self._scans(size))]
        command += ["-o", str(output), "--models", str(self.folder / "models"), "--model", MODEL]
        command += ["--preprocessing", "none", "--workers", str(self.workers)]
        start = time.perf_counter()
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        if kill is not None:
            kill(process.pid, output)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        rows = _rows(output)
        of_scans = [float(row["cpu_seconds"]) for row in rows]
        return {
            "scans": size,
            "exit_status": process.returncode,
            "done": sum(row["status"] == "done" for row in rows),
            "records_that_hold": _matching_records(output),
            "begun": sum(int(row["attempts"]) for row in rows),
            "wall_s": round(wall_s, 2),
            "cpu_s": {
                "all": round(used.ru_utime + used.ru_stime, 2),
                "scans": round(sum(of_scans), 2),
                "scan_median": round(float(np.median(of_scans)), 3),
                "scan_p95": round(float(np.percentile(of_scans, 95)), 3),
            },
        }

    def _scans(self, size: int) -> Path:
        """Return a folder of the first `size` scans."""
        scans = self.folder / f"scans-{size}"
        scans.mkdir(exist_ok=True)
        for number in range(size):
            path = scans / f"sub-{number:04d}_T1w.nii.gz"
            if not path.exists():
                write_scan(path, number)
        return scans


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "cohort.tsv").open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _matching_records(output: Path) -> int:
    """Count the scans whose record matches the files beside it."""
    return sum(matching_record(path, {}) is not None for path in output.rglob("*_cohort.json"))


class _WorkerKiller:
    """Callable that kills one worker with SIGKILL once some scans are done."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.killed_at: int | None = None

    def __call__(self, pid: int, output: Path) -> None:
        import psutil

        command = psutil.Process(pid)
        while command.status() != psutil.STATUS_ZOMBIE:
            done = sum(1 for _ in output.glob("*/*_cohort.json"))
            workers = [c for c in command.children() if "spawn_main" in " ".join(c.cmdline())]
            if done >= self._after and workers:
                workers[0].send_signal(signal.SIGKILL)
                self.killed_at = done
                return
            time.sleep(STEP_S)


def differing_files(one: Path, other: Path) -> list[str]:
    """Return the files, except `WITH_SECONDS`, that are not byte for byte in both folders."""
    hashes = [
        {
            str(path.relative_to(folder)): file_sha256(path)
            for path in folder.rglob("*")
            if path.is_file() and not path.name.endswith(WITH_SECONDS)
        }
        for folder in (one, other)
    ]
    return sorted(dict(hashes[0].items() ^ hashes[1].items()))


def cost_exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Return the slope of log cost over log size, by least squares; 1 if cost is linear.

    >>> cost_exponent([1, 2, 4], [3.0, 6.0, 12.0])
    1.0
    """
    return round(float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]), 4)


def _growth(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the exponents of cost over size, and a line fitted to the CPU seconds."""
    if len(runs) < 2:
        return {}
    sizes = [run["scans"] for run in runs]
    whole = [run["cpu_s"]["all"] for run in runs]
    per_scan, start = np.polyfit(sizes, whole, 1)
    return {
        "exponent_of_scans_cpu_s": cost_exponent(sizes, [run["cpu_s"]["scans"] for run in runs]),
        "exponent_of_all_cpu_s": cost_exponent(sizes, whole),
        "line_of_all_cpu_s": {
            "start_s": round(float(start), 2),
            "per_scan_s": round(float(per_scan), 4),
        },
    }


def _run_with_kill(runner: _CohortRunner, size: int) -> dict[str, Any]:
    """Run the largest cohort again with a killed worker; compare with the undisturbed run."""
    killer = _WorkerKiller(size // 2)
    cost = runner.cohort(size, "killed", killer)
    return {
        **cost,
        "killed_after_scans": killer.killed_at,
        "begun_again": cost["begun"] - size,
        "files_that_differ": len(
            differing_files(runner.folder / f"done-{size}", runner.folder / "killed")
        ),
    }


def _nothing(item: int) -> int:
    return item


def _no_ops(items: int, workers: int, folder: Path) -> dict[str, Any]:
    """Return the scheduler's cost for items that do nothing, with two files each."""
    before, start = _cpu_s(), time.perf_counter()
    with scratch_folder(folder) as marks, open_cluster(workers) as client:
        opened = time.perf_counter()
        done = sum(
            1 for _ in map_on_cluster(client, functools.partial(_nothing), range(items), marks)
        )
        wall_s = time.perf_counter() - opened
    cpu_s = _cpu_s() - before
    return {
        "items": items,
        "done": done,
        "start_s": round(opened - start, 2),
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "cpu_ms_per_item": round(1000 * cpu_s / items, 3),
    }


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if a scan is missing, differs, or cost too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="growing")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-ops", type=int, default=10_000)
    args = parser.parse_args(argv)
    machine = machine_facts()
    result: dict[str, Any] = {
        "format": COHORT_RUN_FORMAT,
        "scenario": {
            "simulated": "grey blocks on the network grid, a graph that rounds, preprocessing none",
            "cluster": f"LocalCluster, {args.workers} processes of one thread",
            "niceness": os.nice(0),
        },
        "environment": machine,
        "warnings": load_warnings(machine),
    }
    with tempfile.TemporaryDirectory(prefix="neurobento-cohort-") as folder:
        runner, runs = _CohortRunner(Path(folder), args.workers), []

        def keep(name: str, part: Any) -> None:
            # Written after each part, so that an interrupted run keeps its results.
            result[name] = part
            write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
            print(f"{name}: {part}", flush=True)

        for size in args.sizes:
            runs.append(runner.cohort(size, f"done-{size}"))
            keep("sizes", runs)
            keep("growth", _growth(runs))
        keep("killed", _run_with_kill(runner, args.sizes[-1]))
        keep("no_ops", _no_ops(args.no_ops, args.workers, Path(folder, "nothing")))
    return 0 if _passes(result) else 1


def _passes(result: dict[str, Any]) -> bool:
    """Return whether all scans are done, a kill cost at most one scan, and cost is linear."""
    runs, killed = [*result["sizes"], result["killed"]], result["killed"]
    finished = all(r["done"] == r["records_that_hold"] == r["scans"] for r in runs)
    harmless = killed["files_that_differ"] == 0 and killed["begun_again"] <= 1
    # With few scans, starting up dominates the cost.
    many = min(r["scans"] for r in result["sizes"]) >= LEAST_FOR_A_LINE
    exponent = result["growth"]["exponent_of_scans_cpu_s"]
    straight = not many or abs(exponent - 1) <= STRAIGHT
    return finished and harmless and killed["killed_after_scans"] is not None and straight
