"""Check that a started container is isolated and answers as the CLI does.

    nsenter --net=/proc/PID/ns/net python -m benchmarks.container --pid PID --started SECONDS \\
        --image inspected.json --store STORE --root ROOT --scan head.nii.gz -o FILE

`scripts/containerize-check` builds the image, starts it, and runs this. The container gets a scan,
a slice of it and a job, then SIGTERM; every answer is compared with the CLI's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.container.comparison import compare_scan, compare_slice, write_middle_slice
from benchmarks.container.image import (
    folder_bytes,
    image_layers,
    largest_packages,
    read_stored,
    start_facts,
)
from benchmarks.container.lockdown import kernel_facts, violations
from benchmarks.machine import load_warnings, machine_facts
from neurobento.client import Client, Retries
from neurobento.errors import ConfigError, ServiceError
from neurobento.files import file_sha256
from neurobento.preprocessing.mode import PREPROCESSINGS

__all__ = ["main", "wait_until"]

CONTAINER_FORMAT = 1
"""Version of the file that `main` writes."""

URL = "http://127.0.0.1:3000"
READY_LIMIT_S = 300.0
STOP_LIMIT_S = 60.0
ANSWER_LIMIT_S = 1800.0
POLL_S = 0.1


def wait_until(
    condition: Callable[[], bool], limit_s: float, what: str, alive: Callable[[], bool]
) -> None:
    """Return once a condition holds; raise ServiceError after the limit or the container's end."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end or not alive():
            raise ServiceError(
                subject="the container",
                expected=f"{what} within {limit_s:.0f} s",
                found="it is still running" if alive() else "it has ended",
                remedy="See its log.",
            )
        time.sleep(POLL_S)


def _is_running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def _is_ready() -> bool:
    with Client(URL, retries=Retries(0)) as client:
        try:
            return client.ready()
        except ServiceError:
            return False


def _compare_answers(scan: Path, preprocessing: Any) -> dict[str, Any]:
    """Return the container's answers compared with the CLI's."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "slice.png"
        write_middle_slice(scan, image)
        with Client(URL, timeout_s=ANSWER_LIMIT_S) as client:
            _log(f"a scan of {scan.stat().st_size} bytes, preprocessing {preprocessing} ...")
            start = time.perf_counter()
            parcellation = client.parcellate(scan, preprocessing=preprocessing)
            seconds = time.perf_counter() - start
            _log(f"answered after {seconds:.0f} s; the same with the CLI ...")
            scan_facts = compare_scan(parcellation, scan, preprocessing)
            slice_facts = compare_slice(client.anomaly(image), image)
            _log("and as a job ...")
            job = client.job_answer(client.submit(scan, preprocessing=preprocessing))
    return {
        "scan": {
            "sha256": file_sha256(scan),
            "preprocessing": preprocessing,
            "seconds": seconds,
            **scan_facts,
        },
        "slice": slice_facts,
        "job": {"different": [] if job.dseg == parcellation.dseg else ["labels"]},
    }


def _stop(pid: int) -> float:
    """Return the seconds from SIGTERM until the container has ended."""
    start = time.perf_counter()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not _is_running(pid), STOP_LIMIT_S, "an end after SIGTERM", lambda: True)
    return time.perf_counter() - start


def _image(inspected: Path, store: Path, root: Path) -> dict[str, Any]:
    content = json.loads(inspected.read_text())
    stored_layers = image_layers(content, read_stored(store))
    return {
        "bytes": sum(layer["bytes"] for layer in stored_layers),
        "layers": stored_layers,
        "largest_packages_bytes": largest_packages(root),
        "bytecode_bytes": folder_bytes(root / "app", "*.pyc"),
        **start_facts(content),
    }


def _commit() -> str:
    """Return the commit that was built, marked if the tree differed from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40"],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _log(text: str) -> None:
    print(f"container: {text}", file=sys.stderr, flush=True)


def _check(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Return the result, and what is wrong with it."""
    machine = machine_facts()
    wait_until(_is_ready, READY_LIMIT_S, "ready", lambda: _is_running(args.pid))
    start_s = time.time() - args.started
    _log(f"ready after {start_s:.1f} s")
    answers = _compare_answers(args.scan, args.preprocessing)
    # Only after the answers have all processes been started.
    locked = kernel_facts(args.pid)
    wrong = violations(locked, args.writable, args.own)
    wrong += [f"{kind}: {each} differs" for kind in answers for each in answers[kind]["different"]]
    stop_s = _stop(args.pid)
    _log(f"ended {stop_s:.1f} s after SIGTERM")
    result = {
        "format": CONTAINER_FORMAT,
        "kind": "container",
        "base": args.base,
        "commit": _commit(),
        "environment": machine,
        "warnings": load_warnings(machine),
        "image": _image(args.image, args.store, args.root),
        "proofs": locked,
        "answers": answers,
        "start_s": [round(start_s, 2)],
        "stop_s": [round(stop_s, 2)],
        "wrong": wrong,
    }
    return result, wrong


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.container")
    parser.add_argument("--pid", type=int, required=True, help="first process of the container")
    parser.add_argument("--started", type=float, required=True, help="when, in s since 1970")
    parser.add_argument("--image", type=Path, required=True, help="output of buildah inspect")
    parser.add_argument("--store", type=Path, required=True, help="of buildah")
    parser.add_argument("--root", type=Path, required=True, help="mount point of the image")
    parser.add_argument("--base", default="", help="base of the image, in words")
    parser.add_argument("--writable", nargs="*", default=[], help="folders that may be written to")
    parser.add_argument("--own", nargs="*", default=[], help="folders of the server's own user")
    parser.add_argument("--scan", type=Path, required=True)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="full")
    parser.add_argument("-o", "--output", type=Path, help="file for the results, JSON")
    args = parser.parse_args(argv)
    result, wrong = _check(args)
    text = json.dumps(result, indent=1) + "\n"
    if args.output:
        args.output.write_text(text)
    else:
        print(text, end="")
    if wrong:
        raise ConfigError(
            subject="the container",
            expected="isolation, and the answers of the CLI",
            found="; ".join(wrong),
            remedy="See docs/serving.md on containers.",
        )
    return 0
