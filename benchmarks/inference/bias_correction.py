"""Compare our bias correction (step 2) with ANTs' N4: seconds, and agreement of the results.

    python -m benchmarks.inference.bias_correction SCANS... -o bias_correction.json

The methods take turns: `ants_defaults` (without a mask), `ants_mask` and `ours`. Each number of
threads gets its own process, because ITK reads it once. Skull stripping is not timed.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import machine_facts
from neurobento.command import run
from neurobento.files import write_atomically
from neurobento.imaging.scan import Scan, read_scan, scan_name
from neurobento.preprocessing.ants_image import to_ants
from neurobento.preprocessing.bias_correction import SHRINK_FACTOR, correct_bias
from neurobento.preprocessing.brain import BRAIN_RANGE_ML
from neurobento.preprocessing.pipeline import SKULL_STRIPPING_LIMIT_S
from neurobento.preprocessing.skull_stripping import extract_brain
from neurobento.preprocessing.threads import limit_threads

__all__ = ["METHODS", "agreement", "ants_defaults", "ants_mask", "main", "measure"]

BIAS_CORRECTION_FORMAT = 1
"""Version of the file that `main` writes."""

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Method = Callable[[Image, Mask, NDArray[np.float64]], Image]


def ants_defaults(array: Image, brain: Mask, voxel_to_ras: NDArray[np.float64]) -> Image:
    """Run ANTsPy's N4 on the image alone, so the background counts too."""
    import ants

    corrected = ants.n4_bias_field_correction(to_ants(array, voxel_to_ras)).numpy()
    return np.where(brain, corrected, 0).astype(np.float32)


def ants_mask(array: Image, brain: Mask, voxel_to_ras: NDArray[np.float64]) -> Image:
    """Run ANTsPy's N4 with the brain as its mask, the reference of `correct_bias`."""
    import ants

    corrected = ants.n4_bias_field_correction(
        to_ants(array, voxel_to_ras), mask=to_ants(brain, voxel_to_ras), shrink_factor=SHRINK_FACTOR
    ).numpy()
    return np.where(brain & np.isfinite(corrected), corrected, 0).astype(np.float32)


METHODS: dict[str, Method] = {
    "ants_defaults": ants_defaults,
    "ants_mask": ants_mask,
    "ours": correct_bias,
}


def agreement(ours: Image, reference: Image, brain: Mask) -> dict[str, float]:
    """Return correlation and relative differences in the mask, without a common factor."""
    known = brain & (reference > 0)
    a, b = ours[known].astype(np.float64), reference[known].astype(np.float64)
    ratio = a / b
    difference = np.abs(ratio - 1)
    shape = np.abs(ratio / np.median(ratio) - 1)
    return {
        "correlation": round(float(np.corrcoef(a, b)[0, 1]), 8),
        "mean_relative_difference": float(f"{difference.mean():.3g}"),
        "max_relative_difference": float(f"{difference.max():.3g}"),
        "max_relative_difference_without_common_factor": float(f"{shape.max():.3g}"),
    }


def measure(path: Path, brain: Mask, rounds: int) -> dict[str, Any]:
    """Return the seconds of every method and round, and our agreement with `ants_mask`."""
    import ants  # noqa: F401  # its import is not timed

    scan = read_scan(path)
    array = np.where(brain, scan.array, 0)
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    brains: dict[str, Image] = {}
    for _ in range(rounds):
        for name, correct in METHODS.items():
            start = time.perf_counter()
            brains[name] = correct(array, brain, scan.voxel_to_ras)
            seconds[name].append(round(time.perf_counter() - start, 4))
    ours = float(np.median(seconds["ours"]))
    return {
        "seconds": seconds,
        "times_faster_than": {
            name: round(float(np.median(samples)) / ours, 1)
            for name, samples in seconds.items()
            if name != "ours"
        },
        "agreement_with_ants_mask": agreement(brains["ours"], brains["ants_mask"], brain),
    }


def _brain(scan: Scan) -> Mask:
    positive = scan.array > 0
    volume_ml = float(positive.sum()) * float(np.prod(scan.voxel_sizes_mm)) / 1000
    low, high = BRAIN_RANGE_ML
    if low <= volume_ml <= high:
        return positive
    return extract_brain(scan.array, scan.voxel_to_ras, time_limit_s=SKULL_STRIPPING_LIMIT_S)


def _measure_in_child(path: Path, brain: Mask, rounds: int, threads: int) -> dict[str, Any]:
    # The child inherits the environment; numpy and ITK read it when they start.
    limit_threads(threads)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, path, brain, rounds).result()


def _measure_scan(path: Path, rounds: int, threads: Sequence[int]) -> dict[str, Any]:
    scan = read_scan(path)
    brain = _brain(scan)
    result: dict[str, Any] = {
        "shape": scan.shape,
        "voxel_sizes_mm": [round(size, 3) for size in scan.voxel_sizes_mm],
        "brain_voxels": int(brain.sum()),
    }
    for count in threads:
        result[f"threads_{count}"] = _measure_in_child(path, brain, rounds, count)
        print(f"{scan_name(path)}, {count} threads: {result[f'threads_{count}']}", flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference.bias_correction")
    parser.add_argument("scans", type=Path, nargs="+", metavar="SCANS")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, nargs="+", default=[1, 2], help="default: 1, and the service's 2"
    )
    args = parser.parse_args(argv)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    scans: dict[str, Any] = {}
    result = {
        "format": BIAS_CORRECTION_FORMAT,
        "rounds": args.rounds,
        "environment": machine_facts(),
        "scans": scans,
    }
    for path in args.scans:
        scans[scan_name(path)] = _measure_scan(path, args.rounds, args.threads)
        # Written after each scan, so that an interrupted run keeps its results.
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.bias_correction"))
