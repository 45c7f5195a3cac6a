"""Whatever is cut short, wherever it is: a sweep, by a server that knows nothing of it, finds it.

Each scenario is played as often as it has operations on the database; the n-th time the n-th
operation is the last (the server is killed), or is refused, or is made and not answered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from neurobento.errors import JobNotFound, ServiceUnavailable
from neurobento.serving.jobs import Database, JobLimits, JobQueue, sweep
from neurobento.serving.jobs import database as database_module
from neurobento.serving.jobs.huey_stores import SqliteStore
from neurobento.serving.jobs.job import Attempt
from tests.neurobento.serving.jobs.conftest import LIMITS, OPTIONS, end_of, take_job
from tests.neurobento.serving.jobs.faults import Faulty, Killed, Way, dead_owner, left_over

CONTENT = b"scan of jane"
RESULT = b"result of jane"
KEY = "a-key"
SHORT = JobLimits(max_waiting=1000, keep_s=0.0, longest_s=0.0)
"""Everything that ended is over, and everything that is not done is nobody's."""

Step = Callable[[JobQueue, Path], None]


def submit(queue: JobQueue, scan: Path) -> None:
    queue.submit(scan, OPTIONS, KEY)


def take(queue: JobQueue, scan: Path) -> Attempt | None:
    submit(queue, scan)
    return queue.take()


def finish(queue: JobQueue, scan: Path) -> None:
    if attempt := take(queue, scan):
        queue.copy_scan(attempt, scan.with_name("taken"))
        queue.finish(attempt, RESULT)


def fail(queue: JobQueue, scan: Path) -> None:
    if attempt := take(queue, scan):
        queue.fail(attempt, 422, "EmptyScan", "expected a head; found none. Look.")


def give_back(queue: JobQueue, scan: Path) -> None:
    if attempt := take(queue, scan):
        queue.give_back(attempt)


def delete_waiting(queue: JobQueue, scan: Path) -> None:
    queue.delete(queue.submit(scan, OPTIONS, KEY).id)


def delete_running(queue: JobQueue, scan: Path) -> None:
    if attempt := take(queue, scan):
        queue.delete(attempt.job.id)
        queue.finish(attempt, RESULT)


def delete_done(queue: JobQueue, scan: Path) -> None:
    job = queue.submit(scan, OPTIONS, KEY)
    finish(queue, scan)
    queue.delete(job.id)


def swept(queue: JobQueue, scan: Path) -> None:
    """All that a sweep does: a job put back, one expired, an upload, a deleted job's name."""
    finish(queue, scan)
    queue.delete(queue.submit(scan, OPTIONS).id)
    queue._limits = SHORT
    queue.sweep()
    queue.sweep()


SCENARIOS: list[Step] = [submit, take, finish, fail, give_back]
SCENARIOS += [delete_waiting, delete_running, delete_done, swept]

BEGINNING: dict[Step, Step] = {
    take: submit,
    finish: take,
    fail: take,
    give_back: take,
    delete_waiting: submit,
    delete_running: take,
    delete_done: submit,
    swept: finish,
}
"""The scenario whose operations are the first ones of another."""

