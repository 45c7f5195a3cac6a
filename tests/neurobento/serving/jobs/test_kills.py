"""Servers that are killed with -9, again and again, and the jobs that they were at."""

from __future__ import annotations

import collections
import contextlib
import functools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import redis

from neurobento.errors import JobNotFound
from neurobento.serving.jobs import Database, JobLimits, JobQueue
from neurobento.serving.jobs.job import Attempt
from tests.neurobento.serving.jobs.conftest import OPTIONS
from tests.neurobento.serving.jobs.faults import left_over
from tests.neurobento.serving.jobs.processes import lines, result_of, scan_of, serve, submit
from tests.neurobento.serving.waiting import wait_for

# tens of seconds on an idle machine
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

JOBS, KILLS, SERVERS = 120, 10, 3
LIMITS = JobLimits(max_waiting=1000, keep_s=3600, longest_s=3600)
KEEP_S = 3.0
WAIT_S = 120
"""On a machine that others keep busy; it takes a few seconds."""

ROOM_BYTES = 64 << 10
"""Beyond what SQLite's file had after ten jobs: some pages that hold no more than an entry."""

LOG_BYTES = 8 << 20
"""SQLite's write-ahead log is used again from 4 MiB on, and may go beyond by a transaction."""


@pytest.fixture(scope="module", autouse=True)
def _forks() -> Iterator[None]:
    """Processes are forked from one that has imported what they need, which takes longer than
    what they do, and that never had a database open: SQLite's locks do not outlive a fork."""
    with pytest.MonkeyPatch.context() as patch:
        root = str(Path(__file__).resolve().parents[4])
        patch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
        processes.set_forkserver_preload(["tests.neurobento.serving.jobs.processes"])
        with running(time.sleep, 0):
            pass
        yield


