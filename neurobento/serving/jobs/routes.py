"""`/v1/jobs`: taking scans in, and what became of them."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from neurobento.contract.jobs import IDEMPOTENCY_KEY
from neurobento.errors import ConfigError, JobConflict, NeuroBentoError
from neurobento.serving.error_answers import error_body, error_headers, error_status
from neurobento.serving.http.downloads import FILE_STEM, GZIP, ZIP, file_response
from neurobento.serving.jobs.job import End, Job
from neurobento.serving.jobs.queue import JobQueue
from neurobento.serving.tasks.parcellation.handler import Options

__all__ = ["idempotency_key", "job_routes", "submit_job"]

LIMITER = CapacityLimiter(8)
"""Questions that the database is asked at the same time: if it hangs, nothing else runs short."""

ASK_AGAIN_S = 5.0


def idempotency_key(headers: Any) -> str | None:
    """The client's key for its request, if it has one.

    Raises
    ------
    ConfigError
        It is no key.
    """
    given: str | None = headers.get("idempotency-key")
    if given is not None and not IDEMPOTENCY_KEY.fullmatch(given):
        raise ConfigError(
            subject="Idempotency-Key",
            expected="1 to 255 visible ASCII characters",
            found="something else",
            remedy="Send a new UUID with each new request.",
        )
    return given


async def submit_job(queue: JobQueue, file: Path, options: Options, key: str | None) -> Response:
    """Take a scan in: 202, the job, and where to ask for it."""
    asked = (options.model, options.preprocessing, options.space)
    job = await _off_the_loop(queue.submit, file, asked, key)
    described = await _off_the_loop(_described, queue, job)
    return JSONResponse(described, 202, {"location": f"/v1/jobs/{job.id}"})


def job_routes(queue: Callable[[], JobQueue]) -> list[Route]:
    """What can be asked of a job, below /v1."""

    async def status(request: Request) -> Response:
        def describe() -> dict[str, Any]:
            return _described(queue(), queue().job(request.path_params["id"]))

        return JSONResponse(await _off_the_loop(describe))

    async def result(request: Request) -> Response:
        labels_alone = GZIP in request.headers.get("accept", "")
        answer: Response = await _off_the_loop(_result, queue(), request, labels_alone)
        return answer

    async def delete(request: Request) -> Response:
        await _off_the_loop(queue().delete, request.path_params["id"])
        return Response(status_code=204)

    return [
        Route("/jobs/{id}", _answered(status), methods=["GET"]),
        Route("/jobs/{id}", _answered(delete), methods=["DELETE"]),
        Route("/jobs/{id}/result", _answered(result), methods=["GET"]),
    ]


async def _off_the_loop(step: Callable[..., Any], *given: Any) -> Any:
    return await to_thread.run_sync(step, *given, limiter=LIMITER)


def _described(queue: JobQueue, job: Job) -> dict[str, Any]:
    turns, end = queue.turns(job), queue.end(job)
    described: dict[str, Any] = {
        "id": job.id,
        "state": queue.state(job, turns, end),
        "model": job.model,
        "preprocessing": job.preprocessing,
        "space": job.space,
        "created": _when(job.created),
        "begun": _when(turns[-1].begun) if turns else None,
        "turns": len(turns),
        "ended": None,
        "expires": None,
        "error": None,
        "result": None,
    }
    if end is not None:
        described |= {"ended": _when(end.ended), "expires": _when(queue.expires(end))}
    if end is not None and end.state == "done":
        described["result"] = f"/v1/jobs/{job.id}/result"
    if end is not None and end.state == "failed":
        described["error"] = {"type": end.kind, "message": end.message}
    return described


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def _result(queue: JobQueue, request: Request, labels_alone: bool) -> Response:
    job = queue.job(request.path_params["id"])
    end = queue.end(job)
    if end is None or end.state == "cancelled":
        raise _not_there(end)
    if end.state == "failed":
        body = error_body(end.kind, end.message, request.state.request_id)
        return JSONResponse(body, end.status)
    archive = b"".join(queue.result(job, end))
    if not labels_alone:
        return file_response(archive, "parcellation.zip", ZIP)
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return file_response(files.read(f"{FILE_STEM}_dseg.nii.gz"), "dseg.nii.gz", GZIP)


def _not_there(end: End | None) -> JobConflict:
    return JobConflict(
        expected="a job that is done",
        found="one that was cancelled" if end else "one that has not ended",
        remedy="Submit the scan again." if end else "Ask again later.",
        retry_after_s=None if end else ASK_AGAIN_S,
    )


def _answered(
    method: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """A route whose errors become answers."""

    async def answer(request: Request) -> Response:
        try:
            return await method(request)
        except NeuroBentoError as error:
            kind, words = type(error).__name__, error.public_message
            body = error_body(kind, words, request.state.request_id)
            return JSONResponse(body, error_status(error), error_headers(error))

    return answer
