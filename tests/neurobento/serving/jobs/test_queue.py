"""A job from its submission to its end, and what clients see of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from neurobento.errors import JobConflict, JobNotFound, ServiceBusy
from neurobento.serving.jobs import Database, JobLimits, JobQueue
from neurobento.serving.jobs import queue as module
from neurobento.serving.jobs.job import Attempt
from neurobento.serving.jobs.owners import Liveness
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from tests.neurobento.serving.fakes import Clock
from tests.neurobento.serving.jobs.conftest import LIMITS, OPTIONS, end_of, take_job
from tests.neurobento.serving.jobs.faults import dead_owner, foreign_owner, left_over

CONTENT = bytes(range(256)) * 40
RESULT = b"a zip"


def state(queue: JobQueue, id: str) -> str:
    job = queue.job(id)
    return queue.state(job, queue.leases(job), queue.end(job))


def result(queue: JobQueue, id: str) -> bytes:
    job = queue.job(id)
    end = end_of(queue, job)
    return b"".join(queue.result(job, end))


@pytest.mark.parametrize("content", [CONTENT, b""])
def test_a_job_goes_from_waiting_to_running_to_done(
    queue: JobQueue, submit: Any, tmp_path: Path, content: bytes
) -> None:
    """An empty scan is a scan."""
    job = submit(content)
    assert state(queue, job.id) == "waiting"
    assert (job.model, job.preprocessing, job.space) == ("regions", "none", "native")
    attempt = take_job(queue)
    assert state(queue, job.id) == "running"
    queue.copy_scan(attempt, tmp_path / "scan")
    assert (tmp_path / "scan").read_bytes() == content
    assert queue.take() is None
    assert queue.is_wanted(attempt)
    assert queue.finish(attempt, RESULT)
    assert not queue.is_wanted(attempt)
    assert state(queue, job.id) == "done"
    assert result(queue, job.id) == RESULT


def test_jobs_are_taken_in_the_order_they_came(queue: JobQueue, submit: Any) -> None:
    ids = [submit().id for _ in range(5)]
    assert [take_job(queue).job.id for _ in range(5)] == ids


def test_an_ended_job_keeps_its_result_alone(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    job = submit()
    queue.finish(take_job(queue), RESULT)
    assert left_over(database) == {
        "job": [f"job:{job.id}"],
        "lease": [f"lease:{job.key}:1"],
        "end": [f"end:{job.key}"],
        "files": [f"{job.key}/result/1", f"{job.key}/result/1/0"],
    }


def test_a_failed_job_says_why_and_keeps_no_file(
    queue: JobQueue, submit: Any, database: Database
) -> None:
    job = submit()
    assert queue.fail(take_job(queue), 422, "EmptyScan", "expected a head; found none. Look.")
    end = end_of(queue, job)
    assert (end.state, end.status, end.kind) == ("failed", 422, "EmptyScan")
    assert "files" not in left_over(database)


def test_a_repeated_key_is_the_first_job(queue: JobQueue, submit: Any, database: Database) -> None:
    first = submit(key="a-key")
    assert submit(key="a-key") == first
    queue.finish(take_job(queue), RESULT)
    assert submit(key="a-key") == first
    assert queue.take() is None
    assert len(left_over(database)["job"]) == 1
    assert submit(key="another").id != first.id
    assert submit().id != first.id


def test_a_key_does_not_tell_the_id(database_url: str, submit: Any) -> None:
    """Who knows a key of somebody else cannot ask for their result by it alone."""
    id = submit(key="a-key").id
    assert len(id) == 32
    assert int(id, 16)
    database = Database(database_url)
    database.values.put("secret", b"another")
    again = JobQueue(database, LIMITS)
    assert again._id_from_key("a-key") != id
    database.close()


def test_one_key_for_two_requests_is_a_conflict(
    queue: JobQueue, submit: Any, scan_file: Any
) -> None:
    submit(b"a scan", "a-key")
    with pytest.raises(JobConflict):
        submit(b"another", "a-key")
    others = (
        ("other", "none", "native"),
        ("regions", "full", "native"),
        ("regions", "none", "network"),
    )
    for options in others:
        with pytest.raises(JobConflict):
            queue.submit(scan_file(b"a scan"), ParcellationOptions(*options), "a-key")


def test_many_requests_with_one_key_make_one_job(database_url: str, tmp_path: Path) -> None:
    databases = [Database(database_url) for _ in range(4)]
    queues = [JobQueue(database, LIMITS) for database in databases]
    scan = tmp_path / "scan"
    scan.write_bytes(CONTENT)
    with ThreadPoolExecutor(4) as pool:
        jobs = list(pool.map(lambda q: q.submit(scan, OPTIONS, "a-key"), queues * 3))
    assert len({job.key for job in jobs}) == 1
    left = left_over(databases[0])
    assert len(left["job"]) == len(left["queue"]) == 1
    assert "upload" not in left
    assert left["files"] == [f"{jobs[0].key}/scan", f"{jobs[0].key}/scan/0"]
    for database in databases:
        database.close()


def test_no_two_owners_have_one_attempt(database_url: str, submit: Any) -> None:
    for _ in range(30):
        submit()
    databases = [Database(database_url) for _ in range(4)]
    queues = [JobQueue(database, LIMITS, owner=foreign_owner()) for database in databases]
    for queue in queues:
        # every job is there twice, as after two sweeps at the same time
        queue.sweep()
    names = databases[0].values.queued_names()
    for name in names:
        databases[0].values.enqueue(name)

    def take(queue: JobQueue) -> list[Attempt]:
        return list(iter(queue.take, None))

    with ThreadPoolExecutor(8) as pool:
        attempts = [attempt for got in pool.map(take, queues * 2) for attempt in got]
    assert len(attempts) == 30
    assert len({attempt.job.key for attempt in attempts}) == 30
    for database in databases:
        database.close()


def test_of_two_threads_that_claim_an_attempt_one_has_it(
    queue: JobQueue, submit: Any, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    monkeypatch.setattr(module.time, "time", lambda: 1e9)
    attempt = Attempt(job, 1)
    assert queue._claim(attempt)
    assert not queue._claim(attempt)
    # and the one that came second has not let go what the first holds
    assert queue.state(job, queue.leases(job), None) == "running"
    database.values.enqueue(job.id)
    queue.sweep()
    assert queue.take() is None


@pytest.fixture
def full(database: Database) -> JobQueue:
    return JobQueue(database, JobLimits(max_waiting=2, keep_s=3600, longest_s=3600))


def test_no_more_wait_than_may(full: JobQueue, scan_file: Any) -> None:
    ids = [full.submit(scan_file(), OPTIONS, key).id for key in ("a", "b")]
    with pytest.raises(ServiceBusy) as caught:
        full.submit(scan_file(), OPTIONS, "c")
    assert caught.value.retry_after_s
    assert full.submit(scan_file(), OPTIONS, "a").id == ids[0], "it is there already"
    take_job(full)
    full.submit(scan_file(), OPTIONS, "c")


def test_deleted_jobs_do_not_count_as_waiting(
    full: JobQueue, scan_file: Any, database: Database
) -> None:
    for _ in range(10):
        full.delete(full.submit(scan_file(), OPTIONS).id)
    assert len(database.values.queued_names()) == 10
    full.sweep()
    assert database.values.queued_names() == []
    full.submit(scan_file(), OPTIONS)
    full.submit(scan_file(), OPTIONS)
    with pytest.raises(ServiceBusy):
        full.submit(scan_file(), OPTIONS)


def test_a_deleted_job_is_gone_with_all_it_had_and_if_it_runs_ends_in_vain(
    queue: JobQueue, submit: Any, database: Database, tmp_path: Path
) -> None:
    job = submit()
    attempt = take_job(queue)
    queue.delete(job.id)
    assert not queue.is_wanted(attempt)
    with pytest.raises(JobNotFound):
        queue.copy_scan(attempt, tmp_path / "scan")
    assert not queue.finish(attempt, RESULT)
    assert "files" not in left_over(database)
    job = submit(key="a-key")
    queue.delete(job.id)
    for use in (queue.job, queue.delete):
        with pytest.raises(JobNotFound):
            use(job.id)
    assert queue.take() is None
    assert "files" not in left_over(database)
    assert submit(key="a-key").key != job.key


def test_a_deleted_job_is_not_a_later_one_of_its_key(queue: JobQueue, submit: Any) -> None:
    """A server that stood still in the middle of a deletion goes on after the key was used again.

    What it read then is removed, and nothing else."""
    first = submit(key="a-key")
    packed = queue._packed_job(first.id)
    queue.delete(first.id)
    second = submit(key="a-key")
    queue._remove(packed)
    assert queue.job(second.id) == second
    assert take_job(queue).job == second


def test_results_go_on_time(database: Database, scan_file: Any, pass_time: Any) -> None:
    """Also where no sweep has been yet; then the key makes a new job."""
    queue = JobQueue(database, JobLimits(max_waiting=10, keep_s=60.0, longest_s=3600))
    job = queue.submit(scan_file(), OPTIONS, "a-key")
    queue.finish(take_job(queue), RESULT)
    end = end_of(queue, job)
    assert queue.expires(end) == end.ended + 60
    assert result(queue, job.id) == RESULT
    pass_time(61.0)
    with pytest.raises(JobNotFound):
        queue.job(job.id)
    assert "files" not in left_over(database)
    assert queue.submit(scan_file(), OPTIONS, "a-key").key != job.key


def test_a_result_that_goes_while_it_is_read_is_an_error(
    queue: JobQueue, submit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurobento.serving.jobs.database.CHUNK_BYTES", 2)
    job = submit()
    queue.finish(take_job(queue), RESULT)
    end = end_of(queue, job)
    pieces = queue.result(job, end)
    assert next(pieces) == RESULT[:2]
    queue.delete(job.id)
    with pytest.raises(JobNotFound):
        list(pieces)


@pytest.fixture
def other(database: Database) -> Callable[[str], JobQueue]:
    """Another server's queue."""
    return lambda owner: JobQueue(database, LIMITS, owner=owner)


