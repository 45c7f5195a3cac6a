"""To a service over HTTP: multipart form data out, a zip of files back."""

from __future__ import annotations

import functools
import io
import json
import re
import ssl
import zipfile
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import httpx

from neurobento import errors as e
from neurobento.client.exchange import (
    MAX_ANSWER_BYTES,
    AnomalyAnswer,
    Answer,
    Ask,
    AskAnomaly,
    Progress,
    say_nothing,
)
from neurobento.client.refusals import error_of, is_retry_after, one_line
from neurobento.client.retries import Deadline

__all__ = ["HttpTransport", "require_success", "something_else", "unzipped"]

CONNECT_LIMIT_S = 10.0
"""A host that does not answer a SYN is not there; the kernel would try for two minutes."""

MAX_ERROR_BYTES = 1 << 16
SENT_NAME = "scan"
"""The file name of every upload: the scan's own may name a patient."""

ZIP_NAME = re.compile(rf"{SENT_NAME}_[A-Za-z0-9][A-Za-z0-9._-]*")

KINDS: dict[int, type[e.ServiceError]] = {
    401: e.NotAuthorised,
    429: e.ServiceBusy,
    499: e.ClientGone,
    502: e.ServiceUnavailable,  # what a proxy says of a service that is gone
    503: e.ServiceUnavailable,
    504: e.DeadlineExceeded,
}


class HttpTransport:
    """A service's HTTP API; connections are kept between calls.

    Parameters
    ----------
    url
        Where the service is, without a slash at its end.
    token
        Sent as `Authorization: Bearer`.
    """

    def __init__(self, url: str, token: str | None) -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(
            base_url=url, headers=headers, trust_env=False, verify=_system_trust()
        )

    def parcellate(self, ask: Ask, deadline: Deadline, progress: Progress) -> Answer:
        """The service's answer to one request."""
        fields = {"preprocessing": ask.preprocessing, "space": ask.space}
        return Answer(*self._files("/v1/parcellation", ask, fields, deadline, progress))

    def anomaly(self, ask: AskAnomaly, deadline: Deadline, progress: Progress) -> AnomalyAnswer:
        """The service's answer to one request about a slice."""
        return AnomalyAnswer(*self._files("/v1/anomaly", ask, {}, deadline, progress))

    def models(self, deadline: Deadline) -> list[dict[str, Any]]:
        """What `GET /v1/models` says."""
        response, body = self.send("GET", "/v1/models", deadline)
        require_success(response, body)
        try:
            return [dict(model) for model in json.loads(body)["models"]]
        except (ValueError, TypeError, KeyError):
            raise something_else("a list of models", body) from None

    def ready(self, deadline: Deadline) -> bool:
        """Whether `GET /readyz` says 200; 503 is raised as `ServiceUnavailable`."""
        require_success(*self.send("GET", "/readyz", deadline))
        return True

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _files(
        self,
        path: str,
        ask: Ask | AskAnomaly,
        fields: Mapping[str, str],
        deadline: Deadline,
        progress: Progress,
    ) -> tuple[dict[str, bytes], str]:
        """The files that come back for one, and what the service's log knows the request by."""
        accept = {"accept": "application/zip"}
        response, body = self.upload(path, ask, fields, accept, deadline, progress)
        return unzipped(body), response.headers.get("x-request-id", ask.request_id)

    def upload(
        self,
        path: str,
        ask: Ask | AskAnomaly,
        fields: Mapping[str, str],
        headers: Mapping[str, str],
        deadline: Deadline,
        progress: Progress,
    ) -> tuple[httpx.Response, bytes]:
        """The response to a file, where it is no refusal, and its body."""
        response, body = self.send(
            "POST",
            path,
            deadline,
            progress,
            headers={**headers, "x-request-id": ask.request_id},
            data=fields if ask.model is None else {**fields, "model": ask.model},
            files={"file": (SENT_NAME, _Upload(ask.content, deadline, progress))},
        )
        require_success(response, body)
        return response, body

    def send(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        progress: Progress = say_nothing,
        *,
        headers: dict[str, str] | None = None,
        **content: Any,
    ) -> tuple[httpx.Response, bytes]:
        """The response to one request and its body."""
        headers = dict(headers or {})
        if deadline.left_s is not None:
            headers["x-request-timeout"] = f"{max(deadline.left_s, 0.001):.3f}"
        # httpx bounds each step, not the whole: before each, its bound becomes what is left
        bounds = _bounds(deadline)

        def watch(event: str, _: dict[str, Any]) -> None:
            bounds.update(_bounds(deadline))
            if event == "http11.receive_response_headers.started":
                progress("waiting", None)

        extensions = {"timeout": bounds, "trace": watch}
        request = self._client.build_request(
            method, path, headers=headers, extensions=extensions, **content
        )
        try:
            response = self._client.send(request, stream=True)
            try:
                return response, _downloaded(response, deadline, progress)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise _lost(error, deadline) from error


