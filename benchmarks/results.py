"""What a measurement leaves: raw samples, and the machine and models they were taken with.

A run is a JSON file of one kind. Runs are compared only where the machine, the
threads, the library versions and the models are the same.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.machine import environment, load_warnings
from neurobento.errors import ConfigError
from neurobento.files import write_atomically

__all__ = ["RESULTS_FORMAT", "Entry", "Kind", "Run", "begin_run", "require_alike", "summary"]

RESULTS_FORMAT = 2
"""Version of the result files."""

Kind = Literal[
    "latency",
    "slices",
    "end_to_end",
    "memory",
    "load",
    "soak",
    "overhead",
    "faults",
    "jobs",
]

COMPARED = ("cpu", "cpu_flags", "cores", "gpu", "python")
"""What of the environment two runs must share, besides the versions."""


@dataclass(frozen=True)
class Entry:
    """What was measured of one candidate.

    Attributes
    ----------
    facts
        Model, backend, precision, batch and the like.
    samples
        Quantity with its unit, such as "seconds" -> raw values in the order they were taken.
    """

    facts: Mapping[str, Any]
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One measurement.

    Attributes
    ----------
    kind
        What was measured.
    scenario
        How: threads, rounds, warm-up and the like.
    environment
        Of `benchmarks.machine.environment`; its date says when the run began.
    models
        Model name -> SHA-256 of its ONNX file.
    entries
        Candidate -> what was measured of it.
    left_out
        Candidate -> why it could not be measured here.
    warnings
        What speaks against the samples.
    """

    kind: Kind
    scenario: Mapping[str, Any]
    environment: Mapping[str, Any]
    models: Mapping[str, str]
    entries: Mapping[str, Entry] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def date(self) -> str:
        """The day the run began, UTC."""
        return str(self.environment["date"])[:10]

    def require_place(self, path: Path) -> None:
        """Check that the run may be written to a path.

        Raises
        ------
        ConfigError
            Another run, or something else, stands there.
        """
        if path.exists() and not self._is_at(path):
            raise ConfigError(
                subject=str(path),
                expected="a new file, or this run's own",
                found="another file",
                remedy="Choose another name with -o, or go on with that run where the command "
                "has --resume.",
            )

    def write(self, path: Path) -> None:
        """Write the run, whole or not at all; an earlier state of the same run is replaced.

        Raises
        ------
        ConfigError
            As `require_place`.
        """
        self.require_place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"format": RESULTS_FORMAT, **dataclasses.asdict(self)}
        write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())

    def _is_at(self, path: Path) -> bool:
        try:
            there = Run.read(path)
        except ConfigError:
            return False
        ours = (self.kind, self.environment["date"])
        return (there.kind, there.environment["date"]) == ours

    @classmethod
    def read(cls, path: Path) -> Run:
        """The run in a file.

        Raises
        ------
        ConfigError
            The file holds no run of this format.
        FileNotFoundError
            There is no such file.
        """
        try:
            values = json.loads(path.read_text())
            found = values.pop("format")
            if found != RESULTS_FORMAT or values["kind"] not in get_args(Kind):
                raise ValueError(f"format {found}, kind {values.get('kind')}")
            values["entries"] = {name: Entry(**e) for name, e in values["entries"].items()}
            values["warnings"] = tuple(values["warnings"])
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                subject=str(path),
                expected=f"a benchmark run of format {RESULTS_FORMAT}",
                found=f"{type(error).__name__}: {error}",
                remedy="Measure again with the commands of benchmarks/.",
            ) from None


def begin_run(kind: Kind, scenario: Mapping[str, Any], models: Mapping[str, str]) -> Run:
    """A run without samples, dated now; a noisy start is a warning in it and is printed."""
    machine = environment()
    warnings = load_warnings(machine)
    for warning in warnings:
        print(f"warning: {warning}", flush=True)
    return Run(kind, dict(scenario), machine, dict(models), warnings=tuple(warnings))


def require_alike(runs: Sequence[Run]) -> None:
    """Check that samples of several runs may stand in one table.

    Threads are compared where both runs state them, a model's hash where both hold the model.

    Raises
    ------
    ConfigError
        They differ; the message names the fields.
    """
    for one, other in itertools.combinations(runs, 2):
        differing = _differences(one, other)
        if differing:
            raise ConfigError(
                subject=f"runs of {one.date} ({one.kind}) and {other.date} ({other.kind})",
                expected="runs with the same machine, threads, versions and models",
                found="; ".join(differing),
                remedy="Measure both again on one machine in one environment.",
            )


def _differences(a: Run, b: Run) -> list[str]:
    pairs = {name: (a.environment.get(name), b.environment.get(name)) for name in COMPARED}
    ours, theirs = a.environment["versions"], b.environment["versions"]
    pairs |= {f"version of {n}": (ours.get(n), theirs.get(n)) for n in {**ours, **theirs}}
    pairs |= {f"model {n}": (a.models[n], b.models[n]) for n in a.models if n in b.models}
    if "threads" in a.scenario and "threads" in b.scenario:
        pairs["threads"] = (a.scenario["threads"], b.scenario["threads"])
    return [f"{name} {x} and {y}" for name, (x, y) in pairs.items() if x != y]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Mean, SD (n - 1; 0 of a single one), p50, p95 and p99 of samples, in their own unit.

    >>> summary([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    values = np.asarray(samples, dtype=np.float64)
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    numbers = {"mean": values.mean(), "sd": sd, "p50": p50, "p95": p95, "p99": p99}
    return {name: round(float(value), 6) for name, value in numbers.items()}