def test_a_dead_owners_job_is_anothers(
    queue: JobQueue, submit: Any, other: Any, database: Database
) -> None:
    dead = other(dead_owner())
    job = submit()
    lost = take_job(dead)
    assert state(queue, job.id) == "waiting"
    queue.sweep()
    attempt = take_job(queue)
    assert (attempt.job, attempt.number) == (job, 2)
    assert queue.finish(attempt, RESULT)
    # it was not dead, but stood still
    assert not dead.finish(lost, b"late")
    assert not dead.fail(lost, 500, "Late", "late")
    assert result(queue, job.id) == RESULT
    assert left_over(database)["files"] == [f"{job.key}/result/2", f"{job.key}/result/2/0"]


def test_who_was_taken_for_dead_may_still_be_first(
    queue: JobQueue, submit: Any, other: Any, tmp_path: Path
) -> None:
    slow = other(dead_owner())
    job = submit()
    lost = take_job(slow)
    queue.sweep()
    attempt = take_job(queue)
    assert slow.finish(lost, b"first")
    assert not queue.is_wanted(attempt)
    with pytest.raises(JobNotFound):
        queue.copy_scan(attempt, tmp_path / "scan")
    assert not queue.finish(attempt, b"second")
    assert result(queue, job.id) == b"first"


