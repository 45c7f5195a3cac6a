"""The client's jobs: handed in once however often it is asked, waited for, fetched, deleted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from neurobento import errors as e
from neurobento.client import Client, Retries
from neurobento.client import client as module
from tests.neurobento.client.fake_services import (
    FILES,
    Files,
    GrpcService,
    HttpService,
    Raw,
    Refusal,
)

CONTENT = bytes(range(256)) * 700
SOON = Retries(times=6, first_wait_s=0.01)
ID = "0123456789abcdef" * 2
PARTS = {"expected": "a head", "found": "a tail", "remedy": "Turn it round."}
AWAY = Refusal(503, "UNAVAILABLE", message="a part of the service is not there at the moment")
GONE = Refusal.of(404, "NOT_FOUND", e.JobNotFound(**PARTS))


def job(state: str, status: int = 200, **more: Any) -> Raw:
    return Raw(status, json.dumps({"id": ID, "state": state, "error": None, **more}).encode())


TAKEN = job("waiting", 202)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOB_POLL_S", 0.01)


@pytest.fixture
def http() -> Iterator[HttpService]:
    with closing(HttpService()) as service:
        yield service


@pytest.fixture
def client(http: HttpService) -> Iterator[Client]:
    with Client(http.url, retries=SOON) as opened:
        yield opened


def test_what_is_submitted_arrives(http: HttpService, client: Client) -> None:
    http.replies = [TAKEN]
    options: Any = {"model": "grand", "preprocessing": "stripped", "space": "network"}
    assert client.submit(CONTENT, **options, key="mine") == ID
    (seen,) = http.seen
    assert seen.path == "/v1/jobs"
    assert seen.fields == {"file": ("scan", CONTENT), **options}
    assert seen.headers["idempotency-key"] == "mine"


def test_a_lost_answer_makes_no_second_job(http: HttpService, client: Client) -> None:
    """Every try has the key of the first, and another submission has another."""
    cut = Raw(202, TAKEN.body[:5], length=len(TAKEN.body))
    http.replies = [cut, AWAY, TAKEN]
    assert client.submit(CONTENT) == ID
    client.submit(CONTENT)
    keys = [seen.headers["idempotency-key"] for seen in http.seen]
    assert len(keys) == 4
    assert len(set(keys[:3])) == 1
    assert keys[3] != keys[0]


def test_the_files_name_is_never_sent(http: HttpService, client: Client, tmp_path: Path) -> None:
    scan = tmp_path / "JANE_DOE.nii.gz"
    scan.write_bytes(CONTENT)
    http.replies = [TAKEN]
    client.submit(scan)
    assert http.seen[0].fields["file"] == ("scan", CONTENT)
    assert b"JANE" not in http.seen[0].raw


def test_a_key_for_something_else_is_a_conflict(http: HttpService, client: Client) -> None:
    http.replies = [Refusal.of(409, "", e.JobConflict(**PARTS))]
    with pytest.raises(e.JobConflict) as caught:
        client.submit(CONTENT, key="mine")
    assert caught.value.public_message == e.JobConflict(**PARTS).public_message
    assert len(http.seen) == 1


def test_a_job_is_what_the_service_says(http: HttpService, client: Client) -> None:
    http.replies = [AWAY, job("running", turns=2)]
    assert client.job(ID) == {"id": ID, "state": "running", "error": None, "turns": 2}
    assert [seen.path for seen in http.seen] == [f"/v1/jobs/{ID}"] * 2


def test_a_job_that_is_not_there(http: HttpService, client: Client) -> None:
    http.replies = [GONE]
    for ask in (client.job, client.job_answer, client.delete_job):
        with pytest.raises(e.JobNotFound) as caught:
            ask(ID)
        assert caught.value.subject == http.url


@pytest.mark.parametrize("body", [b"", b"[]", b'{"id": 1, "state": "done"}', b'{"id": "a"}'])
def test_what_is_no_job_is_an_error(http: HttpService, client: Client, body: bytes) -> None:
    http.replies = [Raw(200, body)]
    with pytest.raises(e.ServiceError):
        client.job(ID)


def test_an_answer_is_waited_for(http: HttpService) -> None:
    told: list[str] = []
    http.replies = [job("waiting"), AWAY, job("running"), job("done"), AWAY, Files()]
    with Client(http.url, retries=SOON, progress=lambda stage, _: told.append(stage)) as client:
        answer = client.job_answer(ID)
    assert answer.files == FILES
    assert answer.request_id == ID
    assert http.seen[-1].path == f"/v1/jobs/{ID}/result"
    assert "waiting (job is running)" in told
    assert told[-1] == "done"


def test_a_wait_may_be_longer_than_any_number_of_tries(http: HttpService, client: Client) -> None:
    """A service that restarts again and again while it works on a job is not given up."""
    http.replies = [job("running"), AWAY] * 20 + [job("done"), Files()]
    assert client.job_answer(ID).files == FILES


def test_what_has_not_ended_is_not_waited_for_unless_asked_and_a_cancelled_job_has_no_answer(
    http: HttpService, client: Client
) -> None:
    http.replies = [job("running"), Refusal.of(409, "", e.JobConflict(**PARTS), "5")]
    with pytest.raises(e.JobConflict) as caught:
        client.job_answer(ID, wait=False)
    assert caught.value.retry_after_s == 5
    http.replies = [job("cancelled"), Refusal.of(409, "", e.JobConflict(**PARTS))]
    with pytest.raises(e.JobConflict):
        client.job_answer(ID)


def test_a_wait_ends_at_the_clients_limit(http: HttpService) -> None:
    http.replies = [job("running")]
    start = time.monotonic()
    with Client(http.url, timeout_s=0.5) as client, pytest.raises(e.DeadlineExceeded):
        client.job_answer(ID)
    assert 0.4 < time.monotonic() - start < 10


@pytest.mark.parametrize("kind", [e.EmptyScan, e.ServiceUnavailable, e.DeadlineExceeded])
def test_a_job_that_failed_raises_what_it_failed_with(
    http: HttpService, client: Client, kind: type[e.NeuroBentoError]
) -> None:
    """At once: that a service was not there for a job is no reason to ask for it again."""
    error = kind(**PARTS)
    http.replies = [job("failed", error={"type": kind.__name__, "message": error.public_message})]
    with pytest.raises(kind) as caught:
        client.job_answer(ID)
    assert caught.value.public_message == error.public_message
    assert len(http.seen) == 1


@pytest.mark.parametrize("error", [None, [], {}, {"type": "JobAbandoned", "message": "died"}])
def test_a_failure_of_a_kind_that_is_none_of_ours(
    http: HttpService, client: Client, error: Any
) -> None:
    http.replies = [job("failed", error=error)]
    with pytest.raises(e.ServiceError, match="a job that failed"):
        client.job_answer(ID)


def test_a_job_is_deleted_even_if_the_answer_is_lost(http: HttpService, client: Client) -> None:
    http.replies = [Raw(204)]
    client.delete_job(ID)
    assert http.seen[0].raw.startswith(f"DELETE /v1/jobs/{ID} ".encode())
    http.replies = [AWAY, GONE]
    client.delete_job(ID)


def test_over_grpc_there_are_no_jobs() -> None:
    with closing(GrpcService()) as service, Client(service.url) as client:
        with pytest.raises(e.ConfigError, match="over HTTP"):
            client.submit(CONTENT)
        for ask in (client.job, client.job_answer, client.delete_job):
            with pytest.raises(e.ConfigError, match="over HTTP"):
                ask(ID)
        assert service.seen == []


def test_what_is_no_id_or_no_key_is_not_sent(http: HttpService, client: Client) -> None:
    for id in ("", "../models", ID.upper(), ID + "0", "a b"):
        for ask in (client.job, client.job_answer, client.delete_job):
            with pytest.raises(e.ConfigError):
                ask(id)
    for key in ("", "two words", "x" * 256, "ключ"):
        with pytest.raises(e.ConfigError):
            client.submit(CONTENT, key=key)
    assert http.seen == []