ENDED_EARLY: set[tuple[str, Way, Step, int]] = set()
"""Where a fault ended a scenario: one that begins with it ends there too, with the same left."""


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files in several pieces; nobody is waited for who may be tidying up himself.

    The disk is not waited for either: who is killed here is not the system.
    """
    monkeypatch.setattr(
        database_module,
        "sqlite_store",
        lambda name, file: SqliteStore(name, str(file), fsync=False),
    )
    monkeypatch.setattr(database_module, "CHUNK_BYTES", 5)
    monkeypatch.setattr(sweep, "GRACE_S", 0.0)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    file = tmp_path / "scan"
    file.write_bytes(CONTENT)
    return file


def empty(database: Database) -> None:
    for store in (database.values, database.files):
        store._store.flush_all()


def operations(url: str, database: Database, scenario: Step, scan: Path) -> int:
    """How many a scenario takes in an empty database if all goes well."""
    empty(database)
    faulty = Faulty(url, None, "killed")
    scenario(JobQueue(faulty, LIMITS, owner=dead_owner()), scan)  # type: ignore[arg-type]
    faulty.close()
    return faulty.count


def ends_of(database: Database) -> dict[str, bytes]:
    return {k: v for k, v in database.values.items().items() if k.startswith("end:")}


def state_of(end: bytes) -> str:
    return str(json.loads(end)["state"])


def come_right(database: Database, scan: Path) -> None:
    """A fresh server brings every job to its one end, and forgets them all when it is time."""
    ends = ends_of(database)
    queue = JobQueue(database, LIMITS)
    queue.sweep()
    while (attempt := queue.take()) is not None:
        queue.copy_scan(attempt, scan.with_name("read"))
        assert scan.with_name("read").read_bytes() == CONTENT
        assert attempt.lease_key.split(":")[1] not in {name.split(":")[1] for name in ends}
        assert queue.finish(attempt, RESULT)
        queue.release(attempt)
    # who was killed had no answer, and asks again: the same job, or the first of its key
    job = queue.submit(scan, OPTIONS, KEY)
    if queue.end(job) is None:
        attempt = take_job(queue)
        assert attempt.job == job
        assert queue.finish(attempt, RESULT)
        queue.release(attempt)
    end = end_of(queue, job)
    if end.state == "done":
        assert b"".join(queue.result(job, end)) == RESULT
    assert queue.take() is None
    for name, before in ends.items():
        after = database.values.get(name)
        assert after is None or state_of(after) == state_of(before), "a job was ended twice"
    time.sleep(0.002)
    last = JobQueue(database, SHORT)
    for _ in range(3):
        last.sweep()
    with pytest.raises(JobNotFound):
        last.job(job.id)
    assert left_over(database) == {}


@pytest.mark.parametrize("way", ["killed", "refused", "unanswered"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda step: str(step.__name__))
def test_every_operation_may_be_the_last(
    database_url: str, database: Database, scan: Path, scenario: Step, way: Way
) -> None:
    kind = database_url.partition(":")[0]
    for at in range(operations(database_url, database, scenario, scan)):
        begun = BEGINNING.get(scenario)
        if begun and (kind, way, begun, at) in ENDED_EARLY:
            ENDED_EARLY.add((kind, way, scenario, at))
            continue
        empty(database)
        faulty = Faulty(database_url, at, way)
        died = JobQueue(faulty, LIMITS, owner=dead_owner())  # type: ignore[arg-type]
        early = True
        try:
            scenario(died, scan)
            early = False
        except Killed:
            pass
        except ServiceUnavailable:
            assert way != "killed"
        faulty.close()
        come_right(database, scan)
        if early:
            ENDED_EARLY.add((kind, way, scenario, at))


@pytest.mark.parametrize("way", ["refused", "unanswered"])
@pytest.mark.parametrize("ending", ["finish", "fail"])
def test_an_end_that_is_tried_again_is_one_end(
    database_url: str, database: Database, scan: Path, ending: str, way: Way
) -> None:
    """Whichever operation failed, the second try ends the job and says so."""
    for at in range(30):
        empty(database)
        faulty = Faulty(database_url, None, way)
        queue = JobQueue(faulty, LIMITS)  # type: ignore[arg-type]
        job = queue.submit(scan, OPTIONS)
        attempt = take_job(queue)
        faulty.at = faulty.count + at
        steps: dict[str, Callable[[], bool]] = {
            "finish": lambda: queue.finish(attempt, RESULT),  # noqa: B023
            "fail": lambda: queue.fail(attempt, 422, "EmptyScan", "none"),  # noqa: B023
        }
        try:
            ended = steps[ending]()
        except ServiceUnavailable:
            ended = steps[ending]()
        over = faulty.count <= faulty.at
        faulty.at = None
        assert ended
        end = end_of(queue, job)
        assert end.tidy
        if ending == "finish":
            assert b"".join(queue.result(job, end)) == RESULT
        faulty.close()
        if over:
            return
    raise AssertionError("an end takes more operations than are tried")


@pytest.mark.parametrize("way", ["refused", "unanswered"])
def test_a_submission_that_is_tried_again_with_its_key_is_one_job(
    database_url: str, database: Database, scan: Path, way: Way
) -> None:
    for at in range(operations(database_url, database, submit, scan)):
        empty(database)
        faulty = Faulty(database_url, at, way)
        queue = JobQueue(faulty, LIMITS)  # type: ignore[arg-type]
        try:
            queue.submit(scan, OPTIONS, KEY)
        except ServiceUnavailable:
            queue.submit(scan, OPTIONS, KEY)
        queue.sweep()
        attempt = take_job(queue)
        queue.copy_scan(attempt, scan.with_name("read"))
        assert scan.with_name("read").read_bytes() == CONTENT
        assert queue.finish(attempt, RESULT)
        queue.release(attempt)
        assert queue.take() is None
        faulty.close()


@pytest.mark.parametrize("way", ["refused", "unanswered"])
def test_an_attempt_that_nobody_knows_of_is_not_held_for_ever(
    database_url: str, database: Database, scan: Path, way: Way
) -> None:
    """The server lives on, so that nobody else may take its attempts: it finds them itself."""
    before = operations(database_url, database, submit, scan)
    after = operations(database_url, database, lambda q, s: take(q, s) and None, scan)
    for at in range(before, after):
        empty(database)
        faulty = Faulty(database_url, at, way)
        queue = JobQueue(faulty, LIMITS)  # type: ignore[arg-type]
        submit(queue, scan)
        attempt = None
        try:
            attempt = queue.take()
        except ServiceUnavailable:
            queue.sweep()
            attempt = take_job(queue)
        assert queue.finish(attempt, RESULT)
        faulty.close()


def test_an_upload_that_stood_still_for_too_long_is_no_job(
    database: Database, scan: Path, monkeypatch: pytest.MonkeyPatch, pass_time: Any
) -> None:
    """A sweep has removed the scan: the job must not be accepted without it."""
    queue = JobQueue(database, JobLimits(max_waiting=10, keep_s=3600, longest_s=60.0))
    write = database.files.write

    def stand_still(*given: Any) -> None:
        write(*given)
        pass_time(61.0)
        JobQueue(database, queue._limits).sweep()
        JobQueue(database, queue._limits).sweep()
        assert database.files.keys() == []

    monkeypatch.setattr(database.files, "write", stand_still)
    with pytest.raises(ServiceUnavailable):
        queue.submit(scan, OPTIONS, KEY)
    assert queue.take() is None
    monkeypatch.undo()
    assert queue.submit(scan, OPTIONS, KEY)


def test_a_scan_that_is_being_copied_in_is_left_alone(
    database: Database, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, other = JobQueue(database, LIMITS), JobQueue(database, LIMITS)
    put = database.files._values.put

    def swept_between(*given: Any) -> None:
        put(*given)
        other.sweep()

    monkeypatch.setattr(database.files._values, "put", swept_between)
    queue.submit(scan, OPTIONS)
    attempt = take_job(queue)
    queue.copy_scan(attempt, scan.with_name("read"))
    assert scan.with_name("read").read_bytes() == CONTENT


def test_a_clock_that_is_behind_loses_no_job(
    database: Database, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server whose clock is an hour ahead the name was lost: it is put back at once."""
    ahead = time.time() + 3600
    monkeypatch.setattr("neurobento.serving.jobs.submissions.time.time", lambda: ahead)
    queue = JobQueue(database, LIMITS)
    queue.submit(scan, OPTIONS)
    assert database.values.dequeue()
    monkeypatch.undo()
    assert queue.sweep() == {"waiting": 1, "running": 0}
    assert queue.take() is not None


def test_a_sweep_counts_and_changes_nothing_that_goes_well(database: Database, scan: Path) -> None:
    queue = JobQueue(database, LIMITS)
    for _ in range(3):
        queue.submit(scan, OPTIONS)
    queue.take()
    queue.finish(take_job(queue), RESULT)
    queue.send_heartbeat()

    def content() -> Any:
        values = database.values
        return {**values.items()}, database.files.keys(), values.queued_names()

    before = content()
    for _ in range(2):
        assert queue.sweep() == {"waiting": 1, "running": 1}
    assert content() == before


def test_beats_of_the_dead_go_and_those_of_the_living_stay(database: Database) -> None:
    queue = JobQueue(database, LIMITS)
    queue.send_heartbeat()
    JobQueue(database, LIMITS, owner=dead_owner()).send_heartbeat()
    queue.sweep()
    assert [name for name in database.values.items() if name.startswith("beat:")] == [
        f"beat:{queue._owner}"
    ]