def test_an_end_after_everything_was_forgotten_is_none(
    database: Database, other: Any, scan_file: Any, pass_time: Any
) -> None:
    queue = JobQueue(database, JobLimits(max_waiting=10, keep_s=60.0, longest_s=60.0))
    queue.submit(scan_file(), OPTIONS)
    dead = other(dead_owner())
    lost = take_job(dead)
    queue.sweep()
    queue.finish(take_job(queue), RESULT)
    for _ in range(3):
        pass_time(61.0)
        queue.sweep()
    assert left_over(database) == {}
    assert not dead.finish(lost, b"late")
    assert not dead.fail(lost, 500, "Late", "late")
    assert left_over(database) == {}


def test_an_attempt_at_a_removed_job_is_refused(
    database: Database, submit: Any, queue: JobQueue, pass_time: Any
) -> None:
    """A server stood still between its look at a job and its claim of a attempt."""
    job = submit()
    queue.delete(job.id)
    last = JobQueue(database, JobLimits(max_waiting=10, keep_s=0.0, longest_s=0.0))
    pass_time(1.0)
    last.sweep()
    assert left_over(database) == {}
    assert not queue._claim(Attempt(job, 1))
    last.sweep()
    assert left_over(database) == {}


def test_another_machines_job_is_taken_once_its_owner_is_lost(
    database: Database, scan_file: Any, clock: Clock
) -> None:
    foreign = JobQueue(database, LIMITS, owner=foreign_owner())
    queue = JobQueue(database, LIMITS, Liveness(lost_after_s=60))
    job = queue.submit(scan_file(), OPTIONS)
    foreign.send_heartbeat()
    take_job(foreign)
    for _ in range(8):
        foreign.send_heartbeat()
        assert queue.sweep() == {"waiting": 0, "running": 1}
        assert queue.take() is None
        clock.now += 15
    for _ in range(3):
        queue.sweep()
        assert queue.take() is None
        clock.now += 15
    queue.sweep()
    attempt = take_job(queue)
    assert (attempt.job.id, attempt.number) == (job.id, 2)


def test_what_is_given_back_is_taken_at_once_and_what_is_released_after_a_sweep(
    queue: JobQueue, submit: Any, other: Any
) -> None:
    job = submit()
    stopping = other("here 1 1")
    stopping.give_back(take_job(stopping))
    assert state(queue, job.id) == "waiting"
    attempt = take_job(queue)
    assert attempt.number == 2
    queue.release(attempt)
    assert state(queue, job.id) == "waiting"
    queue.sweep()
    assert take_job(queue).number == 3


def test_a_job_that_servers_die_over_is_given_up(
    queue: JobQueue, submit: Any, other: Any, database: Database
) -> None:
    job = submit()
    for _ in range(module.MAX_LOST_ATTEMPTS):
        stopping = other("here 1 1")
        stopping.give_back(take_job(stopping))
        queue.sweep()
        take_job(other(dead_owner()))
        queue.sweep()
    assert queue.take() is None
    end = end_of(queue, job)
    assert (end.state, end.status, end.kind) == ("failed", 500, "JobAbandoned")
    assert "5 servers" in end.message
    assert "files" not in left_over(database)
