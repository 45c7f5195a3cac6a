"""Jobs' databases: a SQLite file, and a Redis server of the tests' own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from neurobento.serving.jobs import Database, JobLimits, JobQueue, owners
from neurobento.serving.jobs.job import Attempt, End, Job
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from tests.neurobento.serving.fakes import Clock
from tests.neurobento.serving.waiting import wait_for

OPTIONS = ParcellationOptions("regions", "none", "native")
DATABASES = ("sqlite", "redis")
LIMITS = JobLimits(max_waiting=1000, keep_s=3600, longest_s=3600)


def take_job(queue: JobQueue) -> Attempt:
    attempt = queue.take()
    assert attempt is not None
    return attempt


def end_of(queue: JobQueue, job: Job) -> End:
    end = queue.end(job)
    assert end is not None
    return end


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a free port that writes everything to disk; skipped where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("JOBS ARE NOT TESTED WITH REDIS: install Debian's package redis-server")
    folder = tmp_path_factory.mktemp("redis")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--bind", "127.0.0.1", "--port", f"{port}", "--dir", f"{folder}", "--save", ""]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([program, *options, "--appendonly", "yes"], stdout=log)
    try:
        wait_for(lambda: _answers(port), f"Redis, whose log is {folder / 'log'}")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    with redis.Redis(port=port) as client, contextlib.suppress(redis.ConnectionError):
        return bool(client.ping())
    return False


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs' / 'jobs.sqlite'}"
    url: str = request.getfixturevalue("redis_url")
    with redis.Redis.from_url(url) as emptied:
        emptied.flushall()
    return url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    opened = Database(database_url)
    yield opened
    opened.close()


@pytest.fixture
def queue(database: Database) -> JobQueue:
    return JobQueue(database, LIMITS)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by which entries expire."""
    now, passed = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: now() + sum(passed))
    return passed.append


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which owners' heartbeats are judged."""
    fake = Clock()
    monkeypatch.setattr(owners, "time", fake)
    return fake


@pytest.fixture
def scan_file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(content: bytes = b"a scan") -> Path:
        file = tmp_path / "submitted"
        file.write_bytes(content)
        return file

    return write


@pytest.fixture
def submit(queue: JobQueue, scan_file: Any) -> Callable[..., Any]:
    return lambda content=b"a scan", key=None: queue.submit(scan_file(content), OPTIONS, key)
