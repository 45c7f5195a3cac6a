"""What a running service does under load that does not wait for it.

    python -m benchmarks.service.load SCAN --url http://127.0.0.1:3000 --rates 0.5 1.1 3.3 \\
           --capacity 1.1 --seconds 180 -o load.json
    python -m benchmarks.service.load SCAN --protocol grpc --url 127.0.0.1:3001 \\
           --metrics-url http://127.0.0.1:3000 --rates 1 -o grpc.json

Each rate in turn, each with the answers of the one before all in or given up.
Nothing but the URLs given is talked to. A request that times out is not taken
back: the server may still work on it as the next rate begins.

With `--capacity`, the highest rate is judged against that one: those whom the
service answers wait at most twice as long (p99), it answers no fewer than nine
tenths as many, and it refuses the rest in less than a tenth of a second. At neither
rate is a request answered by anything else, or by nothing; and at two and a half
times the capacity or more, some have to be refused.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.runs import Entry, Run, begin_run, summary
from benchmarks.service.arrivals import ARRIVALS, Answer, drive, schedule
from benchmarks.service.batch_sizes import Histograms, between, parse
from benchmarks.service.clients import PROTOCOLS, Request, open_client
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

__all__ = ["Finding", "entry_of", "judge", "load", "main", "print_findings"]

STATED = (
    *("protocol", "arrivals", "seed", "seconds", "timeout", "clients_limit"),
    *("model", "preprocessing", "threads", "service", "capacity"),
)
"""Options that make the scenario."""

MOST_P99 = 2.0
LEAST_THROUGHPUT = 0.9
"""At the highest rate, as multiples of those at the capacity."""

REFUSED_WITHIN_S = 0.1

REFUSES_FROM = 2.5
"""Times the capacity, from which on a service cannot but refuse some."""

ALLOWED = ("ok", "refused")
"""Outcomes of requests to a service that is well."""


class Finding(NamedTuple):
    """One demand: whether it holds, and the numbers."""

    holds: bool
    told: str


def entry_of(answers: Sequence[Answer], rate_per_s: float, batches: Histograms) -> Entry:
    """What one rate came to.

    Samples are the seconds of each outcome (`ok_s`, `refused_s`, ...) and when those
    requests were due (`ok_due_s`, ...). Throughput counts what was answered well until
    the last answer was in.
    """
    samples: dict[str, list[float]] = {}
    for answer in answers:
        samples.setdefault(f"{answer.outcome}_s", []).append(round(answer.seconds, 6))
        samples.setdefault(f"{answer.outcome}_due_s", []).append(round(answer.due_s, 6))
    took = max((answer.due_s + answer.seconds for answer in answers), default=0.0)
    well = sum(answer.outcome == "ok" for answer in answers)
    facts = {
        "rate_per_s": rate_per_s,
        "sent": len(answers),
        "outcomes": dict(collections.Counter(answer.outcome for answer in answers)),
        "statuses": dict(collections.Counter(answer.status for answer in answers)),
        "throughput_per_s": round(well / took, 4) if took else 0.0,
        "batch_sizes": batches,
    }
    return Entry(facts, samples)


def judge(at_capacity: Entry, overloaded: Entry) -> list[Finding]:
    """Latency, throughput, outcomes and refusals of a service with more to do than it can.

    Parameters
    ----------
    at_capacity, overloaded
        Of `entry_of`. Where either has no answer, nothing is known of latency, and that
        does not hold; where nothing was refused below `REFUSES_FROM`, no refusal was slow.
    """
    return [
        _judge_latency(at_capacity, overloaded),
        _judge_throughput(at_capacity, overloaded),
        _judge_outcomes(at_capacity, overloaded),
        _judge_refusals(at_capacity, overloaded),
    ]


def _judge_latency(at_capacity: Entry, overloaded: Entry) -> Finding:
    answered = [entry.samples.get("ok_s") for entry in (at_capacity, overloaded)]
    own, found = (summary(seconds)["p99"] if seconds else None for seconds in answered)
    if own is None or found is None:
        return Finding(False, "p99: not known, as a rate has no answers")
    told = f"p99: {found:.3f} s, {found / own:.2f} x {own:.3f} s (at most {MOST_P99:g} x)"
    return Finding(found <= MOST_P99 * own, told)


def _judge_throughput(at_capacity: Entry, overloaded: Entry) -> Finding:
    own, found = (entry.facts["throughput_per_s"] for entry in (at_capacity, overloaded))
    ratio = f"{found / own:.2f} x" if own else "against"
    told = f"answered: {found:.3f}/s, {ratio} {own:.3f}/s (at least {LEAST_THROUGHPUT:g} x)"
    return Finding(0 < LEAST_THROUGHPUT * own <= found, told)


def _judge_outcomes(*judged: Entry) -> Finding:
    others = [
        f"{count} {outcome} at {entry.facts['rate_per_s']:g}/s"
        for entry in judged
        for outcome, count in entry.facts["outcomes"].items()
        if outcome not in ALLOWED
    ]
    told = f"outcomes: {', '.join(others) or 'no others'} (only {' and '.join(ALLOWED)})"
    return Finding(not others, told)


def _judge_refusals(at_capacity: Entry, overloaded: Entry) -> Finding:
    seconds = overloaded.samples.get("refused_s", ())
    if not seconds:
        ratio = overloaded.facts["rate_per_s"] / at_capacity.facts["rate_per_s"]
        told = f"refusals: none at {ratio:.2f} x the capacity (some from {REFUSES_FROM:g} x)"
        return Finding(ratio < REFUSES_FROM, told)
    quick = sum(each < REFUSED_WITHIN_S for each in seconds)
    told = (
        f"refusals: {100 * quick / len(seconds):.1f} % of {len(seconds)} in less than "
        f"{1000 * REFUSED_WITHIN_S:g} ms, the slowest {1000 * max(seconds):.0f} ms"
    )
    return Finding(quick == len(seconds), told)


async def load(args: argparse.Namespace, begun: Run) -> Run:
    """The run with an entry for each rate; it is written after each."""
    request = Request(args.scan.read_bytes(), args.model, args.preprocessing)
    async with open_client(args.protocol, args.url, request) as send:
        for _ in range(args.warm_up):
            await drive([0.0], send, clients_limit=1, timeout_s=args.timeout)
        for rate in args.rates:
            due = schedule(rate, args.seconds, args.arrivals, args.seed)
            before = await _batches(args.metrics_url)
            answers = await drive(
                due, send, clients_limit=args.clients_limit, timeout_s=args.timeout
            )
            batches = between(before, await _batches(args.metrics_url))
            entry = entry_of(answers, rate, batches)
            begun = dataclasses.replace(begun, entries={**begun.entries, f"{rate:g}/s": entry})
            begun.write(args.output)
            _print(rate, entry)
    return begun


async def _batches(url: str | None) -> Histograms:
    answer = await _get(url, "/metrics") if url else None
    return parse(answer.text) if answer is not None else {}


async def _models(url: str | None) -> dict[str, str]:
    """Name -> hash of the models that the service says it serves."""
    answer = await _get(url, "/v1/models") if url else None
    if answer is None:
        return {}
    return {model["name"]: model["onnx_sha256"] for model in answer.json()["models"]}


async def _get(url: str, path: str) -> Any:
    """The answer, or None where the service has no such page.

    Raises
    ------
    ConfigError
        Nobody answers.
    """
    import httpx

    try:
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as client:
            answer = await client.get(path)
    except httpx.HTTPError as error:
        raise ConfigError(
            subject=url,
            expected="a running service",
            found=type(error).__name__,
            remedy="Start it with scripts/serve, or correct the URL.",
        ) from None
    return answer if answer.is_success else None


def _print(rate: float, entry: Entry) -> None:
    latency = ""
    if "ok_s" in entry.samples:
        found = summary(entry.samples["ok_s"])
        latency = ", ".join(f"{name} {found[name]:.3f} s" for name in ("p50", "p95", "p99"))
    print(f"{rate:g}/s: {entry.facts['outcomes']} {latency}", flush=True)


def _require_capacity(capacity: float, rates: Sequence[float]) -> None:
    """Check that there is a higher rate to judge against the capacity.

    Raises
    ------
    ConfigError
        There is none, or the capacity is not among the rates.
    """
    if capacity not in rates or capacity == max(rates):
        raise ConfigError(
            subject=f"--capacity {capacity:g}",
            expected="one of --rates, and not the highest",
            found=f"--rates {' '.join(f'{rate:g}' for rate in rates)}",
            remedy="Add it to them, and a rate of two or three times as much.",
        )


def _print_verdict(run: Run, capacity: float, highest: float) -> int:
    """1 if a demand does not hold."""
    findings = judge(*(run.entries[f"{rate:g}/s"] for rate in (capacity, highest)))
    print(f"{highest:g}/s against {capacity:g}/s, the capacity:", flush=True)
    return print_findings(findings)


def print_findings(findings: Sequence[Finding]) -> int:
    """Print findings; 1, for an exit status, if one does not hold."""
    for holds, told in findings:
        print(f"  {'holds' if holds else 'does not hold'}: {told}", flush=True)
    return int(not all(finding.holds for finding in findings))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if what `--capacity` demands does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.load")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--url", required=True, help="of the service; HOST:PORT for gRPC")
    parser.add_argument("--metrics-url", help="where /metrics is; default: --url, if it is HTTP")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="http")
    parser.add_argument("--service", default="neurobento", help="what the report calls it")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="none")
    parser.add_argument("--threads", type=int, help="NEUROBENTO_THREADS of the service")
    parser.add_argument("--rates", type=float, nargs="+", required=True, help="requests a second")
    parser.add_argument("--capacity", type=float, help="which of --rates the service can just do")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals at each rate")
    parser.add_argument("--arrivals", choices=ARRIVALS, default="poisson")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients-limit", type=int, default=64, help="requests under way at once")
    parser.add_argument("--timeout", type=float, default=120.0, help="what a client waits, s")
    parser.add_argument("--warm-up", type=int, default=1, help="requests before the first rate")
    args = parser.parse_args(argv)
    if args.capacity is not None:
        _require_capacity(args.capacity, args.rates)
    if args.metrics_url is None and args.protocol != "grpc":
        args.metrics_url = args.url
    scenario = {key: getattr(args, key) for key in STATED if getattr(args, key) is not None}
    scenario |= {"warm_up_requests": args.warm_up, "scan_sha256": file_sha256(args.scan)}
    begun = begin_run("load", scenario, asyncio.run(_models(args.metrics_url)))
    begun.require_writable(args.output)
    done = asyncio.run(load(args, begun))
    return 0 if args.capacity is None else _print_verdict(done, args.capacity, max(args.rates))


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.load"))
