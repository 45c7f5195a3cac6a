"""Measure the peak memory of each candidate, on the host and on an NVIDIA GPU.

    python -m benchmarks.inference.memory -o benchmarks/results/memory.json --batches 1 8

With `--scan SCAN` they parcellate a raw scan, from its file to its regions.
Each candidate runs in its own process, beside one with its libraries and no model. The GPU's figure
is the rise of the whole device's memory, so nothing else may use the GPU meanwhile.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from benchmarks.inference.candidates import Candidate, add_choices, choose_candidates
from benchmarks.inference.latency import entry_name
from benchmarks.machine import gpu_memory_used_bytes
from benchmarks.runs import Entry, Run, begin_run
from neurobento.command import run
from neurobento.files import file_sha256
from neurobento.preprocessing import PREPROCESSINGS

__all__ = ["GpuMemoryWatch", "main", "probe_memory"]

POLL_S = 0.2
"""Allocators keep their memory, so no peak passes between two polls."""

LIMIT_S = 900.0

ROOT = Path(__file__).resolve().parents[2]


class GpuMemoryWatch:
    """Context manager that records the peak rise of the first NVIDIA GPU's memory."""

    def __init__(self) -> None:
        # above what was in use at the beginning; None without a GPU
        self.rise_bytes: int | None = None
        self._before = gpu_memory_used_bytes()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> GpuMemoryWatch:
        """Start polling."""
        if self._before is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop polling."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _watch(self) -> None:
        peak = before = self._before or 0
        while not self._over.wait(POLL_S):
            peak = max(peak, gpu_memory_used_bytes() or 0)
            self.rise_bytes = peak - before


def probe_memory(
    candidate: Candidate, batch: int, args: argparse.Namespace
) -> dict[str, float] | str:
    """Return the figures of one candidate in bytes, or the reason why there are none."""
    options = {
        "--model": candidate.model.spec.name,
        "--backend": candidate.backend,
        "--precision": candidate.precision,
        "--device": args.device,
        "--models-folder": candidate.model.folder.parent,
        "--batch": batch,
        "--threads": args.threads,
    }
    if args.scan:
        options |= {"--scan": args.scan, "--preprocessing": args.preprocessing}
    command = [sys.executable, "-m", "benchmarks.inference.memory_probe"]
    command += [str(word) for option in options.items() for word in option]
    try:
        with GpuMemoryWatch() as device:
            done = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
    except subprocess.TimeoutExpired:
        return f"no answer within {LIMIT_S:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:300]
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if device.rise_bytes is not None:
        figures["device_peak_bytes"] = device.rise_bytes
    return figures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference.memory")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scan", type=Path, help="measure the whole path of this raw scan")
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="full")
    add_choices(parser)
    args = parser.parse_args(argv)
    candidates = choose_candidates(args)
    scenario = {key: getattr(args, key) for key in ("threads", "device", "batches", "rounds")}
    if args.scan:
        scenario |= {"preprocessing": args.preprocessing, "scan_sha256": file_sha256(args.scan)}
    models = {c.model.spec.name: c.model.spec.onnx_sha256 for c in candidates}
    done = begin_run("memory", scenario, models, args.output)
    for candidate in candidates:
        for batch in args.batches:
            done = _with_candidate(done, candidate, batch, args)
            done.write(args.output)
    return 0


def _with_candidate(done: Run, candidate: Candidate, batch: int, args: argparse.Namespace) -> Run:
    name = entry_name(candidate, batch)
    samples: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        figures = probe_memory(candidate, batch, args)
        if isinstance(figures, str):
            print(f"left out: {name}: {figures}", flush=True)
            return dataclasses.replace(done, left_out={**done.left_out, name: figures})
        for quantity, value in figures.items():
            samples.setdefault(quantity, []).append(value)
    print(f"{name:40} peak {max(samples['host_peak_bytes']) / 1e9:.2f} GB on the host", flush=True)
    entry = Entry({**candidate.facts(), "batch": batch}, samples)
    return dataclasses.replace(done, entries={**done.entries, name: entry})


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.memory"))
