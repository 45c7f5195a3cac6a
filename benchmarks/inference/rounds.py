"""Rounds: in each, every candidate has its turn, so that a noisy neighbour strikes all alike.

In a turn calls follow each other, as SingleStream has it, until the turn is over: a
quick candidate gives more samples than a slow one. After each round the run is
written, so that an interruption loses one round at most and `--resume` goes on from
there.
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

__all__ = ["Call", "add_round_options", "measure", "resumed", "timed", "warm_up"]

Call = Callable[[], Mapping[str, float]]
"""Runs a candidate once and returns its samples, quantity -> value."""


def add_round_options(parser: argparse.ArgumentParser, rounds: int) -> None:
    """The options that say how often, and where the samples go."""
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--warm-up", type=int, default=1, help="calls before the first round")
    parser.add_argument(
        "--minutes", type=float, help="stop after the round in which they have passed"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT")


def timed(infer: Callable[[ImageBatch], object], images: ImageBatch) -> Mapping[str, float]:
    """Wall-clock seconds of one batch."""
    start = time.perf_counter()
    infer(images)
    return {"seconds": time.perf_counter() - start}


def warm_up(calls: Mapping[str, Call], times: int) -> tuple[dict[str, Call], dict[str, str]]:
    """Call everything `times` times; those that can run, and why each other one cannot."""
    ready, left_out = {}, {}
    for name, call in calls.items():
        print(f"warm-up: {name}", flush=True)
        try:
            for _ in range(times):
                call()
            ready[name] = call
        # a library out of memory, or without a kernel, must not stop the others
        except Exception as error:
            left_out[name] = f"{type(error).__name__} in warm-up: {str(error)[:300]}"
            print(f"left out: {name}: {left_out[name]}", flush=True)
    return ready, left_out


def measure(
    run: Run,
    calls: Mapping[str, Call],
    rounds: int,
    output: Path,
    *,
    turn_s: float = 0.0,
    minutes: float | None = None,
) -> Run:
    """The run with the samples of all rounds; it is written to `output` after each.

    Parameters
    ----------
    run
        Holds an entry for each call, with the samples of earlier rounds if there are any.
    calls
        Entry -> what runs it once.
    rounds
        How many there are to be in all.
    output
        Where the run goes.
    turn_s
        In its turn a candidate runs once, and again until so many seconds have passed.
    minutes
        No round begins once they have passed.
    """
    start = time.monotonic()
    for done in range(_rounds_done(run), rounds):
        if minutes is not None and time.monotonic() - start >= 60 * minutes:
            print(f"time is up after {done} of {rounds} rounds", flush=True)
            break
        sampled = {name: _turn(call, turn_s) for name, call in calls.items()}
        run = _with_round(run, sampled)
        run.write(output)
        print(f"round {done + 1} of {rounds}", flush=True)
    return run


def resumed(fresh: Run, output: Path) -> Run:
    """The run in `output`, if it can go on in the circumstances of a fresh one.

    Raises
    ------
    ConfigError
        Scenario, candidates, machine, versions or models are not the same.
    """
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
                expected=f"{what} as the run has it: {before}",
                found=str(now),
                remedy="Give the options the run was begun with, or another -o.",
            )
    again = f"resumed at {fresh.environment['date'][:16]} after {_rounds_done(earlier)} rounds"
    busy = load_warnings(dict(fresh.environment))
    return dataclasses.replace(earlier, warnings=(*earlier.warnings, again, *busy))


def _turn(call: Call, turn_s: float) -> list[Mapping[str, float]]:
    end = time.monotonic() + turn_s
    sampled = [call()]
    while time.monotonic() < end:
        sampled.append(call())
    return sampled


def _rounds_done(run: Run) -> int:
    return min((entry.facts.get("rounds", 0) for entry in run.entries.values()), default=0)


def _with_round(run: Run, sampled: Mapping[str, Sequence[Mapping[str, float]]]) -> Run:
    entries = dict(run.entries)
    for name, turn in sampled.items():
        entry = entries[name]
        samples = {
            quantity: [
                *entry.samples.get(quantity, ()),
                *(round(values[quantity], 6) for values in turn),
            ]
            for quantity in turn[0]
        }
        facts = {**entry.facts, "rounds": entry.facts.get("rounds", 0) + 1}
        entries[name] = Entry(facts, samples)
    return dataclasses.replace(run, entries=entries)
