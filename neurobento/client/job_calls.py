"""Jobs of a service, over HTTP: handed in now, asked for later."""

from __future__ import annotations

import json
from typing import Any

from neurobento import errors as e
from neurobento.client.exchange import Answer, Ask, Progress
from neurobento.client.over_http import HttpTransport, require_success, something_else, unzipped
from neurobento.client.refusals import error_of, one_line
from neurobento.client.retries import Deadline

__all__ = ["JobCalls", "failure_of"]

STATES = frozenset({"waiting", "running", "done", "failed", "cancelled"})


class JobCalls:
    """What can be asked about jobs; one try each, errors are those of `neurobento.errors`.

    Parameters
    ----------
    transport
        To the service.
    """

    def __init__(self, transport: HttpTransport) -> None:
        self._transport = transport

    def submit(self, ask: Ask, key: str, deadline: Deadline, progress: Progress) -> str:
        """The id of the job that one request is, the first time and each further one."""
        fields = {"preprocessing": ask.preprocessing, "space": ask.space}
        headers = {"idempotency-key": key}
        _, body = self._transport.upload("/v1/jobs", ask, fields, headers, deadline, progress)
        return str(_described(body)["id"])

    def status(self, id: str, deadline: Deadline) -> dict[str, Any]:
        """What the service says of a job."""
        response, body = self._transport.send("GET", f"/v1/jobs/{id}", deadline)
        require_success(response, body)
        return _described(body)

    def answer(self, id: str, deadline: Deadline, progress: Progress) -> Answer:
        """The result of a job."""
        path, headers = f"/v1/jobs/{id}/result", {"accept": "application/zip"}
        response, body = self._transport.send("GET", path, deadline, progress, headers=headers)
        require_success(response, body)
        return Answer(unzipped(body), id)

    def delete(self, id: str, deadline: Deadline) -> None:
        """End a job, and forget it."""
        require_success(*self._transport.send("DELETE", f"/v1/jobs/{id}", deadline))


def failure_of(status: dict[str, Any]) -> e.NeuroBentoError:
    """The error that a job failed with."""
    error = status.get("error")
    error = error if isinstance(error, dict) else {}
    kind = one_line(str(error.get("type", "")))
    words = str(error.get("message", ""))
    return error_of(e.ServiceError, words, answered=f"a job that failed {kind}", type_name=kind)


def _described(body: bytes) -> dict[str, Any]:
    try:
        status = dict(json.loads(body))
        known = isinstance(status["id"], str) and status["state"] in STATES
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise something_else("a job", body)
    return status
