"""What a cohort costs as it grows, and what a killed worker costs it.

    python -m benchmarks.cohort -o benchmarks/results/cohort.json

Simulated: the scans are blocks of grey on the network grid (33 kB each, no two
alike) and the network is a graph that multiplies and rounds, so that a thousand
of them take minutes. The rest is what a real cohort goes through: the command
`neurobento cohort` in a process of its own, level `none`, Dask's LocalCluster,
five files, hashes and a record for every scan, both tables.

First cohorts of growing size, each done once; then the largest once more, in
which a worker gets SIGKILL when half of the scans are done; then the scheduler
alone, with items that do nothing. CPU seconds hold up beside other work, wall
clock does not; those of "all" are of the command and of every process below it.
"""

from __future__ import annotations

import argparse
import csv
import functools
import gzip
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

import nibabel as nib
import numpy as np

from benchmarks.machine import environment, load_warnings
from neurobento.cohort.cluster import map_on_cluster, open_cluster, scratch_folder
from neurobento.cohort.resume import matching_record
from neurobento.files import file_sha256, write_atomically
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.spec import ModelSpec

__all__ = ["differing", "exponent", "main", "write_model", "write_scan"]

COHORT_RUN_FORMAT = 1
"""Version of the result file."""

SIZES = (125, 250, 500, 1000)
MODEL = "rounding"
WITH_SECONDS = ("_run.json", "_cohort.json", "cohort.tsv")
"""Files that say how long something took, so that no two runs write the same."""

STEP_S = 0.2
"""Between two looks at how far a run is."""

LEAST_FOR_A_LINE, STRAIGHT = 100, 0.1
"""Scans in the smallest cohort that tells of growth, and how far its exponent may be from 1."""


