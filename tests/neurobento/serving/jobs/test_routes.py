"""What clients are answered about jobs, in every state that one can be in."""

from __future__ import annotations

import asyncio
import datetime
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from neurobento.errors import ConfigError, JobConflict, ServiceUnavailable
from neurobento.serving.http.downloads import zip_files
from neurobento.serving.http.models_page import models_app
from neurobento.serving.jobs import JobQueue
from neurobento.serving.jobs.routes import idempotency_key, job_routes, submit_job
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from tests.neurobento.serving.jobs.conftest import OPTIONS, take_job

LABELS = b"\x1f\x8b labels"
RESULT = zip_files({"scan_dseg.nii.gz": LABELS, "scan_run.json": b"{}"})
NOWHERE = "0" * 32


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """What answers look like is no question of where jobs are."""
    return f"sqlite:///{tmp_path / 'jobs.sqlite'}"


@pytest.fixture
def ask(queue: JobQueue) -> Callable[..., httpx.Response]:
    """Asks below /v1, as the service mounts it, behind what gives requests their id."""
    app = models_app([], job_routes(lambda: queue))

    async def identified(scope: Any, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["request_id"] = "an-id"
        await app(scope, receive, send)

    def ask(method: str, path: str, **headers: str) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(identified)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(send())

    return ask


def error(answer: httpx.Response) -> tuple[int, str]:
    """Status and kind of an error, whose shape is that of all."""
    body = answer.json()["error"]
    assert set(body) == {"type", "message", "request_id"}
    assert body["request_id"] == "an-id"
    assert body["message"].startswith("expected ")
    return answer.status_code, body["type"]


def test_a_job_that_waits(queue: JobQueue, submit: Any, ask: Any) -> None:
    job = submit()
    answer = ask("GET", f"/jobs/{job.id}")
    assert answer.status_code == 200
    created = answer.json().pop("created")
    when = datetime.datetime.fromisoformat(created)
    assert abs(when.timestamp() - job.created) < 0.01
    assert answer.json() == {
        "id": job.id,
        "state": "waiting",
        "model": "regions",
        "preprocessing": "none",
        "space": "native",
        "created": created,
        "begun": None,
        "turns": 0,
        "ended": None,
        "expires": None,
        "error": None,
        "result": None,
    }
    early = ask("GET", f"/jobs/{job.id}/result")
    assert error(early) == (409, "JobConflict")
    assert int(early.headers["retry-after"]) > 0


def test_a_job_that_runs(queue: JobQueue, submit: Any, ask: Any) -> None:
    job = submit()
    queue.take()
    told = ask("GET", f"/jobs/{job.id}").json()
    assert (told["state"], told["turns"], told["ended"]) == ("running", 1, None)
    assert told["begun"] >= told["created"]
    assert error(ask("GET", f"/jobs/{job.id}/result")) == (409, "JobConflict")


def test_a_job_that_is_done(queue: JobQueue, submit: Any, ask: Any) -> None:
    job = submit()
    queue.finish(take_job(queue), RESULT)
    told = ask("GET", f"/jobs/{job.id}").json()
    assert (told["state"], told["error"]) == ("done", None)
    assert told["result"] == f"/v1/jobs/{job.id}/result"
    ended, expires = (datetime.datetime.fromisoformat(told[name]) for name in ("ended", "expires"))
    assert (expires - ended).total_seconds() == pytest.approx(3600, abs=0.01)
    answer = ask("GET", f"/jobs/{job.id}/result")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"].endswith('"scan_parcellation.zip"')
    assert answer.content == RESULT
    names = {"scan_dseg.nii.gz", "scan_run.json"}
    assert set(zipfile.ZipFile(io.BytesIO(answer.content)).namelist()) == names
    # the labels alone
    for accept in ("application/gzip", "application/gzip, */*;q=0.1"):
        answer = ask("GET", f"/jobs/{job.id}/result", accept=accept)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/gzip"
        assert answer.headers["content-disposition"].endswith('"scan_dseg.nii.gz"')
        assert answer.content == LABELS


def test_a_job_that_failed_answers_what_a_request_would_have_been(
    queue: JobQueue, submit: Any, ask: Any
) -> None:
    job = submit()
    attempt = take_job(queue)
    words = "expected a head; found none. Look."
    queue.fail(attempt, 422, "EmptyScan", words)
    told = ask("GET", f"/jobs/{job.id}").json()
    assert (told["state"], told["result"]) == ("failed", None)
    assert told["error"] == {"type": "EmptyScan", "message": words}
    answer = ask("GET", f"/jobs/{job.id}/result")
    assert error(answer) == (422, "EmptyScan")
    assert answer.json()["error"]["message"] == words


def test_a_job_that_was_deleted_or_never_was_is_not_there(submit: Any, ask: Any) -> None:
    """Other methods are refused."""
    job = submit()
    answer = ask("DELETE", f"/jobs/{job.id}")
    assert (answer.status_code, answer.content) == (204, b"")
    for id in (job.id, NOWHERE):
        for method, path in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
            assert error(ask(method, f"/jobs/{id}{path}")) == (404, "JobNotFound")
    assert ask("PUT", f"/jobs/{NOWHERE}").status_code == 405
    assert ask("DELETE", f"/jobs/{NOWHERE}/result").status_code == 405


def test_a_job_that_a_killed_server_was_deleting_is_cancelled(
    queue: JobQueue, submit: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    with monkeypatch.context() as killed:
        killed.setattr(queue._values, "delete_if", lambda *_: (_ for _ in ()).throw(KeyError()))
        with pytest.raises(KeyError):
            queue.delete(job.id)
    assert ask("GET", f"/jobs/{job.id}").json()["state"] == "cancelled"
    answer = ask("GET", f"/jobs/{job.id}/result")
    assert error(answer) == (409, "JobConflict")
    assert "retry-after" not in answer.headers


def test_a_result_that_goes_while_it_is_read(
    queue: JobQueue, submit: Any, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit()
    attempt = take_job(queue)
    queue.finish(attempt, RESULT)
    end = queue.end
    monkeypatch.setattr(
        queue, "end", lambda job: (end(job), queue._files.delete(attempt.result_file))[0]
    )
    assert error(ask("GET", f"/jobs/{job.id}/result")) == (404, "JobNotFound")


def test_a_database_that_is_away(
    queue: JobQueue, ask: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise ServiceUnavailable(
            expected="a database", found="none", remedy="Wait.", retry_after_s=5
        )

    monkeypatch.setattr(queue._values, "get", refuse)
    answer = ask("GET", f"/jobs/{NOWHERE}")
    assert error(answer) == (503, "ServiceUnavailable")
    assert answer.headers["retry-after"] == "5"


def accept(queue: JobQueue, scan: Path, key: str | None, options: Any = None) -> Response:
    return asyncio.run(submit_job(queue, scan, options or OPTIONS, key))


def test_what_is_taken_in_is_described_and_located(
    queue: JobQueue, scan_file: Any, ask: Any
) -> None:
    answer = accept(queue, scan_file(), None)
    assert answer.status_code == 202
    assert ask("GET", answer.headers["location"].removeprefix("/v1")).content == answer.body


def test_a_repeated_key_is_answered_with_the_same_job(queue: JobQueue, scan_file: Any) -> None:
    first, second = (accept(queue, scan_file(), "a-key") for _ in range(2))
    assert first.headers["location"] == second.headers["location"]
    assert first.status_code == second.status_code == 202
    with pytest.raises(JobConflict):
        accept(queue, scan_file(), "a-key", ParcellationOptions("regions", "full", "native"))


def request(**headers: str) -> Request:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def test_a_key_is_taken_none_is_none_and_what_is_no_key_is_refused() -> None:
    for key in ("a", "x" * 255, "8e03978e-40d5-43dd-bc93-6894a57f9324", "!~"):
        assert idempotency_key(request(**{"idempotency-key": key}).headers) == key
    assert idempotency_key(request().headers) is None
    for key in ("", " ", "two words", "x" * 256, "k\xe9y", "line\n"):
        with pytest.raises(ConfigError) as caught:
            idempotency_key(request(**{"idempotency-key": key}).headers)
        assert caught.value.subject == "Idempotency-Key"
