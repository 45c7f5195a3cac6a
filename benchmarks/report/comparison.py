"""Runs grouped by machine, and the ratios of medians between candidates of one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.inference.candidates import REFERENCE, yardstick_of
from benchmarks.runs import Kind, Run, require_comparable, summary

__all__ = [
    "REPORT_A",
    "REPORT_A_GPU",
    "Machine",
    "Timing",
    "end_to_end_timings",
    "group_by_machine",
    "timings",
]

REPORT_A = {"highresnet": (0.051, 0.001), "unet": (0.079, 0.013)}
"""Mean and SD of the prediction time in seconds on `REPORT_A_GPU`, report A's table 4.3."""

REPORT_A_GPU = "RTX 4090"


@dataclass(frozen=True)
class Machine:
    """All runs of one machine; they share threads, versions and models."""

    # the processor, or the GPU and the processor
    name: str
    runs: tuple[Run, ...]

    def runs_of(self, kind: Kind) -> list[Run]:
        """Return the runs of one kind."""
        return [run for run in self.runs if run.kind == kind]

    @property
    def dates(self) -> str:
        """The first and the last day of the runs."""
        first, last = min(run.date for run in self.runs), max(run.date for run in self.runs)
        return first if first == last else f"{first} to {last}"

    @property
    def threads(self) -> str:
        """The number of threads in words, from the runs that state it."""
        stated = [run.scenario["threads"] for run in self.runs if "threads" in run.scenario]
        return f"{stated[0]} threads" if stated else "threads not stated"


@dataclass(frozen=True)
class Timing:
    """The time one candidate takes per scan."""

    # the network, such as "compact"
    model: str
    # such as "compact openvino fp32"
    candidate: str
    # scans at once
    batch: int
    # number of samples
    samples: int
    # mean, sd, p50, p95, p99 per scan: each sample is a batch's time divided by its size
    seconds: dict[str, float]
    # how many times as fast as PyTorch fp32 eager at batch 1 in the same run: the same network,
    # and report A's U-Net; None where that did not run
    own_ratio: float | None
    report_ratio: float | None


def group_by_machine(runs: Sequence[Run]) -> list[Machine]:
    """Return the machines in order; ConfigError if the runs of one are not comparable."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_machine_name(run), []).append(run)
    for group in groups.values():
        require_comparable(group)
    return [Machine(name, tuple(group)) for name, group in groups.items()]


def _machine_name(run: Run) -> str:
    # Processors of one name may differ in AVX-512, which matters most to a network.
    wide = " with AVX-512" if "avx512f" in run.environment["cpu_flags"] else ""
    cpu = f"{run.environment['cpu']}{wide}, {run.environment['cores']} cores"
    gpu = run.environment["gpu"]
    return f"{gpu['name']}, {cpu}" if gpu else cpu


def timings(machine: Machine, kind: Kind = "latency") -> list[Timing]:
    """Return the timings of the network alone, for scans or "slices", by model, slowest first."""
    unsorted = [timing for run in machine.runs_of(kind) for timing in _timings_of(run, "seconds")]
    return sorted(unsorted, key=lambda t: (t.model, t.batch, -t.seconds["p50"]))


def end_to_end_timings(machine: Machine) -> list[Timing]:
    """Return the timings from file to regions, by model, slowest first."""
    runs = machine.runs_of("end_to_end")
    unsorted = [timing for run in runs for timing in _timings_of(run, "total_s")]
    return sorted(unsorted, key=lambda t: (t.model, -t.seconds["p50"]))


def _timings_of(run: Run, quantity: str) -> list[Timing]:
    medians = {
        name: summary(entry.samples[quantity])["p50"]
        for name, entry in run.entries.items()
        if entry.samples
    }
    measured = []
    for name, median in medians.items():
        facts = run.entries[name].facts
        batch, model = int(facts.get("batch", 1)), str(facts.get("model", name))
        own, report = medians.get(yardstick_of(model)), medians.get(REFERENCE)
        values = [value / batch for value in run.entries[name].samples[quantity]]
        measured.append(
            Timing(
                model=model,
                candidate=name.removesuffix(f" batch {batch}"),
                batch=batch,
                samples=len(values),
                seconds=summary(values),
                own_ratio=own * batch / median if own else None,
                report_ratio=report * batch / median if report else None,
            )
        )
    return measured
