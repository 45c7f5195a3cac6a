"""Durable jobs while the server is killed with -9 again and again: does each end, once, and right?

    python -m benchmarks.service.jobs SCANS... --jobs 200 --kills 10 -o jobs.json [--database redis://...]

The scans are on the network grid. The server is started by this command, as `scripts/serve` does,
with a database that it is told or with SQLite in a new folder. A third of the kills fall while jobs
are submitted, the others while they are worked on; after each the server is started again. Every
request has an idempotency key, is sent again with it until it is accepted, and every tenth once
more; at the end all keys are sent once more.

Then each accepted job has to be done, its labels those of a single request, no key may stand
for two jobs, and the log may tell of one end at most for each. At last the server is started with
a short life for results: how late they are no longer found is measured, and what is left of the
database's size.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import random
import signal
import socket
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import Entry, begin_run
from benchmarks.service.soak import models_of
from neurobento.command import run
from neurobento.errors import ConfigError
from neurobento.files import file_sha256
from neurobento.registry import DEFAULT_MODEL

__all__ = ["JobServer", "ends_in", "is_well", "main", "moments"]

ROOT = Path(__file__).resolve().parents[2]
READY_S, DONE_S = 180.0, 3600.0
LATE_S = 30.0
"""After its time a result may still be there for so long: servers look every ten seconds."""

LEFT_BYTES = 8 << 20
"""SQLite's log, and what it has not yet taken out of its file."""

LABELS = "scan_dseg.nii.gz"
AGAIN = 10
"""Every so many requests, one is sent twice."""


