"""Result files of the benchmarks: raw samples with the machine and models they were taken on."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.machine import load_warnings, machine_facts
from neurobento.errors import ConfigError
from neurobento.files import write_atomically

__all__ = ["RUN_FORMAT", "Entry", "Kind", "Run", "begin_run", "require_comparable", "summary"]

RUN_FORMAT = 2
"""Version of the files that `Run.write` makes."""

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
    "stability",
]

COMPARED = ("cpu", "cpu_flags", "cores", "gpu", "python")
"""Parts of the environment that two runs must share, besides the versions."""


@dataclass(frozen=True)
class Entry:
    """The samples of one candidate, and the facts about it."""

    # model, backend, precision, batch and the like
    facts: Mapping[str, Any]
    # quantity with its unit, such as "seconds" -> raw values in the order they were taken
    samples: Mapping[str, Sequence[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One measurement with all its entries."""

    kind: Kind
    # threads, rounds, warm-up and the like
    scenario: Mapping[str, Any]
    # from `benchmarks.machine.machine_facts`; its date is when the run began
    environment: Mapping[str, Any]
    # model name -> SHA-256 of its ONNX file
    models: Mapping[str, str]
    # candidate -> its samples
    entries: Mapping[str, Entry] = field(default_factory=dict)
    # candidate -> why it could not be measured here
    left_out: Mapping[str, str] = field(default_factory=dict)
    # reasons to doubt the samples
    warnings: tuple[str, ...] = ()

    @property
    def date(self) -> str:
        """The day the run began, UTC."""
        return str(self.environment["date"])[:10]

    def require_writable(self, path: Path) -> None:
        """Raise ConfigError if `path` holds another run or anything else."""
        if path.exists() and not self._is_at(path):
            raise ConfigError(
                subject=str(path),
                expected="a new file, or an earlier state of this run",
                found="another file",
                remedy="Choose another name with -o, or continue that run where the command "
                "has --resume.",
            )

    def write(self, path: Path) -> None:
        """Write the run as a whole; only an earlier state of the same run is replaced."""
        self.require_writable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        values = {"format": RUN_FORMAT, **dataclasses.asdict(self)}
        write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())

    def _is_at(self, path: Path) -> bool:
        try:
            other = Run.read(path)
        except ConfigError:
            return False
        return (other.kind, other.environment["date"]) == (self.kind, self.environment["date"])

    @classmethod
    def read(cls, path: Path) -> Run:
        """Read a run; raise ConfigError if the file is not a run of this format."""
        try:
            values = json.loads(path.read_text())
            version = values.pop("format")
            if version != RUN_FORMAT or values["kind"] not in get_args(Kind):
                raise ValueError(f"format {version}, kind {values.get('kind')}")
            values["entries"] = {name: Entry(**e) for name, e in values["entries"].items()}
            values["warnings"] = tuple(values["warnings"])
            # an older name
            if "level" in values["scenario"]:
                values["scenario"]["preprocessing"] = values["scenario"].pop("level")
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                subject=str(path),
                expected=f"a benchmark run of format {RUN_FORMAT}",
                found=f"{type(error).__name__}: {error}",
                remedy="Measure again with the commands of benchmarks/.",
            ) from None


def begin_run(
    kind: Kind, scenario: Mapping[str, Any], models: Mapping[str, str], output: Path | None = None
) -> Run:
    """Return a run without samples, dated now; raise ConfigError if `output` is another file."""
    machine = machine_facts()
    warnings = load_warnings(machine)
    for warning in warnings:
        print(f"warning: {warning}", flush=True)
    run = Run(kind, dict(scenario), machine, dict(models), warnings=tuple(warnings))
    if output is not None:
        run.require_writable(output)
    return run


def require_comparable(runs: Sequence[Run]) -> None:
    """Raise ConfigError, naming the fields, if samples of these runs cannot share a table."""
    for one, other in itertools.combinations(runs, 2):
        differences = _differences(one, other)
        if differences:
            raise ConfigError(
                subject=f"runs of {one.date} ({one.kind}) and {other.date} ({other.kind})",
                expected="runs with the same machine, threads, versions and models",
                found="; ".join(differences),
                remedy="Measure both again on one machine in one environment.",
            )


def _differences(a: Run, b: Run) -> list[str]:
    pairs = {name: (a.environment.get(name), b.environment.get(name)) for name in COMPARED}
    versions_a, versions_b = a.environment["versions"], b.environment["versions"]
    pairs |= {
        f"version of {name}": (versions_a.get(name), versions_b.get(name))
        for name in {**versions_a, **versions_b}
    }
    pairs |= {f"model {n}": (a.models[n], b.models[n]) for n in a.models if n in b.models}
    if "threads" in a.scenario and "threads" in b.scenario:
        pairs["threads"] = (a.scenario["threads"], b.scenario["threads"])
    return [f"{name} {x} and {y}" for name, (x, y) in pairs.items() if x != y]


def summary(samples: Sequence[float]) -> dict[str, float]:
    """Return mean, SD (n - 1; 0 for one sample), p50, p95 and p99, in the samples' unit.

    >>> summary([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    values = np.asarray(samples, dtype=np.float64)
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    sd = values.std(ddof=1) if len(values) > 1 else 0.0
    numbers = {"mean": values.mean(), "sd": sd, "p50": p50, "p95": p95, "p99": p99}
    return {name: round(float(value), 6) for name, value in numbers.items()}
