"""Tables of the networks' speed and memory, without a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.inference.candidates import yardstick_of
from benchmarks.inference.end_to_end import REGISTRATION
from benchmarks.markdown import table
from benchmarks.report.comparison import (
    REPORT_A,
    REPORT_A_GPU,
    Machine,
    Timing,
    end_to_end_timings,
    timings,
)
from benchmarks.runs import Entry, Kind, Run, summary

__all__ = [
    "backends_table",
    "end_to_end_table",
    "memory_table",
    "offline_table",
    "prediction_table",
    "registration_table",
    "stage_means",
]

BETWEEN = "between stages"

REPORT_RATIO = 196
"""Report A, chapter 5: registration takes at least this many times as long as the network."""


def prediction_table(machines: Sequence[Machine]) -> str:
    """Return report A's table 4.3 beside our times, mean ± SD in seconds."""
    rows = []
    for machine in machines:
        alone = [timing for timing in timings(machine) if timing.batch == 1]
        whole = [t for t in end_to_end_timings(machine) if t.model != REGISTRATION]
        for model in dict.fromkeys(timing.model for timing in [*alone, *whole]):
            eager = [t for t in alone if t.candidate == yardstick_of(model)]
            best, end = _fastest(alone, model), _fastest(whole, model)
            rows.append(
                [
                    model,
                    "{:.3f} ± {:.3f}".format(*REPORT_A[model]) if model in REPORT_A else "",
                    machine.name,
                    _spread(eager[0]) if eager else "",
                    _spread(best) if best else "",
                    best.candidate.removeprefix(f"{model} ") if best else "",
                    _ratio(best.own_ratio) if best else "",
                    _ratio(best.report_ratio) if best else "",
                    _spread(end) if end else "",
                ]
            )
    head = [
        "network",
        f"report A, {REPORT_A_GPU}",
        "our machine",
        "PyTorch fp32 eager",
        "our fastest",
        "backend",
        "times as fast as PyTorch",
        "times as fast as report A's U-Net in PyTorch",
        "end to end, our fastest",
    ]
    return table(head, rows)


def backends_table(machine: Machine, kind: Kind = "latency") -> str:
    """Return the times of the network alone, one scan or slice at a time (SingleStream)."""
    rows = [
        [
            timing.candidate,
            _spread(timing),
            *(_fine(timing.seconds[name]) for name in ("p50", "p95", "p99")),
            _ratio(timing.own_ratio),
            _ratio(timing.report_ratio),
        ]
        for timing in timings(machine, kind)
        if timing.batch == 1
    ]
    head = ["candidate", "mean ± SD", "p50", "p95", "p99", "x own PyTorch", "x report's U-Net"]
    return table(head, rows)


def offline_table(machine: Machine, kind: Kind = "latency") -> str:
    """Return the median seconds per scan by batch size (Offline); empty with batch 1 alone."""
    measured = timings(machine, kind)
    batches = sorted({timing.batch for timing in measured})
    if batches in ([], [1]):
        return ""
    cells = {(t.candidate, t.batch): _fine(t.seconds["p50"]) for t in measured}
    rows = [
        [name, *(cells.get((name, batch), "") for batch in batches)]
        for name in dict.fromkeys(timing.candidate for timing in measured)
    ]
    return table(["candidate", *(f"batch {batch}" for batch in batches)], rows)


def stage_means(entry: Entry) -> dict[str, float]:
    """Return the mean seconds of each stage and between them; they add up to the total's mean."""
    means = {
        name.removesuffix("_s"): float(np.mean(values)) for name, values in entry.samples.items()
    }
    total = means.pop("total")
    return {**means, BETWEEN: total - sum(means.values())}


def end_to_end_table(run: Run) -> str:
    """Return the mean seconds of each stage and its share of the whole."""
    columns = {name: stage_means(entry) for name, entry in run.entries.items() if entry.samples}
    stages = dict.fromkeys(stage for means in columns.values() for stage in means)
    ordered = [*(stage for stage in stages if stage != BETWEEN), BETWEEN]
    rows = [
        [stage.replace("_", " "), *(_share(means, stage) for means in columns.values())]
        for stage in ordered
    ]
    total = [f"{sum(means.values()):.2f} s" for means in columns.values()]
    return table(["stage", *columns], [*rows, ["all", *total]])


def registration_table(run: Run) -> str:
    """Return the time of atlas registration against each network; empty if not measured."""
    peer = run.entries.get(REGISTRATION)
    if peer is None or not peer.samples:
        return ""
    slow = summary(peer.samples["register_s"])["p50"]
    rows = [["report A", "", "", f"at least {REPORT_RATIO}"]]
    for name, entry in run.entries.items():
        if name != REGISTRATION and entry.samples:
            quick = summary(entry.samples["infer_s"])["p50"]
            rows.append([name, f"{slow:.2f}", f"{quick:.3f}", f"{slow / quick:.1f}"])
    return table(["network", "registration, s", "network, s", "times"], rows)


def memory_table(machine: Machine) -> str:
    """Return the memory peaks in GB (10^9 bytes)."""
    rows = []
    for run in machine.runs_of("memory"):
        for entry in run.entries.values():
            peaks = {name: max(values) for name, values in entry.samples.items()}
            baseline, peak = peaks["host_baseline_bytes"], peaks["host_peak_bytes"]
            device = peaks.get("device_peak_bytes")
            rows.append(
                [
                    " ".join(str(entry.facts[key]) for key in ("model", "backend", "precision")),
                    str(entry.facts["batch"]),
                    _gigabytes(baseline),
                    _gigabytes(peak),
                    _gigabytes(peak - baseline),
                    "" if device is None else _gigabytes(device),
                ]
            )
    head = ["candidate", "batch", "host, libraries alone", "host, peak", "rise", "GPU, peak"]
    return table(head, rows)


def _fastest(measured: Sequence[Timing], model: str) -> Timing | None:
    own = [timing for timing in measured if timing.model == model]
    return min(own, key=lambda timing: timing.seconds["p50"], default=None)


def _spread(timing: Timing) -> str:
    mean, sd = timing.seconds["mean"], timing.seconds["sd"]
    # A slice takes a fraction of a millisecond.
    digits = 3 if mean >= 0.02 else 6
    return f"{mean:.{digits}f} ± {sd:.{digits}f}" if timing.samples > 1 else f"{mean:.3f} (one run)"


def _fine(seconds: float) -> str:
    return f"{seconds:.4f}" if seconds >= 0.02 else f"{seconds:.6f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _share(means: Mapping[str, float], stage: str) -> str:
    if stage not in means:
        return ""
    return f"{means[stage]:.2f} s ({100 * means[stage] / sum(means.values()):.1f} %)"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2f}"
