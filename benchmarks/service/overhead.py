"""Measure the time that a running service adds to calling the library in process.

    python -m benchmarks.service.overhead SCAN --url http://127.0.0.1:3000 -o overhead.json

The library and the service (over HTTP, and over gRPC) take turns with one scan, then with `--scans`
scans: the library in a loop, the service from several clients at once.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.runs import Entry, begin_run, summary
from benchmarks.service.load import Finding, print_findings
from benchmarks.service.protocols import SendScan, add_service_options, open_senders
from neurobento.backends import open_backend
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.imaging.scan import read_scan
from neurobento.parcellation.outputs import dseg_bytes
from neurobento.parcellation.parcellator import Parcellator
from neurobento.preprocessing.mode import Preprocessing
from neurobento.preprocessing.threads import limit_threads
from neurobento.registry import find_model

__all__ = ["IN_PROCESS", "judge", "main", "measure"]

IN_PROCESS = "in process"

MOST_ALONE = 1.15
LEAST_MANY = 1.0
"""Limits for each protocol, as multiples of the library in process."""

GetLabels = Callable[[], Awaitable[bytes]]

STATED = (
    *("rounds", "repeats", "warm_up", "clients", "scans"),
    *("threads", "model", "preprocessing"),
)
"""Options that are recorded in the scenario."""


async def measure(args: argparse.Namespace) -> dict[str, Entry]:
    """Return samples of the library and of each protocol, one client alone and many at once."""
    content: bytes = args.scan.read_bytes()
    async with open_senders(args.url, args.grpc_url, args.model, args.preprocessing) as senders:
        callers: dict[str, GetLabels] = {IN_PROCESS: _library(args)}
        callers |= {protocol: _service(send, content) for protocol, send in senders.items()}
        await _require_equal_labels(callers)
        for _ in range(args.warm_up):
            for get_labels in callers.values():
                await get_labels()
        alone: dict[str, list[float]] = {name: [] for name in callers}
        for _ in range(args.rounds):
            for name, get_labels in callers.items():
                alone[name].append(await _seconds(get_labels, 1, 1))
        clients = {name: 1 if name == IN_PROCESS else args.clients for name in callers}
        many: dict[str, list[float]] = {name: [] for name in callers}
        for _ in range(args.repeats):
            for name, get_labels in callers.items():
                seconds = await _seconds(get_labels, args.scans, clients[name])
                many[name].append(args.scans / seconds)
    return {
        name: Entry(
            {"clients_at_once": clients[name]}, {"alone_s": alone[name], "scans_per_s": many[name]}
        )
        for name in callers
    }


async def _require_equal_labels(callers: Mapping[str, GetLabels]) -> None:
    labels = {name: await get_labels() for name, get_labels in callers.items()}
    differing = [name for name in labels if labels[name] != labels[IN_PROCESS]]
    if differing:
        raise ConfigError(
            subject="the service",
            expected="the labels that the library gives",
            found=f"other labels over {' and '.join(differing)}",
            remedy="Give the library the --model, --threads and precision of the service.",
        )


def _library(args: argparse.Namespace) -> GetLabels:
    limit_threads(args.threads)
    parcellator = Parcellator(open_backend(find_model(args.model), threads=args.threads))
    preprocessing: Preprocessing = args.preprocessing

    async def get_labels() -> bytes:
        return dseg_bytes(parcellator.parcellate(read_scan(args.scan), preprocessing))

    return get_labels


def _service(send_scan: SendScan, content: bytes) -> GetLabels:
    async def get_labels() -> bytes:
        outcome, status, labels = await send_scan(content)
        if outcome != "ok":
            raise ConfigError(
                subject="the service",
                expected="an answer to every request",
                found=status,
                remedy="Let nothing else use it, and give it more NEUROBENTO_SLOTS than clients.",
            )
        return labels

    return get_labels


async def _seconds(get_labels: GetLabels, scans: int, clients: int) -> float:
    remaining = iter(range(scans))

    async def client() -> None:
        for _ in remaining:
            await get_labels()

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start


def judge(medians: Mapping[str, Mapping[str, float]]) -> list[Finding]:
    """Return two findings per protocol; `medians` are caller -> quantity -> median."""
    own = medians[IN_PROCESS]
    findings = []
    for name, found in medians.items():
        if name != IN_PROCESS:
            alone, many = (found[key] / own[key] for key in ("alone_s", "scans_per_s"))
            text = f"{name}, one client: {alone:.2f} x in process (at most {MOST_ALONE:g} x)"
            findings.append(Finding(alone <= MOST_ALONE, text))
            text = f"{name}, several: {many:.2f} x the loop's scans/s (at least {LEAST_MANY:g} x)"
            findings.append(Finding(many >= LEAST_MANY, text))
    return findings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if a requirement does not hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.overhead")
    parser.add_argument("scan", type=Path)
    add_service_options(parser)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument(
        "--warm-up", type=int, default=4, help="scans of each caller before the first"
    )
    parser.add_argument("--repeats", type=int, default=3, help="of the many at once")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--scans", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2, help="of the service's runner, and ours")
    args = parser.parse_args(argv)
    scenario = {key: getattr(args, key) for key in STATED}
    scenario["scan_sha256"] = file_sha256(args.scan)
    spec = find_model(args.model).spec
    begun = begin_run("overhead", scenario, {spec.name: spec.onnx_sha256}, args.output)
    done = dataclasses.replace(begun, entries=asyncio.run(measure(args)))
    done.write(args.output)
    medians = {
        name: {quantity: summary(values)["p50"] for quantity, values in entry.samples.items()}
        for name, entry in done.entries.items()
    }
    _print_medians(medians)
    return print_findings(judge(medians))


def _print_medians(medians: Mapping[str, Mapping[str, float]]) -> None:
    own = medians[IN_PROCESS]
    for name, values in medians.items():
        parts = [
            f"{v:.3f} {quantity} ({v / own[quantity]:.2f} x)" for quantity, v in values.items()
        ]
        print(f"{name}: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.overhead"))
