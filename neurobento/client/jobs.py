"""The HTTP endpoints for jobs."""

from __future__ import annotations

import json
from typing import Any

from neurobento.client.answers import Answer
from neurobento.client.http import HttpTransport
from neurobento.client.requests import ParcellationRequest, TransferProgress
from neurobento.client.responses import require_success, unexpected_response, unzip_files
from neurobento.client.retries import Deadline
from neurobento.client.service_errors import error_from_message, one_line
from neurobento.contract.jobs import JOB_STATES
from neurobento.errors import NeuroBentoError, ServiceError

__all__ = ["JobEndpoints", "job_error"]


class JobEndpoints:
    """Calls one endpoint at a time, once; raises our own errors."""

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    def submit(
        self, request: ParcellationRequest, key: str, deadline: Deadline, progress: TransferProgress
    ) -> str:
        """Submit a scan; return the id of its job, the same each time for the same key."""
        fields = {"preprocessing": request.preprocessing, "space": request.space}
        headers = {"idempotency-key": key}
        _, body = self._transport.upload("/v1/jobs", request, fields, headers, deadline, progress)
        return str(_parse_status(body)["id"])

    def status(self, id: str, deadline: Deadline) -> dict[str, Any]:
        """Return the service's description of a job."""
        response, body = self._transport.send("GET", f"/v1/jobs/{id}", deadline)
        require_success(response, body)
        return _parse_status(body)

    def answer(self, id: str, deadline: Deadline, progress: TransferProgress) -> Answer:
        """Return the result of a job."""
        path, headers = f"/v1/jobs/{id}/result", {"accept": "application/zip"}
        response, body = self._transport.send("GET", path, deadline, progress, headers=headers)
        require_success(response, body)
        return Answer(unzip_files(body), id)

    def delete(self, id: str, deadline: Deadline) -> None:
        """Cancel and delete a job."""
        require_success(*self._transport.send("DELETE", f"/v1/jobs/{id}", deadline))


def job_error(status: dict[str, Any]) -> NeuroBentoError:
    """Return the error that a job failed with."""
    error = status.get("error")
    error = error if isinstance(error, dict) else {}
    type_name = one_line(str(error.get("type", "")))
    return error_from_message(
        ServiceError,
        str(error.get("message", "")),
        status=f"a job that failed {type_name}",
        type_name=type_name,
    )


def _parse_status(body: bytes) -> dict[str, Any]:
    try:
        status = dict(json.loads(body))
        known = isinstance(status["id"], str) and status["state"] in JOB_STATES
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise unexpected_response("a job", body)
    return status
