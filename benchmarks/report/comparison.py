"""Runs put together by machine, and the ratios that may be taken of them.

Ratios are of medians, and only between candidates of one run: they took part in
the same rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.inference.candidates import REFERENCE, yardstick_of
from benchmarks.results import Kind, Run, require_alike, summary

__all__ = ["REPORT_A", "REPORT_A_GPU", "Machine", "Timing", "by_machine", "timings", "totals"]

REPORT_A = {"highresnet": (0.051, 0.001), "unet": (0.079, 0.013)}
"""Its table 4.3: mean and SD of the prediction time in seconds."""

REPORT_A_GPU = "RTX 4090"
"""Its section 3.3."""


@dataclass(frozen=True)
class Machine:
    """All runs of one machine.

    Attributes
    ----------
    name
        Processor or GPU.
    runs
        Alike in machine, threads, versions and models.
    """

    name: str
    runs: tuple[Run, ...]

    def of(self, kind: Kind) -> list[Run]:
        """The runs of one kind."""
        return [run for run in self.runs if run.kind == kind]

    @property
    def dates(self) -> str:
        """The first and the last day of the runs."""
        first, last = min(run.date for run in self.runs), max(run.date for run in self.runs)
        return first if first == last else f"{first} to {last}"

    @property
    def threads(self) -> str:
        """Threads of the runs that state them."""
        stated = [run.scenario["threads"] for run in self.runs if "threads" in run.scenario]
        return f"{stated[0]} threads" if stated else "threads not stated"


@dataclass(frozen=True)
class Timing:
    """How long one candidate takes for a scan.

    Attributes
    ----------
    model, candidate, batch
        Which network, such as "compact openvino fp32", and scans at once.
    samples
        How many samples there are.
    seconds
        Of a scan: mean, sd, p50, p95, p99 over samples, each a batch's time over its size.
    own_ratio, report_ratio
        How many times the median of PyTorch fp32 eager, of the same network and of
        report A's U-Net, at batch 1 in the same run; None where that did not run.
    """

    model: str
    candidate: str
    batch: int
    samples: int
    seconds: dict[str, float]
    own_ratio: float | None
    report_ratio: float | None


def by_machine(runs: Sequence[Run]) -> list[Machine]:
    """The runs of each machine, in the order they come.

    Raises
    ------
    ConfigError
        Two runs of one machine are not alike.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_machine_name(run), []).append(run)
    for group in groups.values():
        require_alike(group)
    return [Machine(name, tuple(group)) for name, group in groups.items()]


def _machine_name(run: Run) -> str:
    # processors of one name differ in what matters most to a network
    wide = " with AVX-512" if "avx512f" in run.environment["cpu_flags"] else ""
    cpu = f"{run.environment['cpu']}{wide}, {run.environment['cores']} cores"
    gpu = run.environment["gpu"]
    return f"{gpu['name']}, {cpu}" if gpu else cpu


def timings(machine: Machine, kind: Kind = "latency") -> list[Timing]:
    """Every candidate and batch size of the network alone, of scans or of "slices": by model,
    slowest first."""
    found = [timing for run in machine.of(kind) for timing in _timings_of(run, "seconds")]
    return sorted(found, key=lambda t: (t.model, t.batch, -t.seconds["p50"]))


def totals(machine: Machine) -> list[Timing]:
    """Every candidate end to end, by model, slowest first."""
    found = [timing for run in machine.of("end_to_end") for timing in _timings_of(run, "total_s")]
    return sorted(found, key=lambda t: (t.model, -t.seconds["p50"]))


def _timings_of(run: Run, quantity: str) -> list[Timing]:
    medians = {
        name: summary(entry.samples[quantity])["p50"]
        for name, entry in run.entries.items()
        if entry.samples
    }
    found = []
    for name, median in medians.items():
        facts = run.entries[name].facts
        batch, model = int(facts.get("batch", 1)), str(facts.get("model", name))
        own, report = medians.get(yardstick_of(model)), medians.get(REFERENCE)
        values = [value / batch for value in run.entries[name].samples[quantity]]
        found.append(
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
    return found