@functools.cache
def _system_trust() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Upload(io.BytesIO):
    """The scan's bytes, which tell how many of them are sent."""

    def __init__(self, content: bytes, deadline: Deadline, progress: Progress) -> None:
        super().__init__(content)
        self._deadline, self._say = deadline, progress

    def read(self, size: int | None = -1, /) -> bytes:
        if self._deadline.is_over:
            raise self._deadline.exceeded()
        chunk = super().read(size)
        if chunk:
            self._say("uploading", self.tell())
        return chunk


def _bounds(deadline: Deadline) -> dict[str, float | None]:
    # 0 would make the socket one that never waits
    left_s = None if deadline.left_s is None else max(deadline.left_s, 0.001)
    connect_s = CONNECT_LIMIT_S if left_s is None else min(CONNECT_LIMIT_S, left_s)
    return {"connect": connect_s, "read": left_s, "write": left_s, "pool": left_s}


def _downloaded(response: httpx.Response, deadline: Deadline, progress: Progress) -> bytes:
    """The body; of an error no more than its beginning."""
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if deadline.is_over:
            raise deadline.exceeded()
        if response.is_success:
            progress("downloading", len(body))
            if len(body) > MAX_ANSWER_BYTES:
                raise something_else(f"at most {MAX_ANSWER_BYTES} bytes", body)
        elif len(body) > MAX_ERROR_BYTES:
            break
    return bytes(body)


def _lost(error: httpx.HTTPError, deadline: Deadline) -> e.ServiceError:
    """The error of a request that got no answer, or not the whole of one."""
    if isinstance(error, httpx.TimeoutException) and deadline.is_over:
        return deadline.exceeded()
    said = one_line(str(error)) or type(error).__name__
    unreached = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
    cut = isinstance(error, httpx.NetworkError | httpx.TimeoutException | httpx.RemoteProtocolError)
    # a certificate is as wrong the next time
    if not (unreached or cut) or "CERTIFICATE" in said:
        return e.ServiceError(
            expected="an answer by HTTP",
            found=said,
            remedy="Check that the address and its scheme are the service's.",
        )
    return e.ServiceUnavailable(
        expected="a service that answers there",
        found=f"no connection ({said})" if unreached else f"a connection that ended ({said})",
        remedy="Check that the service runs and that the address is its own.",
    )


def require_success(response: httpx.Response, body: bytes) -> None:
    """Raise what the service answered with, unless that is an answer."""
    if response.is_success:
        return
    status = response.status_code
    default = e.RequestRefused if 400 <= status < 500 else e.ServiceError
    after = response.headers.get("retry-after", "")
    name, message = _named_error(body)
    phrase = HTTPStatus(status).phrase if status in {*HTTPStatus} else ""
    raise error_of(
        KINDS.get(status, default),
        message,
        answered=f"HTTP {status} {name or phrase}".strip(),
        type_name=name,
        retry_after_s=float(after) if is_retry_after(after) else None,
    )


def _named_error(body: bytes) -> tuple[str, str]:
    """Type and message of an error in our shape; of any other nothing."""
    try:
        error = json.loads(body)["error"]
        return one_line(str(error["type"])), str(error["message"])
    except (ValueError, TypeError, KeyError):
        return "", ""


def unzipped(body: bytes) -> dict[str, bytes]:
    """The files in an answer: ending of the name -> content.

    Names that are not an output file's are left alone.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            entries = [i for i in archive.infolist() if ZIP_NAME.fullmatch(i.filename)]
            if sum(entry.file_size for entry in entries) > MAX_ANSWER_BYTES:
                raise something_else(f"files of at most {MAX_ANSWER_BYTES} bytes", body)
            return {i.filename.removeprefix(f"{SENT_NAME}_"): archive.read(i) for i in entries}
    # broken; another compression; encrypted
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError):
        raise something_else("a zip of output files", body) from None


def something_else(expected: str, body: bytes | bytearray) -> e.ServiceError:
    """The error of an answer that is none of ours."""
    return e.ServiceError(
        expected=expected,
        found=f"something else in an answer of {len(body)} bytes",
        remedy="Check that a neurobento service answers there, with nothing in between.",
    )
