"""What a running service adds to calling the library in one's own process.

    python -m benchmarks.service.overhead SCAN --url http://127.0.0.1:3000 -o overhead.json

One after the other, in turns: the library reads the scan's file, parcellates it and
packs the labels; a client asks the service for the same over HTTP, and over gRPC.
Then as many scans as `--scans` says: in a loop, and by several clients at once.

Of the medians it is demanded that one client waits at most 1.15 times as long as the
library takes, and that several clients together get no fewer scans than its loop.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.runs import Entry, begin_run, summary
from benchmarks.service.clients import Ask, open_askers
from benchmarks.service.load import Finding, print_findings
from neurobento.backends import open_backend
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.imaging.scan import read_scan
from neurobento.parcellation.outputs import dseg_bytes
from neurobento.parcellation.parcellator import Parcellator
from neurobento.preprocessing.mode import PREPROCESSINGS, Preprocessing
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import DEFAULT_MODEL, find_model

__all__ = ["IN_PROCESS", "judge", "main"]

IN_PROCESS = "in process"

MOST_ALONE = 1.15
LEAST_MANY = 1.0
"""Of each protocol, as multiples of the library's in process."""

Once = Callable[[], Awaitable[bytes]]


async def measure(args: argparse.Namespace) -> dict[str, Entry]:
    """Samples of each way, alone and many at once."""
    content: bytes = args.scan.read_bytes()
    async with open_askers(args.url, args.grpc_url, args.model, args.preprocessing) as askers:
        ways: dict[str, Once] = {IN_PROCESS: _library(args)}
        ways |= {protocol: _service(ask, content) for protocol, ask in askers.items()}
        expected = {name: await once() for name, once in ways.items()}
        if len(set(expected.values())) > 1:
            raise ConfigError(
                subject="the service",
                expected="the labels that the library gives",
                found="others",
                remedy="Give the library the --model, --threads and precision of the service.",
            )
        for _ in range(args.warm_up):
            for once in ways.values():
                await once()
        alone: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, once in ways.items():
                alone[name].append(await _seconds(once, 1, 1))
        many: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.repeats):
            for name, once in ways.items():
                clients = 1 if name == IN_PROCESS else args.clients
                many[name].append(args.scans / await _seconds(once, args.scans, clients))
    return {
        name: Entry(
            {"clients_at_once": 1 if name == IN_PROCESS else args.clients},
            {"alone_s": alone[name], "scans_per_s": many[name]},
        )
        for name in ways
    }


def _library(args: argparse.Namespace) -> Once:
    limit_threads(args.threads)
    parcellator = Parcellator(open_backend(find_model(args.model), threads=args.threads))
    preprocessing: Preprocessing = args.preprocessing

    async def once() -> bytes:
        return dseg_bytes(parcellator.parcellate(read_scan(args.scan), preprocessing))

    return once


def _service(ask: Ask, content: bytes) -> Once:
    async def once() -> bytes:
        outcome, status, labels = await ask(content)
        if outcome != "ok":
            raise ConfigError(
                subject="the service",
                expected="an answer to every request",
                found=status,
                remedy="Let nothing else use it, and give it more NEUROBENTO_PLACES than clients.",
            )
        return labels

    return once


async def _seconds(once: Once, scans: int, clients: int) -> float:
    left = iter(range(scans))

    async def client() -> None:
        for _ in left:
            await once()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start


def judge(medians: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    """What each protocol adds for one client, and what several get through it.

    Parameters
    ----------
    medians
        Way -> quantity -> median; one of the ways is `IN_PROCESS`.
    """
    own = medians[IN_PROCESS]
    findings = []
    for name, found in medians.items():
        if name != IN_PROCESS:
            alone, many = (found[key] / own[key] for key in ("alone_s", "scans_per_s"))
            told = f"{name}, one client: {alone:.2f} x in process (at most {MOST_ALONE:g} x)"
            findings.append(Finding(alone <= MOST_ALONE, told))
            told = f"{name}, several: {many:.2f} x the loop's scans/s (at least {LEAST_MANY:g} x)"
            findings.append(Finding(many >= LEAST_MANY, told))
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a demand does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.overhead")
    parser.add_argument("scan", type=Path)
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc-url", help="HOST:PORT")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=4, help="scans of each way before the first")
    parser.add_argument("--repeats", type=int, default=3, help="of the many at once")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2, help="of the service's runner, and ours")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="none")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    stated = (
        "rounds",
        "repeats",
        "warm_up",
        "clients",
        "scans",
        "threads",
        "model",
        "preprocessing",
    )
    scenario = {key: getattr(args, key) for key in stated}
    scenario["scan_sha256"] = file_sha256(args.scan)
    spec = find_model(args.model).spec
    begun = begin_run("overhead", scenario, {spec.name: spec.onnx_sha256})
    begun.require_writable(args.output)
    done = dataclasses.replace(begun, entries=asyncio.run(measure(args)))
    done.write(args.output)
    medians = {
        name: {quantity: summary(values)["p50"] for quantity, values in entry.samples.items()}
        for name, entry in done.entries.items()
    }
    own = medians[IN_PROCESS]
    for name, found in medians.items():
        told = [f"{found[q]:.3f} {q} ({found[q] / own[q]:.2f} x)" for q in found]
        print(f"{name}: {', '.join(told)}", flush=True)
    return print_findings(judge(medians))


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.overhead"))
