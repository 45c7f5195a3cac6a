"""The transport over HTTP: multipart form data out, a zip of files back."""

from __future__ import annotations

import functools
import io
import json
import ssl
from collections.abc import Mapping
from typing import Any

import httpx

from neurobento.client.answers import MAX_RESPONSE_BYTES, AnomalyAnswer, Answer
from neurobento.client.requests import (
    AnomalyRequest,
    ParcellationRequest,
    TransferProgress,
    ignore_progress,
)
from neurobento.client.responses import (
    UPLOAD_NAME,
    require_success,
    unexpected_response,
    unzip_files,
)
from neurobento.client.retries import Deadline
from neurobento.client.service_errors import one_line
from neurobento.errors import ServiceError, ServiceUnavailable

__all__ = ["HttpTransport"]

CONNECT_LIMIT_S = 10.0
"""The kernel would try a host that is not there for two minutes."""

MAX_ERROR_BYTES = 1 << 16


class HttpTransport:
    """A service's HTTP API at a URL without a slash at its end; connections are kept."""

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(
            base_url=url, headers=headers, trust_env=False, verify=_system_trust()
        )

    def parcellate(
        self, request: ParcellationRequest, deadline: Deadline, progress: TransferProgress
    ) -> Answer:
        """Send a scan and return the parcellation."""
        fields = {"preprocessing": request.preprocessing, "space": request.space}
        return Answer(*self._fetch_files("/v1/parcellation", request, fields, deadline, progress))

    def anomaly(
        self, request: AnomalyRequest, deadline: Deadline, progress: TransferProgress
    ) -> AnomalyAnswer:
        """Send a slice and return its anomaly score and pictures."""
        return AnomalyAnswer(*self._fetch_files("/v1/anomaly", request, {}, deadline, progress))

    def models(self, deadline: Deadline) -> list[dict[str, Any]]:
        """Return the list that `GET /v1/models` gives."""
        response, body = self.send("GET", "/v1/models", deadline)
        require_success(response, body)
        try:
            return [dict(model) for model in json.loads(body)["models"]]
        except (ValueError, TypeError, KeyError):
            raise unexpected_response("a list of models", body) from None

    def ready(self, deadline: Deadline) -> bool:
        """Return True if `GET /readyz` gives 200; its 503 is raised as `ServiceUnavailable`."""
        require_success(*self.send("GET", "/readyz", deadline))
        return True

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _fetch_files(
        self,
        path: str,
        request: ParcellationRequest | AnomalyRequest,
        fields: Mapping[str, str],
        deadline: Deadline,
        progress: TransferProgress,
    ) -> tuple[dict[str, bytes], str]:
        """Return the output files and the request's name in the service's log."""
        accept = {"accept": "application/zip"}
        response, body = self.upload(path, request, fields, accept, deadline, progress)
        return unzip_files(body), response.headers.get("x-request-id", request.request_id)

    def upload(
        self,
        path: str,
        request: ParcellationRequest | AnomalyRequest,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
        deadline: Deadline,
        progress: TransferProgress,
    ) -> tuple[httpx.Response, bytes]:
        """Post a file with its options; return the response, if it is no error, and its body."""
        response, body = self.send(
            "POST",
            path,
            deadline,
            progress,
            headers={**headers, "x-request-id": request.request_id},
            data=fields if request.model is None else {**fields, "model": request.model},
            files={"file": (UPLOAD_NAME, _Upload(request.content, deadline, progress))},
        )
        require_success(response, body)
        return response, body

    def send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        progress: TransferProgress = ignore_progress,
        *,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> tuple[httpx.Response, bytes]:
        """Send one request; return the response, whatever its status, and its body."""
        headers = dict(headers or {})
        if deadline.remaining_s is not None:
            headers["x-request-timeout"] = f"{max(deadline.remaining_s, 0.001):.3f}"
        # httpx limits each step, not the whole: shorten the limits before each step
        timeouts = _timeouts(deadline)

        def shorten_timeouts(event: str, _: dict[str, Any]) -> None:
            timeouts.update(_timeouts(deadline))
            if event == "http11.receive_response_headers.started":
                progress("waiting", None)

        extensions = {"timeout": timeouts, "trace": shorten_timeouts}
        request = self._client.build_request(
            method, path, headers=headers, extensions=extensions, **content
        )
        try:
            response = self._client.send(request, stream=True)
            try:
                return response, _read_body(response, deadline, progress)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise _connection_error(error, deadline) from error


@functools.cache
def _system_trust() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Upload(io.BytesIO):
    """A file's bytes; reading them reports progress and checks the deadline."""

    def __init__(self, content: bytes, deadline: Deadline, progress: TransferProgress) -> None:
        super().__init__(content)
        self._deadline, self._progress = deadline, progress

    def read(self, size: int | None = -1, /) -> bytes:
        if self._deadline.is_over:
            raise self._deadline.error()
        chunk = super().read(size)
        if chunk:
            self._progress("uploading", self.tell())
        return chunk


def _timeouts(deadline: Deadline) -> dict[str, float | None]:
    # 0 would make the socket non-blocking
    remaining_s = None if deadline.remaining_s is None else max(deadline.remaining_s, 0.001)
    connect_s = CONNECT_LIMIT_S if remaining_s is None else min(CONNECT_LIMIT_S, remaining_s)
    return {"connect": connect_s, "read": remaining_s, "write": remaining_s, "pool": remaining_s}


def _read_body(response: httpx.Response, deadline: Deadline, progress: TransferProgress) -> bytes:
    """Return the body; of an error no more than its beginning."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if deadline.is_over:
            raise deadline.error()
        if response.is_success:
            progress("downloading", len(body))
            if len(body) > MAX_RESPONSE_BYTES:
                raise unexpected_response(f"at most {MAX_RESPONSE_BYTES} bytes", body)
        elif len(body) > MAX_ERROR_BYTES:
            break
    return bytes(body)


def _connection_error(error: httpx.HTTPError, deadline: Deadline) -> ServiceError:
    """Return our error for a request without an answer, or without the whole of one."""
    if isinstance(error, httpx.TimeoutException) and deadline.is_over:
        return deadline.error()
    reason = one_line(str(error)) or type(error).__name__
    unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    broken = httpx.NetworkError | httpx.TimeoutException | httpx.RemoteProtocolError
    # a bad certificate will be as bad the next time
    if not (unreached or isinstance(error, broken)) or "CERTIFICATE" in reason:
        return ServiceError(
            expected="an answer by HTTP",
            found=reason,
            remedy="Check that the address and its scheme are the service's.",
        )
    return ServiceUnavailable(
        expected="a service that answers there",
        found=f"no connection ({reason})" if unreached else f"a connection that ended ({reason})",
        remedy="Check that the service runs and that the address is its own.",
    )