class JobServer:
    """A server that can be killed and started again on what it left.

    Parameters
    ----------
    folder
        For its BENTOML_HOME, its log, and SQLite's file.
    database
        URL of another database; None for SQLite.
    """

    def __init__(self, folder: Path, database: str | None) -> None:
        self.file = folder / "jobs.sqlite"
        self.database = database or f"sqlite:///{self.file}"
        self.log = folder / "log"
        self._home = folder / "home"
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, keep_s: float) -> None:
        """Start it, and wait until it is ready.

        Raises
        ------
        ConfigError
            It does not get ready.
        """
        environment = os.environ | {
            "BENTOML_HOME": str(self._home),
            "NEUROBENTO_JOBS": self.database,
            "NEUROBENTO_JOBS_KEEP_S": str(keep_s),
            "NEUROBENTO_GRPC_PORT": "0",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [ROOT / "scripts/serve", "--port", str(self._port)],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + READY_S
        while not self._is_ready():
            if time.monotonic() > end or self._process.poll() is not None:
                raise ConfigError(
                    subject="the server",
                    expected=f"readiness within {READY_S:g} s",
                    found="none",
                    remedy="See its log.",
                )
            time.sleep(0.25)

    def kill(self) -> None:
        """SIGKILL to the first process; the others end with it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(READY_S)

    def database_bytes(self) -> int:
        """What the database takes: of SQLite its files, of Redis its memory."""
        if self.database.startswith("sqlite"):
            found = self.file.parent.glob(f"{self.file.name}*")
            return sum(path.stat().st_size for path in found)
        from redis import Redis

        with contextlib.closing(Redis.from_url(self.database)) as redis:
            return sum(int(redis.memory_usage(key) or 0) for key in redis.scan_iter())

    def _is_ready(self) -> bool:
        import httpx

        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/readyz", timeout=5).status_code == 200
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def moments(jobs: int, kills: int) -> tuple[list[int], list[int]]:
    """After how many submissions, and after how many ends, the server is killed.

    >>> moments(200, 10)
    ([50, 100, 150], [25, 50, 75, 100, 125, 150, 175])
    """
    early = kills // 3
    late = kills - early
    return (
        [jobs * (i + 1) // (early + 1) for i in range(early)],
        [jobs * (i + 1) // (late + 1) for i in range(late)],
    )


@dataclasses.dataclass
class Torment:
    """A run under way.

    Attributes
    ----------
    server
        Tormented.
    scans
        Contents of the scans' files; job i is of the one at i modulo their number.
    keep_s
        Life of results meanwhile.
    ids
        Job by job, every id that its key was answered with.
    restarts_s
        From each kill until the server was ready again.
    """

    server: JobServer
    scans: Sequence[bytes]
    keep_s: float
    ids: list[set[str]] = dataclasses.field(default_factory=list)
    restarts_s: list[float] = dataclasses.field(default_factory=list)
    chance: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))

    def submit(self, number: int) -> None:
        """Send a scan with its key until it is accepted."""
        import httpx

        while len(self.ids) <= number:
            self.ids.append(set())
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                answer = httpx.post(
                    f"{self.server.url}/v1/jobs",
                    files={"file": ("scan", self.scans[number % len(self.scans)])},
                    data={"preprocessing": "none", "model": DEFAULT_MODEL},
                    headers={"idempotency-key": f"benchmark-{number}"},
                    timeout=60,
                )
                if answer.status_code == 202:
                    self.ids[number].add(answer.json()["id"])
                    return
            time.sleep(0.2)
        raise RuntimeError("a job was not accepted")

    def strike(self) -> None:
        """Kill the server at some moment of the next second, and start it again."""
        time.sleep(self.chance.random())
        start = time.monotonic()
        self.server.kill()
        self.server.start(self.keep_s)
        self.restarts_s.append(round(time.monotonic() - start, 2))
        print(f"killed, and ready again after {self.restarts_s[-1]} s", flush=True)

    def submit_all(self, jobs: int, kills: Sequence[int]) -> None:
        """All jobs, with kills in between; a request may be under way at each."""
        for number in range(jobs):
            if number in kills:
                self.strike()
            self.submit(number)
            if number % AGAIN == 0:
                self.submit(number)

    def wait(self, kills: Sequence[int]) -> None:
        """Until no job waits or runs, with kills after so many ends."""
        left = list(kills)
        end = time.monotonic() + DONE_S
        while time.monotonic() < end:
            states = [self.status(each)["state"] for ids in self.ids for each in ids]
            ended = sum(state in ("done", "failed") for state in states)
            if ended == len(states):
                return
            if left and ended >= left[0]:
                left.pop(0)
                self.strike()
            time.sleep(0.5)
        raise RuntimeError("jobs did not end")

    def status(self, id: str) -> dict[str, Any]:
        """What the server says of a job."""
        import httpx

        return dict(httpx.get(f"{self.server.url}/v1/jobs/{id}", timeout=60).json())

    def labels(self, id: str) -> bytes:
        """The labels that a job ended with; empty if it did not end well."""
        import httpx

        answer = httpx.get(f"{self.server.url}/v1/jobs/{id}/result", timeout=60)
        if answer.status_code != 200:
            return b""
        with zipfile.ZipFile(io.BytesIO(answer.content)) as files:
            return files.read(LABELS)


def ends_in(log: Path) -> dict[str, int]:
    """Job -> how often a server's log says that it ended well."""
    found: dict[str, int] = {}
    for line in log.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            values = json.loads(line) if line.startswith("{") else {}
            if values.get("protocol") == "job" and values.get("status") == 200:
                found[values["request_id"]] = found.get(values["request_id"], 0) + 1
    return found


def torment(args: argparse.Namespace, server: JobServer) -> dict[str, Entry]:
    """Everything, in its order."""
    scans = [path.read_bytes() for path in args.scans]
    run_ = Torment(server, scans, keep_s=10 * DONE_S)
    server.start(run_.keep_s)
    expected = [_labels_alone(server, scan) for scan in scans]
    empty = server.database_bytes()
    early, late = moments(args.jobs, args.kills)
    run_.submit_all(args.jobs, early)
    full = server.database_bytes()
    run_.wait(late)
    for number in range(args.jobs):
        run_.submit(number)
    found = [run_.status(each) for ids in run_.ids for each in ids]
    right = sum(
        run_.labels(each) == expected[number % len(scans)]
        for number, ids in enumerate(run_.ids)
        for each in ids
    )
    ends = ends_in(server.log)
    done = server.database_bytes()
    facts = {
        "jobs": args.jobs,
        "kills": len(run_.restarts_s),
        "ids": sum(len(ids) for ids in run_.ids),
        "keys_with_two_ids": sum(len(ids) > 1 for ids in run_.ids),
        "done": sum(each["state"] == "done" for each in found),
        "right_labels": right,
        "ended_twice": sum(count > 1 for count in ends.values()),
        "begun_again": sum(each["turns"] > 1 for each in found),
        "most_turns": max(each["turns"] for each in found),
    }
    late_s = _until_all_gone(run_, args.keep)
    sizes = {"empty": empty, "all waiting": full, "all done": done}
    sizes["all gone"] = server.database_bytes()
    samples = {"ready_again_s": run_.restarts_s, "gone_after_their_time_s": [late_s]}
    return {
        "jobs": Entry(facts, samples),
        "database": Entry({"kind": server.database.partition("://")[0], "bytes": sizes}),
    }


def _labels_alone(server: JobServer, scan: bytes) -> bytes:
    import httpx

    answer = httpx.post(
        f"{server.url}/v1/parcellation",
        files={"file": ("scan", scan)},
        data={"preprocessing": "none", "model": DEFAULT_MODEL},
        headers={"accept": "application/gzip"},
        timeout=600,
    )
    answer.raise_for_status()
    return answer.content


def _until_all_gone(run_: Torment, keep_s: float) -> float:
    """A last job with a short life: seconds from the end of its life until nothing is there."""
    run_.server.stop()
    run_.server.start(keep_s)
    number = len(run_.ids)
    run_.submit(number)
    (id,) = run_.ids[number]
    while run_.status(id).get("state") != "done":
        time.sleep(0.1)
    ended = time.monotonic()
    early = run_.labels(id)
    while run_.status(id).get("error", {}) is None:
        time.sleep(0.1)
    gone = time.monotonic()
    others = [each for ids in run_.ids for each in ids]
    if not early or any("state" in run_.status(each) for each in others):
        return float("inf")
    return round(gone - ended - keep_s, 2)


@contextlib.contextmanager
def _server(database: str | None) -> Iterator[JobServer]:
    with tempfile.TemporaryDirectory(prefix="neurobento-jobs-") as folder:
        server = JobServer(Path(folder), database)
        try:
            yield server
        finally:
            server.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 if a job was lost, done twice, wrong, or kept for too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.jobs")
    parser.add_argument("scans", type=Path, nargs="+", help="on the network grid")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--keep", type=float, default=20, help="life of the last result, s")
    parser.add_argument("--database", help="URL of an empty database; default: SQLite")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    scenario: dict[str, Any] = {key: getattr(args, key) for key in ("jobs", "kills", "keep")}
    scenario["scans_sha256"] = [file_sha256(path) for path in args.scans]
    with _server(args.database) as server:
        begun = begin_run("jobs", scenario, {})
        begun.require_writable(args.output)
        entries = torment(args, server)
        done = dataclasses.replace(begun, entries=entries, models=models_of(server.url))
    done.write(args.output)
    for name, entry in done.entries.items():
        print(f"{name}: {dict(entry.facts)} {dict(entry.samples)}", flush=True)
    return int(not is_well(done.entries))


def is_well(entries: Mapping[str, Entry]) -> bool:
    """Every job done once, right, and gone in time; the database no larger than it was."""
    facts, samples = entries["jobs"].facts, entries["jobs"].samples
    sizes = entries["database"].facts["bytes"]
    return (
        facts["done"] == facts["right_labels"] == facts["ids"] == facts["jobs"]
        and not facts["keys_with_two_ids"]
        and not facts["ended_twice"]
        and max(samples["gone_after_their_time_s"]) < LATE_S
        and sizes["all gone"] <= sizes["empty"] + LEFT_BYTES
    )


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.jobs"))
