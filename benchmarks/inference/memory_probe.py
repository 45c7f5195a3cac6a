"""Run one candidate in this process and print its memory (VmRSS, VmHWM) as one line of JSON.

`ru_maxrss` would start at the peak of `benchmarks.inference.memory`, the parent process.
"""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.inference.candidates import Candidate
from neurobento.backends import BACKENDS
from neurobento.command import run
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import read_scan
from neurobento.parcellation.parcellator import Parcellator
from neurobento.preprocessing import PREPROCESSINGS
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import find_model

__all__ = ["main", "memory_bytes"]

CALLS = 2
"""Inferences: the first allocates, the second shows whether memory is reused."""


def memory_bytes(field: str) -> int:
    """Return `VmRSS` (now) or `VmHWM` (peak) of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"expected the field {field} in /proc/self/status")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference.memory_probe")
    for name in ("model", "backend", "precision", "device"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--models-folder", type=Path)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--scan", type=Path, help="a raw scan, for the whole path to its regions")
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="full")
    args = parser.parse_args(argv)
    limit_threads(args.threads)
    model = find_model(args.model, args.models_folder)
    if BACKENDS[args.backend].is_installed():
        importlib.import_module(BACKENDS[args.backend].package)
    images = np.zeros((args.batch, 1, *NETWORK_SHAPE), np.float32)
    baseline = memory_bytes("VmRSS")
    backend = Candidate(model, args.backend, args.precision).open(args.threads, args.device)
    loaded = memory_bytes("VmRSS")
    for _ in range(CALLS):
        if args.scan:
            Parcellator(backend).parcellate(read_scan(args.scan), args.preprocessing)
        else:
            backend.infer(images)
    figures = {
        "host_baseline_bytes": baseline,
        "host_loaded_bytes": loaded,
        "host_peak_bytes": memory_bytes("VmHWM"),
    }
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.memory_probe"))
