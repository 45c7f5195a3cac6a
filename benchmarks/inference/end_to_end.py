"""Time every stage from a scan's file to its regions."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from benchmarks.inference.candidates import Candidate, choose_candidates, open_all
from benchmarks.inference.rounds import Call, measure_rounds, resumed_run, time_batch, warm_up
from benchmarks.peers.atlas_registration import find_atlas, parcellate_by_registration
from benchmarks.runs import Entry, Run, begin_run
from neurobento.backends import Backend
from neurobento.files import file_sha256
from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.imaging.scan import Scan, read_scan
from neurobento.parcellation.parcellator import Parcellation, Parcellator
from neurobento.preprocessing import Preprocessing
from neurobento.preprocessing.deepbet_mask import deepbet_mask

__all__ = [
    "DEEPBET",
    "REGISTRATION",
    "measure_end_to_end",
    "stage_seconds",
]

REGISTRATION = "atlas registration"
"""The candidate that registers the atlas instead of running a network."""

DEEPBET = "behind deepbet"
"""After a candidate's name: deepbet cuts the brain out before."""

WARM_UP = "inferences on zeros; the libraries of preprocessing imported"


def stage_seconds(path: Path, parcellate: Callable[[Scan], Parcellation]) -> Mapping[str, float]:
    """Return the seconds of every stage of one scan, `read_s` first and `total_s` last."""
    start = time.perf_counter()
    scan = read_scan(path)
    read_s = time.perf_counter() - start
    parcellation = parcellate(scan)
    total_s = time.perf_counter() - start
    named = {f"{stage}_s": seconds for stage, seconds in parcellation.seconds.items()}
    return {"read_s": read_s, **named, "total_s": total_s}


def _parcellate_behind_deepbet(scan: Scan, parcellator: Parcellator) -> Parcellation:
    """Return the parcellation of a head whose brain deepbet cuts out."""
    start = time.perf_counter()
    brain = deepbet_mask(scan)
    seconds = {"skull_stripping": time.perf_counter() - start}
    stripped = Scan(np.where(brain, scan.array, 0), scan.space)
    done = parcellator.parcellate(stripped, "stripped")
    return dataclasses.replace(done, seconds={**seconds, **done.seconds})


def measure_end_to_end(args: argparse.Namespace) -> Run:
    """Measure a raw scan from file to regions; options as `benchmarks.inference.latency`."""
    # the yardstick of the network alone takes part only if it is named
    named = args.backends
    candidates = [c for c in choose_candidates(args) if not named or c.backend in named]
    atlas = find_atlas(args.atlas) if args.registration else None
    fresh = begin_run(
        "end_to_end",
        {
            "name": "end to end, SingleStream",
            "warm_up": f"{args.warm_up} {WARM_UP}",
            **{key: getattr(args, key) for key in ("threads", "device", "preprocessing")},
            "scan_sha256": file_sha256(args.end_to_end),
            "voxels": list(read_scan(args.end_to_end).shape),
        },
        {c.model.spec.name: c.model.spec.onnx_sha256 for c in candidates},
        None if args.resume else args.output,
    )
    backends, left_out = open_all(candidates, args.threads, args.device)
    ready, failed = _warm_up_all(backends, args.warm_up)
    preprocessing: Preprocessing = args.preprocessing
    entries: dict[str, Entry] = {}
    calls: dict[str, Call] = {}
    for candidate, backend in backends:
        if candidate.name not in ready:
            continue
        entries[candidate.name] = Entry({**candidate.facts(), **backend.details})
        calls[candidate.name] = _call(args.end_to_end, Parcellator(backend), preprocessing)
    if args.deepbet and calls:
        first = next(iter(calls))
        parcellator = Parcellator({c.name: backend for c, backend in backends}[first])
        name = f"{first} {DEEPBET}"
        entries[name] = Entry({**entries[first].facts, "mask": "deepbet"})
        calls[name] = _call_behind_deepbet(args.end_to_end, parcellator)
    if atlas:
        entries[REGISTRATION] = Entry({"method": "ANTs SyN, genericLabel"})
        calls[REGISTRATION] = lambda: stage_seconds(
            args.end_to_end, lambda scan: parcellate_by_registration(scan, preprocessing, atlas)
        )
    fresh = dataclasses.replace(fresh, entries=entries, left_out={**left_out, **failed})
    begun = resumed_run(fresh, args.output) if args.resume else fresh
    return measure_rounds(begun, calls, args.rounds, args.output, minutes=args.minutes)


def _call(path: Path, parcellator: Parcellator, preprocessing: Preprocessing) -> Call:
    return lambda: stage_seconds(path, lambda scan: parcellator.parcellate(scan, preprocessing))


def _call_behind_deepbet(path: Path, parcellator: Parcellator) -> Call:
    # deepbet reads its networks at the first scan
    deepbet_mask(read_scan(path))
    return lambda: stage_seconds(path, lambda scan: _parcellate_behind_deepbet(scan, parcellator))


def _warm_up_all(
    backends: list[tuple[Candidate, Backend]], times: int
) -> tuple[dict[str, Call], dict[str, str]]:
    """Return the candidates that can run, and the reasons of the others."""
    import ants  # noqa: F401
    import scipy.ndimage  # noqa: F401

    image = np.zeros((1, 1, *NETWORK_SHAPE), np.float32)
    calls = {c.name: functools.partial(time_batch, backend.infer, image) for c, backend in backends}
    return warm_up(calls, times)
