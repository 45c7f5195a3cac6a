"""Send open-loop load to a running service: requests do not wait for earlier answers.

    python -m benchmarks.service.load SCAN --url http://127.0.0.1:3000 --rates 0.5 1.1 3.3 \\
           --capacity 1.1 --seconds 180 -o load.json
    python -m benchmarks.service.load SCAN --protocol grpc --url 127.0.0.1:3001 \\
           --metrics-url http://127.0.0.1:3000 --rates 1 -o grpc.json

A timed-out request is not cancelled: the server may still work on it at the next rate. With
`--capacity`, the highest rate is compared with that one, by the limits below: latency, throughput,
refusals, and no request that failed or timed out.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.runs import Entry, Run, begin_run, summary
from benchmarks.service.batch_sizes import Histograms, batches_between, parse_batch_sizes
from benchmarks.service.open_loop import ARRIVALS, ScheduledRequest, arrival_times, send_on_schedule
from benchmarks.service.pages import read_page, served_models
from benchmarks.service.protocols import PROTOCOLS, Outcome, open_sender
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

__all__ = ["Finding", "judge", "main", "measure_load", "print_findings", "rate_entry"]

STATED = (
    *("protocol", "arrivals", "seed", "seconds", "timeout", "clients_limit"),
    *("model", "preprocessing", "threads", "service", "capacity"),
)
"""Options that are recorded in the scenario."""

MOST_P99 = 2.0
LEAST_THROUGHPUT = 0.9
"""At the highest rate, as multiples of those at the capacity."""

REFUSED_WITHIN_S = 0.1

REFUSES_FROM = 2.5
"""From this multiple of the capacity on, a service has to refuse some requests."""

ALLOWED = ("ok", "refused")


class Finding(NamedTuple):
    """One requirement: whether it holds, and the numbers."""

    holds: bool
    text: str


def rate_entry(
    requests: Sequence[ScheduledRequest], rate_per_s: float, batches: Histograms
) -> Entry:
    """Return the results of one rate.

    Samples are the seconds of each outcome (`ok_s`, ...) and when those requests were due
    (`ok_due_s`, ...). Throughput counts good answers until the last answer arrived.
    """
    samples: dict[str, list[float]] = {}
    for request in requests:
        samples.setdefault(f"{request.outcome}_s", []).append(round(request.seconds, 6))
        samples.setdefault(f"{request.outcome}_due_s", []).append(round(request.due_s, 6))
    took_s = max((request.due_s + request.seconds for request in requests), default=0.0)
    ok = sum(request.outcome == "ok" for request in requests)
    facts = {
        "rate_per_s": rate_per_s,
        "sent": len(requests),
        "outcomes": dict(collections.Counter(request.outcome for request in requests)),
        "statuses": dict(collections.Counter(request.status for request in requests)),
        "throughput_per_s": round(ok / took_s, 4) if took_s else 0.0,
        "batch_sizes": batches,
    }
    return Entry(facts, samples)


def judge(at_capacity: Entry, overloaded: Entry) -> list[Finding]:
    """Return the findings on latency, throughput, outcomes and refusals under overload."""
    return [
        _judge_latency(at_capacity, overloaded),
        _judge_throughput(at_capacity, overloaded),
        _judge_outcomes(at_capacity, overloaded),
        _judge_refusals(at_capacity, overloaded),
    ]


def _judge_latency(at_capacity: Entry, overloaded: Entry) -> Finding:
    answered = [entry.samples.get("ok_s") for entry in (at_capacity, overloaded)]
    own, p99 = (summary(seconds)["p99"] if seconds else None for seconds in answered)
    if own is None or p99 is None:
        return Finding(False, "p99: not known, because a rate has no answers")
    text = f"p99: {p99:.3f} s, {p99 / own:.2f} x {own:.3f} s (at most {MOST_P99:g} x)"
    return Finding(p99 <= MOST_P99 * own, text)


def _judge_throughput(at_capacity: Entry, overloaded: Entry) -> Finding:
    own, rate = (entry.facts["throughput_per_s"] for entry in (at_capacity, overloaded))
    ratio = f"{rate / own:.2f} x" if own else "against"
    text = f"answered: {rate:.3f}/s, {ratio} {own:.3f}/s (at least {LEAST_THROUGHPUT:g} x)"
    return Finding(0 < LEAST_THROUGHPUT * own <= rate, text)


def _judge_outcomes(*entries: Entry) -> Finding:
    others = [
        f"{count} {outcome} at {entry.facts['rate_per_s']:g}/s"
        for entry in entries
        for outcome, count in entry.facts["outcomes"].items()
        if outcome not in ALLOWED
    ]
    text = f"outcomes: {', '.join(others) or 'no others'} (only {' and '.join(ALLOWED)})"
    return Finding(not others, text)


def _judge_refusals(at_capacity: Entry, overloaded: Entry) -> Finding:
    seconds = overloaded.samples.get("refused_s", ())
    if not seconds:
        ratio = overloaded.facts["rate_per_s"] / at_capacity.facts["rate_per_s"]
        text = f"refusals: none at {ratio:.2f} x the capacity (some from {REFUSES_FROM:g} x)"
        return Finding(ratio < REFUSES_FROM, text)
    quick = sum(each < REFUSED_WITHIN_S for each in seconds)
    text = (
        f"refusals: {100 * quick / len(seconds):.1f} % of {len(seconds)} in less than "
        f"{1000 * REFUSED_WITHIN_S:g} ms, the slowest {1000 * max(seconds):.0f} ms"
    )
    return Finding(quick == len(seconds), text)


async def measure_load(args: argparse.Namespace, begun: Run) -> Run:
    """Return the run with an entry for each rate; it is written after each."""
    content: bytes = args.scan.read_bytes()
    async with open_sender(args.protocol, args.url, args.model, args.preprocessing) as send_scan:

        async def send() -> tuple[Outcome, str]:
            outcome, status, _ = await send_scan(content)
            return outcome, status

        for _ in range(args.warm_up):
            await send_on_schedule([0.0], send, clients_limit=1, timeout_s=args.timeout)
        for rate in args.rates:
            due_s = arrival_times(rate, args.seconds, args.arrivals, args.seed)
            before = _batches(args.metrics_url)
            requests = await send_on_schedule(
                due_s, send, clients_limit=args.clients_limit, timeout_s=args.timeout
            )
            entry = rate_entry(requests, rate, batches_between(before, _batches(args.metrics_url)))
            begun = dataclasses.replace(begun, entries={**begun.entries, f"{rate:g}/s": entry})
            begun.write(args.output)
            _print_rate(rate, entry)
    return begun


def _batches(url: str | None) -> Histograms:
    page = read_page(url, "/metrics") if url else None
    return {} if page is None else parse_batch_sizes(page.text)


def _print_rate(rate: float, entry: Entry) -> None:
    latency = ""
    if "ok_s" in entry.samples:
        times = summary(entry.samples["ok_s"])
        latency = ", ".join(f"{name} {times[name]:.3f} s" for name in ("p50", "p95", "p99"))
    print(f"{rate:g}/s: {entry.facts['outcomes']} {latency}", flush=True)


def _require_capacity(capacity: float, rates: Sequence[float]) -> None:
    """Raise ConfigError unless the capacity is among the rates, with a higher one to compare."""
    if capacity not in rates or capacity == max(rates):
        raise ConfigError(
            subject=f"--capacity {capacity:g}",
            expected="one of --rates, and not the highest",
            found=f"--rates {' '.join(f'{rate:g}' for rate in rates)}",
            remedy="Add it to them, and a rate two or three times as high.",
        )


def _print_verdict(run: Run, capacity: float, highest: float) -> int:
    findings = judge(run.entries[f"{capacity:g}/s"], run.entries[f"{highest:g}/s"])
    print(f"{highest:g}/s against {capacity:g}/s, the capacity:", flush=True)
    return print_findings(findings)


def print_findings(findings: Sequence[Finding]) -> int:
    """Print findings; return the exit status, 1 if one does not hold."""
    for holds, text in findings:
        print(f"  {'holds' if holds else 'does not hold'}: {text}", flush=True)
    return int(not all(finding.holds for finding in findings))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if a requirement of `--capacity` does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.load")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--url", required=True, help="of the service; HOST:PORT for gRPC")
    parser.add_argument("--metrics-url", help="where /metrics is; default: --url, if it is HTTP")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="http")
    parser.add_argument("--service", default="neurobento", help="its name in the report")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="none")
    parser.add_argument("--threads", type=int, help="NEUROBENTO_THREADS of the service")
    parser.add_argument("--rates", type=float, nargs="+", required=True, help="requests a second")
    parser.add_argument("--capacity", type=float, help="which of --rates the service can just do")
    parser.add_argument("--seconds", type=float, default=60.0, help="of arrivals at each rate")
    parser.add_argument("--arrivals", choices=ARRIVALS, default="poisson")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clients-limit", type=int, default=64, help="requests in flight at once")
    parser.add_argument("--timeout", type=float, default=120.0, help="how long a client waits, s")
    parser.add_argument("--warm-up", type=int, default=1, help="requests before the first rate")
    args = parser.parse_args(argv)
    if args.capacity is not None:
        _require_capacity(args.capacity, args.rates)
    if args.metrics_url is None and args.protocol != "grpc":
        args.metrics_url = args.url
    scenario = {key: getattr(args, key) for key in STATED if getattr(args, key) is not None}
    scenario |= {"warm_up_requests": args.warm_up, "scan_sha256": file_sha256(args.scan)}
    models = served_models(args.metrics_url) if args.metrics_url else {}
    begun = begin_run("load", scenario, models, args.output)
    done = asyncio.run(measure_load(args, begun))
    return 0 if args.capacity is None else _print_verdict(done, args.capacity, max(args.rates))


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.load"))
