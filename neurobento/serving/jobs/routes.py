"""Serve `/v1/jobs`: submit a scan as a job, look at the job, read its result, delete it."""

from __future__ import annotations

import datetime
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from neurobento.contract.jobs import IDEMPOTENCY_KEY
from neurobento.errors import ConfigError, JobConflict
from neurobento.serving.error_responses import endpoint_error_responses, error_body
from neurobento.serving.http.downloads import FILE_STEM, GZIP, ZIP, file_response
from neurobento.serving.jobs.job import End, Job
from neurobento.serving.jobs.queue import JobQueue
from neurobento.serving.tasks.parcellation.options import ParcellationOptions

__all__ = ["idempotency_key", "job_routes", "submit_job"]

LIMITER = CapacityLimiter(8)
"""Threads for the database: if it hangs, the rest of the service keeps its own threads."""

RETRY_AFTER_S = 5.0


def idempotency_key(headers: Any) -> str | None:
    """Return the client's key for its request, if any; raise ConfigError for a malformed key."""
    given: str | None = headers.get("idempotency-key")
    if given is not None and not IDEMPOTENCY_KEY.fullmatch(given):
        raise ConfigError(
            subject="Idempotency-Key",
            expected="1 to 255 visible ASCII characters",
            found="other characters, or another length",
            remedy="Send a new UUID with each new request.",
        )
    return given


async def submit_job(
    queue: JobQueue, file: Path, options: ParcellationOptions, key: str | None
) -> Response:
    """Submit a scan; answer 202 with the job and its address."""
    job = await _in_thread(queue.submit, file, options, key)
    description = await _in_thread(_describe, queue, job)
    return JSONResponse(description, 202, {"location": f"/v1/jobs/{job.id}"})


def job_routes(queue: Callable[[], JobQueue]) -> list[Route]:
    """Return the routes of a job, below /v1; `queue` is called with each request."""

    async def status(request: Request) -> Response:
        def describe() -> dict[str, Any]:
            return _describe(queue(), queue().job(request.path_params["id"]))

        return JSONResponse(await _in_thread(describe))

    async def result(request: Request) -> Response:
        labels_only = GZIP in request.headers.get("accept", "")
        answer: Response = await _in_thread(_result, queue(), request, labels_only)
        return answer

    async def delete(request: Request) -> Response:
        await _in_thread(queue().delete, request.path_params["id"])
        return Response(status_code=204)

    return [
        Route("/jobs/{id}", endpoint_error_responses(status), methods=["GET"]),
        Route("/jobs/{id}", endpoint_error_responses(delete), methods=["DELETE"]),
        Route("/jobs/{id}/result", endpoint_error_responses(result), methods=["GET"]),
    ]


async def _in_thread(step: Callable[..., Any], *arguments: Any) -> Any:
    return await to_thread.run_sync(step, *arguments, limiter=LIMITER)


def _describe(queue: JobQueue, job: Job) -> dict[str, Any]:
    leases, end = queue.leases(job), queue.end(job)
    description: dict[str, Any] = {
        "id": job.id,
        "state": queue.state(job, leases, end),
        "model": job.model,
        "preprocessing": job.preprocessing,
        "space": job.space,
        "created": _timestamp(job.created),
        "begun": _timestamp(leases[-1].begun) if leases else None,
        "turns": len(leases),
        "ended": None,
        "expires": None,
        "error": None,
        "result": None,
    }
    if end is not None:
        description["ended"] = _timestamp(end.ended)
        description["expires"] = _timestamp(queue.expires(end))
    if end is not None and end.state == "done":
        description["result"] = f"/v1/jobs/{job.id}/result"
    if end is not None and end.state == "failed":
        description["error"] = {"type": end.kind, "message": end.message}
    return description


def _timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="milliseconds")


def _result(queue: JobQueue, request: Request, labels_only: bool) -> Response:
    job = queue.job(request.path_params["id"])
    end = queue.end(job)
    if end is None or end.state == "cancelled":
        raise _no_result(end)
    if end.state == "failed":
        body = error_body(end.kind, end.message, request.state.request_id)
        return JSONResponse(body, end.status)
    archive = b"".join(queue.result(job, end))
    if not labels_only:
        return file_response(archive, "parcellation.zip", ZIP)
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        return file_response(files.read(f"{FILE_STEM}_dseg.nii.gz"), "dseg.nii.gz", GZIP)


def _no_result(end: End | None) -> JobConflict:
    return JobConflict(
        expected="a job that is done",
        found="one that was cancelled" if end else "one that has not ended",
        remedy="Submit the scan again." if end else "Ask again later.",
        retry_after_s=None if end else RETRY_AFTER_S,
    )