processes = multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def running(work: Callable[..., None], *given: Any) -> Iterator[BaseProcess]:
    """A process, killed at the end if it still runs."""
    process = processes.Process(target=work, args=given, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


wait_until = functools.partial(wait_for, what="it did not come true", limit_s=WAIT_S)


def run_killed(url: str, folder: Path) -> None:
    """Submit jobs while servers, and the client, are killed, and wait until all have ended."""
    accepted, ended = folder / "accepted", folder / "ended"
    chance = random.Random(0)
    numbers = range(10, 10 + JOBS)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(serve, url, LIMITS, ended)) for _ in range(SERVERS)]
        client = stack.enter_context(running(submit, url, LIMITS, accepted, numbers))
        for kill in range(KILLS):
            wait_until(lambda: len(lines(accepted)) >= (kill + 1) * JOBS // (KILLS + 1))  # noqa: B023
            time.sleep(chance.uniform(0, 0.1))
            victim = chance.randrange(SERVERS)
            os.kill(servers[victim].pid or 0, signal.SIGKILL)
            servers[victim].join()
            servers[victim] = stack.enter_context(running(serve, url, LIMITS, ended))
            if kill % 3 == 1:
                client.kill()
                client.join()
                client = stack.enter_context(running(submit, url, LIMITS, accepted, numbers))
        wait_until(lambda: len(lines(accepted)) == JOBS)
        database = Database(url)
        queue = JobQueue(database, LIMITS)
        for line in lines(accepted):
            wait_until(lambda: queue.end(queue.job(line.split()[1])) is not None)  # noqa: B023
        database.close()


def check_ended_once(url: str, folder: Path) -> None:
    """Every job that was accepted is done, once, with its own result, and there are no others."""
    accepted = dict(line.split() for line in lines(folder / "accepted"))
    assert len(accepted) == len(set(accepted.values())) == JOBS
    noted = collections.Counter(line.split()[0] for line in lines(folder / "ended"))
    assert set(noted.values()) == {1}, "a job was ended twice"
    attempts = [int(line.split()[1]) for line in lines(folder / "ended")]
    assert max(attempts) > 1, "nobody was killed over a job"
    # who is killed between an end and its line leaves none: two jobs at a time, ten times
    assert len(noted) >= JOBS - 2 * KILLS
    database = Database(url)
    queue = JobQueue(database, LIMITS)
    for number, id in accepted.items():
        job = queue.job(id)
        end = queue.end(job)
        assert end is not None
        assert end.state == "done"
        assert b"".join(queue.result(job, end)) == result_of(scan_of(int(number)))
    assert len(left_over(database)["job"]) == JOBS
    assert not noted.keys() - set(accepted.values())
    scan = folder / "repeated"
    for number in list(accepted)[::20]:
        scan.write_bytes(scan_of(int(number)))
        assert queue.submit(scan, OPTIONS, f"key-{number}").id == accepted[number]
    assert len(left_over(database)["job"]) == JOBS
    database.close()


def forget_all(url: str) -> None:
    """Sweep until nothing is left, as servers do whose results live for a second."""
    database = Database(url)
    queue = JobQueue(database, JobLimits(max_waiting=1000, keep_s=1.0, longest_s=1.0))
    wait_until(lambda: bool(queue.sweep()) and left_over(database) == {})
    database.close()


def sizes(url: str) -> tuple[int, int]:
    """Bytes of SQLite's file, and of its write-ahead log."""
    file = Path(url.removeprefix("sqlite:///"))
    log = file.with_name(f"{file.name}-wal")
    return file.stat().st_size, log.stat().st_size if log.exists() else 0


def run_ten(url: str, folder: Path) -> None:
    with running(serve, url, LIMITS, folder / "first-ended"):
        submit(url, LIMITS, folder / "first", range(10))
        wait_until(lambda: len(lines(folder / "first-ended")) == 10)
    forget_all(url)


def test_jobs_outlive_servers_that_are_killed(database_url: str, tmp_path: Path) -> None:
    run_ten(database_url, tmp_path)
    on_sqlite = database_url.startswith("sqlite")
    before = sizes(database_url) if on_sqlite else (0, 0)
    run_killed(database_url, tmp_path)
    check_ended_once(database_url, tmp_path)
    # held open, so that no last one to leave tidies up
    held = Database(database_url)
    held.values.queued_names()
    forget_all(database_url)
    if on_sqlite:
        file, log = sizes(database_url)
        assert log <= LOG_BYTES
        assert file <= before[0] + LOG_BYTES
    held.close()
    if on_sqlite:
        assert sum(sizes(database_url)) <= sum(before) + ROOM_BYTES
    else:
        with redis.Redis.from_url(database_url) as asked:
            assert asked.keys() == [b"huey.results.neurobento"]
            names = {name.partition(b":")[0] for name in asked.hkeys("huey.results.neurobento")}
            assert names <= {b"secret", b"beat"}


def test_results_are_there_until_their_time_and_then_gone(
    database_url: str, tmp_path: Path
) -> None:
    limits = JobLimits(max_waiting=1000, keep_s=KEEP_S, longest_s=KEEP_S)
    with running(serve, database_url, limits, tmp_path / "ended"):
        submit(database_url, limits, tmp_path / "accepted", range(5))
        database = Database(database_url)
        # one that removes nothing itself
        queue = JobQueue(database, LIMITS)
        jobs = [queue.job(line.split()[1]) for line in lines(tmp_path / "accepted")]
        for job in jobs:
            wait_until(lambda: queue.end(job) is not None)  # noqa: B023
        last = queue.end(jobs[-1])
        assert last is not None
        if time.time() < last.ended + KEEP_S - 0.5:
            queue.job(jobs[-1].id)
            assert b"".join(queue.result(jobs[-1], last)) == result_of(scan_of(4))
        wait_until(lambda: "job" not in left_over(database))
        assert time.time() >= last.ended + KEEP_S, "a result went too early"
        wait_until(lambda: left_over(database) == {})
        with pytest.raises(JobNotFound):
            queue.job(jobs[0].id)
        database.close()


def take_and_stand_still(url: str, log: Path) -> None:
    """Take a job, stand still until somebody says go on, and end it."""
    queue = JobQueue(Database(url), LIMITS)
    attempt: Attempt | None = None
    while attempt is None:
        attempt = queue.take()
    log.touch()
    os.kill(os.getpid(), signal.SIGSTOP)
    log.with_name("answer").write_text(str(queue.finish(attempt, result_of(scan_of(0)))))


def test_a_server_that_stands_still_keeps_its_job_and_goes_on(
    database_url: str, tmp_path: Path
) -> None:
    log = tmp_path / "taken"
    with running(take_and_stand_still, database_url, log) as stopped:
        submit(database_url, LIMITS, tmp_path / "accepted", range(1))
        wait_until(log.exists)
        with running(serve, database_url, LIMITS, tmp_path / "ended"):
            submit(database_url, LIMITS, tmp_path / "accepted", range(1, 4))
            wait_until(lambda: len(lines(tmp_path / "ended")) == 3)
            os.kill(stopped.pid or 0, signal.SIGCONT)
            wait_until((tmp_path / "answer").exists)
            stopped.join(WAIT_S)
    assert (tmp_path / "answer").read_text() == "True"
    first = lines(tmp_path / "accepted")[0].split()[1]
    assert first not in {line.split()[0] for line in lines(tmp_path / "ended")}
