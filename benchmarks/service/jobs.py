"""Check that durable jobs survive a server that is killed again and again (SIGKILL).

    python -m benchmarks.service.jobs SCANS... --jobs 200 --kills 10 -o jobs.json \\
           [--database redis://...]

The command starts the server, and kills it while jobs are submitted and processed. Every request is
sent until accepted, and once more at the end; each job must be done once, with the labels of a
single request. At last results get a short lifetime, to see how late they expire.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.runs import Entry, begin_run
from benchmarks.service.job_server import JobServer, count_completions
from benchmarks.service.pages import served_models
from neurobento.command import run
from neurobento.files import file_sha256

__all__ = ["kill_moments", "main", "passes"]

DONE_S = 3600.0
LATE_S = 30.0
"""A result may outlive its time by this much: servers look every ten seconds."""

REMAINING_BYTES = 8 << 20
"""Allowed for SQLite's log, and for what it has not yet removed from its file."""

SENT_TWICE = 10
"""One of this many requests is sent twice."""


def kill_moments(jobs: int, kills: int) -> tuple[list[int], list[int]]:
    """Return after how many submissions, and after how many finished jobs, to kill the server.

    >>> kill_moments(200, 10)
    ([50, 100, 150], [25, 50, 75, 100, 125, 150, 175])
    """
    early = kills // 3
    late = kills - early
    return (
        [jobs * (i + 1) // (early + 1) for i in range(early)],
        [jobs * (i + 1) // (late + 1) for i in range(late)],
    )


@dataclasses.dataclass
class Trial:
    """Jobs on a server that is killed meanwhile."""

    server: JobServer
    # contents of the scans' files; job i has scan i modulo their number
    scans: Sequence[bytes]
    # lifetime of results
    keep_s: float
    # job by job, every id that the server returned for its key
    ids: list[set[str]] = dataclasses.field(default_factory=list)
    # from each kill until the server was ready again
    restarts_s: list[float] = dataclasses.field(default_factory=list)
    chance: random.Random = dataclasses.field(default_factory=lambda: random.Random(0))

    @property
    def all_ids(self) -> list[str]:
        """The ids of all jobs."""
        return [id for ids in self.ids for id in ids]

    def submit(self, number: int) -> None:
        """Send the job of this number with its key until it is accepted."""
        while len(self.ids) <= number:
            self.ids.append(set())
        scan = self.scans[number % len(self.scans)]
        self.ids[number].add(self.server.submit(scan, f"benchmark-{number}"))

    def submit_all(self, jobs: int, kills: Sequence[int]) -> None:
        """Send all jobs, and kill the server after so many."""
        for number in range(jobs):
            if number in kills:
                self.kill_and_restart()
            self.submit(number)
            if number % SENT_TWICE == 0:
                self.submit(number)

    def kill_and_restart(self) -> None:
        """Kill the server at some moment of the next second, and start it again."""
        time.sleep(self.chance.random())
        start = time.monotonic()
        self.server.kill()
        self.server.start(self.keep_s)
        self.restarts_s.append(round(time.monotonic() - start, 2))
        print(f"killed, and ready again after {self.restarts_s[-1]} s", flush=True)

    def wait(self, kills: Sequence[int]) -> None:
        """Wait until all jobs have ended, and kill the server after so many ends."""
        remaining = list(kills)
        end = time.monotonic() + DONE_S
        while time.monotonic() < end:
            states = [self.server.status(id)["state"] for id in self.all_ids]
            ended = sum(state in ("done", "failed") for state in states)
            if ended == len(states):
                return
            if remaining and ended >= remaining[0]:
                remaining.pop(0)
                self.kill_and_restart()
            time.sleep(0.5)
        raise RuntimeError("jobs did not end")

    def facts(self, expected: Sequence[bytes]) -> dict[str, Any]:
        """Return the state of all jobs, whose labels should be the expected ones by scan."""
        states = [self.server.status(id) for id in self.all_ids]
        right = sum(
            self.server.job_labels(id) == expected[number % len(self.scans)]
            for number, ids in enumerate(self.ids)
            for id in ids
        )
        completions = count_completions(self.server.log).values()
        return {
            "kills": len(self.restarts_s),
            "ids": len(self.all_ids),
            "keys_with_two_ids": sum(len(ids) > 1 for ids in self.ids),
            "done": sum(state["state"] == "done" for state in states),
            "right_labels": right,
            "ended_twice": sum(count > 1 for count in completions),
            "begun_again": sum(state["turns"] > 1 for state in states),
            "most_turns": max(state["turns"] for state in states),
        }

    def expire_all(self, keep_s: float) -> float:
        """Run one more job with a short lifetime; return how late the last result expires, in s.

        Infinite if a result is missing early or any job remains.
        """
        self.server.stop()
        self.server.start(keep_s)
        number = len(self.ids)
        self.submit(number)
        (id,) = self.ids[number]
        while self.server.status(id).get("state") != "done":
            time.sleep(0.1)
        ended = time.monotonic()
        early = self.server.job_labels(id)
        while self.server.status(id).get("error", {}) is None:
            time.sleep(0.1)
        expired = time.monotonic()
        if not early or any("state" in self.server.status(each) for each in self.all_ids):
            return float("inf")
        return round(expired - ended - keep_s, 2)


def run_trial(args: argparse.Namespace, server: JobServer) -> dict[str, Entry]:
    """Submit, kill, wait and expire; return the entries of the jobs and of the database."""
    scans = [path.read_bytes() for path in args.scans]
    trial = Trial(server, scans, keep_s=10 * DONE_S)
    server.start(trial.keep_s)
    expected = [server.direct_labels(scan) for scan in scans]
    sizes = {"empty": server.database_bytes()}
    early, late = kill_moments(args.jobs, args.kills)
    trial.submit_all(args.jobs, early)
    sizes["all waiting"] = server.database_bytes()
    trial.wait(late)
    for number in range(args.jobs):
        trial.submit(number)
    facts = {"jobs": args.jobs, **trial.facts(expected)}
    sizes["all done"] = server.database_bytes()
    late_s = trial.expire_all(args.keep)
    sizes["all gone"] = server.database_bytes()
    samples = {"ready_again_s": trial.restarts_s, "gone_after_their_time_s": [late_s]}
    return {
        "jobs": Entry(facts, samples),
        "database": Entry({"kind": server.database.partition("://")[0], "bytes": sizes}),
    }


def passes(entries: Mapping[str, Entry]) -> bool:
    """Return whether every job was done once, right and expired, and the database shrank again."""
    facts, samples = entries["jobs"].facts, entries["jobs"].samples
    sizes = entries["database"].facts["bytes"]
    return (
        facts["done"] == facts["right_labels"] == facts["ids"] == facts["jobs"]
        and not facts["keys_with_two_ids"]
        and not facts["ended_twice"]
        and max(samples["gone_after_their_time_s"]) < LATE_S
        and sizes["all gone"] <= sizes["empty"] + REMAINING_BYTES
    )


@contextlib.contextmanager
def _server(database: str | None) -> Iterator[JobServer]:
    with tempfile.TemporaryDirectory(prefix="neurobento-jobs-") as folder:
        server = JobServer(Path(folder), database)
        try:
            yield server
        finally:
            server.stop()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; exit with 1 if a job was lost, done twice, wrong, or kept for too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.service.jobs")
    parser.add_argument("scans", type=Path, nargs="+", help="on the network grid")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--keep", type=float, default=20, help="lifetime of the last result, s")
    parser.add_argument("--database", help="URL of an empty database; default: SQLite")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args(argv)
    scenario: dict[str, Any] = {key: getattr(args, key) for key in ("jobs", "kills", "keep")}
    scenario["scans_sha256"] = [file_sha256(path) for path in args.scans]
    with _server(args.database) as server:
        begun = begin_run("jobs", scenario, {}, args.output)
        entries = run_trial(args, server)
        done = dataclasses.replace(begun, entries=entries, models=served_models(server.url))
    done.write(args.output)
    for name, entry in done.entries.items():
        print(f"{name}: {dict(entry.facts)} {dict(entry.samples)}", flush=True)
    return int(not passes(done.entries))


if __name__ == "__main__":
    raise SystemExit(run(main, "benchmarks.service.jobs"))
