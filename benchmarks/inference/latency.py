"""Measure the time per scan, in the network alone or from its file to its regions.

    python -m benchmarks.inference.latency IMAGE -o network.json --batches 1 2 4 8
    python -m benchmarks.inference.latency --slice IMAGE -o slice.json --batches 1 8 32
    python -m benchmarks.inference.latency --end-to-end SCAN -o end_to_end.json

Scenarios are MLPerf's: SingleStream (one image at a time) and Offline (batches, per scan). All
candidates stay loaded and run in the same rounds, with PyTorch fp32 eager as yardstick. A GPU's
copies both ways are included.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.inference.candidates import (
    REFERENCE,
    Candidate,
    add_choices,
    choose_candidates,
    open_all,
)
from benchmarks.inference.end_to_end import measure_end_to_end
from benchmarks.inference.rounds import (
    Call,
    add_round_options,
    measure_rounds,
    resumed_run,
    time_batch,
    warm_up,
)
from benchmarks.runs import Entry, Run, begin_run, summary
from neurobento.anomaly.fit import fit_slice
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.imaging.scan import read_scan
from neurobento.imaging.slices.reader import read_slice
from neurobento.preprocessing import PREPROCESSINGS, preprocess
from neurobento.preprocessing.threads import limit_threads

__all__ = ["entry_name", "main", "measure_network"]


def entry_name(candidate: Candidate, batch: int) -> str:
    """Return the candidate's name in a run, with the batch size unless it is 1."""
    return candidate.name + (f" batch {batch}" if batch > 1 else "")


def measure_network(args: argparse.Namespace) -> Run:
    """Measure SingleStream and Offline, network alone; `main` has the options."""
    image = _image(args)
    candidates = choose_candidates(args)
    fresh = begin_run(
        "slices" if args.slice else "latency",
        {
            "name": "network alone",
            "scenarios": {"1": "SingleStream", "2 and more": "Offline"},
            "warm_up_calls": args.warm_up,
            "turn_s": args.turn,
            "image_sha256": file_sha256(args.slice or args.image),
            **{key: getattr(args, key) for key in ("threads", "device", "batches")},
        },
        {c.model.spec.name: c.model.spec.onnx_sha256 for c in candidates},
        None if args.resume else args.output,
    )
    backends, left_out = open_all(candidates, args.threads, args.device)
    entries: dict[str, Entry] = {}
    calls: dict[str, Call] = {}
    for candidate, backend in backends:
        for batch in args.batches:
            name, images = entry_name(candidate, batch), np.repeat(image, batch, axis=0)
            entries[name] = Entry({**candidate.facts(), "batch": batch, **backend.details})
            calls[name] = functools.partial(time_batch, backend.run, images)
    ready, failed = warm_up(calls, args.warm_up)
    fresh = dataclasses.replace(
        fresh, entries={name: entries[name] for name in ready}, left_out={**left_out, **failed}
    )
    begun = resumed_run(fresh, args.output) if args.resume else fresh
    return measure_rounds(
        begun, ready, args.rounds, args.output, least_s=args.turn, minutes=args.minutes
    )


def _image(args: argparse.Namespace) -> NDArray[np.float32]:
    """Return the networks' input: (1, 1, 91, 122, 123) for a scan, (1, 1, 128, 128) for a slice."""
    if args.slice:
        return fit_slice(read_slice(args.slice)).image[None, None]
    return np.array(preprocess(read_scan(args.image), args.preprocessing).image)[None, None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inference.latency")
    parser.add_argument(
        "image", type=Path, nargs="?", help="NAME_image.nii.gz of training.parcellation.label"
    )
    parser.add_argument("--slice", type=Path, metavar="IMAGE", help="a slice, for anomaly models")
    parser.add_argument("--end-to-end", type=Path, metavar="SCAN", help="a raw scan instead")
    parser.add_argument(
        "--preprocessing",
        "--level",
        choices=PREPROCESSINGS,
        help="preprocessing: none of IMAGE, full of SCAN",
    )
    parser.add_argument(
        "--registration", action="store_true", help="measure registration of the atlas too"
    )
    parser.add_argument(
        "--deepbet", action="store_true", help="measure the first model behind deepbet's mask too"
    )
    parser.add_argument("--atlas", type=Path, help="its folder; default: Debian's mricron-data")
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument(
        "--turn", type=float, default=3.0, help="least seconds per candidate in a round"
    )
    add_choices(parser)
    add_round_options(parser, rounds=7)
    args = parser.parse_args(argv)
    given = [each for each in (args.image, args.slice, args.end_to_end) if each is not None]
    if len(given) != 1:
        raise ConfigError(
            subject="benchmarks.inference.latency",
            expected="an image on the network grid, --slice with one, or --end-to-end with a scan",
            found=f"{len(given)} of these",
            remedy="Give one of them.",
        )
    args.task = "anomaly" if args.slice else "parcellation"
    args.preprocessing = args.preprocessing or ("full" if args.end_to_end else "none")
    limit_threads(args.threads)
    done = measure_end_to_end(args) if args.end_to_end else measure_network(args)
    _print_summary(done)
    return 0


def _print_summary(done: Run) -> None:
    quantity = "total_s" if done.kind == "end_to_end" else "seconds"
    of = "slice" if done.kind == "slices" else "scan"
    medians = {
        name: summary(entry.samples[quantity])["p50"] / entry.facts.get("batch", 1)
        for name, entry in done.entries.items()
    }
    for name, median in medians.items():
        ratio = f", {medians[REFERENCE] / median:.2f} x" if REFERENCE in medians else ""
        print(f"{name:40} median {median:.4f} s a {of}{ratio}")


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.inference.latency"))