def write_scan(path: Path, seed: int) -> None:
    """Write a tiny scan: blocks of 8 x 8 x 8 voxels, intensity k/116 for label k."""
    blocks = np.random.default_rng(seed).integers(0, CLASS_COUNT, (12, 16, 16), dtype=np.uint8)
    x, y, z = NETWORK_SHAPE
    image = nib.Nifti1Image(
        blocks.repeat(8, 0).repeat(8, 1).repeat(8, 2)[:x, :y, :z], np.diag([1.5, 1.5, 1.5, 1.0])
    )
    image.header.set_slope_inter(1 / (CLASS_COUNT - 1), 0)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def write_model(folder: Path) -> None:
    """Write the model that gives label k for intensity k/116 into a folder of its name."""
    import onnx
    from onnx import TensorProto, helper

    folder.mkdir(parents=True)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, *NETWORK_SHAPE])
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", *NETWORK_SHAPE])
    nodes = [
        helper.make_node("Squeeze", ["image", "axis"], ["flat"]),
        helper.make_node("Mul", ["flat", "classes"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["whole"]),
        helper.make_node("Cast", ["whole"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("classes", TensorProto.FLOAT, [], [float(CLASS_COUNT - 1)]),
    ]
    graph = helper.make_graph(nodes, folder.name, [image], [labels], constants)
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    sha256 = file_sha256(folder / "model.onnx")
    spec = ModelSpec(folder.name, "0.0.1", folder.name, sha256, "0" * 64, 18)
    spec.write(folder / "spec.json")


class _Bench:
    """A folder with a model and scans, in which cohorts are run."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.folder, self.workers = folder, workers
        write_model(folder / "models" / MODEL)

    def cohort(
        self, size: int, name: str, kill: Callable[[int, Path], None] | None = None
    ) -> dict[str, Any]:
        """What a cohort of a size cost; its outputs lie in the folder of that name."""
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
            "records_that_hold": _holding(output),
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
        """A folder of the first scans."""
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


def _holding(output: Path) -> int:
    """Scans whose record says what lies beside it."""
    return sum(matching_record(path, {}) is not None for path in output.rglob("*_cohort.json"))


class _Killer:
    """Kills one worker with SIGKILL once some scans are done."""

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


def differing(one: Path, other: Path) -> list[str]:
    """Files, but for `WITH_SECONDS`, that are not in both folders, or not byte by byte the same."""
    hashes = [
        {
            str(path.relative_to(folder)): file_sha256(path)
            for path in folder.rglob("*")
            if path.is_file() and not path.name.endswith(WITH_SECONDS)
        }
        for folder in (one, other)
    ]
    return sorted(dict(hashes[0].items() ^ hashes[1].items()))


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log cost over log size, by least squares; 1 where cost is linear.

    >>> exponent([1, 2, 4], [3.0, 6.0, 12.0])
    1.0
    """
    return round(float(np.polyfit(np.log(sizes), np.log(costs), 1)[0]), 4)


def _growth(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How cost grows over the sizes: exponents, and the line through the command's CPU seconds."""
    if len(runs) < 2:
        return {}
    sizes = [run["scans"] for run in runs]
    whole = [run["cpu_s"]["all"] for run in runs]
    per_scan, start = np.polyfit(sizes, whole, 1)
    return {
        "exponent_of_scans_cpu_s": exponent(sizes, [run["cpu_s"]["scans"] for run in runs]),
        "exponent_of_all_cpu_s": exponent(sizes, whole),
        "line_of_all_cpu_s": {
            "start_s": round(float(start), 2),
            "per_scan_s": round(float(per_scan), 4),
        },
    }


def _killed(bench: _Bench, size: int) -> dict[str, Any]:
    """The largest cohort again, one worker killed; beside the run that was left alone."""
    killer = _Killer(size // 2)
    found = bench.cohort(size, "killed", killer)
    return {
        **found,
        "killed_after_scans": killer.killed_at,
        "begun_again": found["begun"] - size,
        "files_that_differ": len(differing(bench.folder / f"done-{size}", bench.folder / "killed")),
    }


def _nothing(item: int) -> int:
    return item


def _no_ops(items: int, workers: int, folder: Path) -> dict[str, Any]:
    """What the scheduler takes for items that do nothing, two files each included."""
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
    """Run the command; 1 where a scan was not finished or came out otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cohort")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="growing")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-ops", type=int, default=10_000)
    args = parser.parse_args(argv)
    machine = environment()
    result: dict[str, Any] = {
        "format": COHORT_RUN_FORMAT,
        "scenario": {
            "simulated": "blocks of grey on the network grid, a graph that rounds, level none",
            "cluster": f"LocalCluster, {args.workers} processes of one thread",
            "niceness": os.nice(0),
        },
        "environment": machine,
        "warnings": load_warnings(machine),
    }
    with tempfile.TemporaryDirectory(prefix="neurobento-cohort-") as folder:
        bench, runs = _Bench(Path(folder), args.workers), []

        def keep(name: str, found: Any) -> None:
            # part by part: a run that is ended keeps what it has
            result[name] = found
            write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
            print(f"{name}: {found}", flush=True)

        for size in args.sizes:
            runs.append(bench.cohort(size, f"done-{size}"))
            keep("sizes", runs)
            keep("growth", _growth(runs))
        keep("killed", _killed(bench, args.sizes[-1]))
        keep("no_ops", _no_ops(args.no_ops, args.workers, Path(folder, "nothing")))
    return 0 if _is_whole(result) else 1


def _is_whole(result: dict[str, Any]) -> bool:
    """Every scan done, the kill worth one scan at most, and the cost a line."""
    runs, killed = [*result["sizes"], result["killed"]], result["killed"]
    finished = all(r["done"] == r["records_that_hold"] == r["scans"] for r in runs)
    harmless = killed["files_that_differ"] == 0 and killed["begun_again"] <= 1
    # of a few scans starting up is most of the cost
    many = min(r["scans"] for r in result["sizes"]) >= LEAST_FOR_A_LINE
    exponent = result["growth"]["exponent_of_scans_cpu_s"]
    straight = not many or abs(exponent - 1) <= STRAIGHT
    return finished and harmless and killed["killed_after_scans"] is not None and straight
