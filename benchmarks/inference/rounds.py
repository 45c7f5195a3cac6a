"""Measure candidates in rounds, so that other load on the machine affects all alike.

The run is written after each round, so an interruption loses at most one; `--resume` continues.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.machine import load_warnings
from benchmarks.runs import Entry, Run, require_comparable
from neurobento.backends import ImageBatch
from neurobento.errors import ConfigError

__all__ = ["Call", "add_round_options", "measure_rounds", "resumed_run", "time_batch", "warm_up"]

Call = Callable[[], Mapping[str, float]]
"""Run a candidate once; return its samples, quantity -> value."""


def add_round_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """Add the options on rounds and output."""
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--warm-up", type=int, default=1, help="calls before the first round")
    parser.add_argument(
        "--minutes", type=float, help="stop after the round in which this time is up"
    )
    parser.add_argument("--resume", action="store_true", help="continue the run in OUTPUT")


def time_batch(infer: Callable[[ImageBatch], object], images: ImageBatch) -> Mapping[str, float]:
    """Return the wall-clock seconds of one batch."""
    start = time.perf_counter()
    infer(images)
    return {"seconds": time.perf_counter() - start}


def warm_up(calls: Mapping[str, Call], times: int) -> tuple[dict[str, Call], dict[str, str]]:
    """Call each `times` times; return those that can run, and the reasons of the others."""
    ready, left_out = {}, {}
    for name, call in calls.items():
        print(f"warm-up: {name}", flush=True)
        try:
            for _ in range(times):
                call()
            ready[name] = call
        # A library that is out of memory or lacks a kernel must not stop the others.
        except Exception as error:
            left_out[name] = f"{type(error).__name__} in warm-up: {str(error)[:300]}"
            print(f"left out: {name}: {left_out[name]}", flush=True)
    return ready, left_out


def measure_rounds(
    run: Run,
    calls: Mapping[str, Call],
    rounds: int,
    output: Path,
    *,
    least_s: float = 0.0,
    minutes: float | None = None,
) -> Run:
    """Return the run with the samples of all rounds; it is written to `output` after each.

    In each round a candidate runs once, and again until `least_s` has passed. Earlier samples in
    `run` count towards `rounds`; no round starts after `minutes`.
    """
    start = time.monotonic()
    for done in range(_rounds_done(run), rounds):
        if minutes is not None and time.monotonic() - start >= 60 * minutes:
            print(f"time is up after {done} of {rounds} rounds", flush=True)
            break
        samples = {name: _sample(call, least_s) for name, call in calls.items()}
        run = _with_round(run, samples)
        run.write(output)
        print(f"round {done + 1} of {rounds}", flush=True)
    return run


def resumed_run(fresh: Run, output: Path) -> Run:
    """Return the run in `output`; ConfigError unless it measured the same as the fresh run will."""
    earlier = Run.read(output)
    require_comparable([earlier, fresh])
    for what, before, now in (
        ("kind", earlier.kind, fresh.kind),
        ("scenario", earlier.scenario, fresh.scenario),
        ("candidates", list(earlier.entries), list(fresh.entries)),
    ):
        if before != now:
            raise ConfigError(
                subject=str(output),
                expected=f"the {what} of this run: {before}",
                found=str(now),
                remedy="Give the options that the run began with, or another -o.",
            )
    again = f"resumed at {fresh.environment['date'][:16]} after {_rounds_done(earlier)} rounds"
    busy = load_warnings(dict(fresh.environment))
    return dataclasses.replace(earlier, warnings=(*earlier.warnings, again, *busy))


def _sample(call: Call, least_s: float) -> list[Mapping[str, float]]:
    end = time.monotonic() + least_s
    samples = [call()]
    while time.monotonic() < end:
        samples.append(call())
    return samples


def _rounds_done(run: Run) -> int:
    return min((entry.facts.get("rounds", 0) for entry in run.entries.values()), default=0)


def _with_round(run: Run, new: Mapping[str, Sequence[Mapping[str, float]]]) -> Run:
    entries = dict(run.entries)
    for name, sampled in new.items():
        entry = entries[name]
        samples = {
            quantity: [
                *entry.samples.get(quantity, ()),
                *(round(values[quantity], 6) for values in sampled),
            ]
            for quantity in sampled[0]
        }
        facts = {**entry.facts, "rounds": entry.facts.get("rounds", 0) + 1}
        entries[name] = Entry(facts, samples)
    return dataclasses.replace(run, entries=entries)
