"""The ASGI middleware in front of everything: request ids, limits, places, one error shape.

BentoML 1.4.39 has no body limit, answers errors in several shapes, and lets a
client that leaves keep its place; this is where that ends. What can be known
of a request without its body is judged before the body is read.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from neurobento.errors import ConfigError, NeuroBentoError
from neurobento.serving.admission import Admission, Call
from neurobento.serving.error_answers import error_body, protocol_error_body
from neurobento.serving.http.exchange import Answer, Body, Receive, Send, too_large
from neurobento.serving.telemetry.logs import log_request
from neurobento.serving.token import Token
from neurobento.serving.web.page import PAGE

__all__ = ["KNOWN_PATHS", "Gate", "Limits", "is_known", "request_id_of"]

App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

PROBES = frozenset({"/healthz", "/livez", "/readyz"})
"""Open to all, as an orchestrator has no token."""

UPLOADS = frozenset({"/predict/", "/v1/parcellation", "/v1/anomaly", "/v1/jobs"})
"""Take a scan, or a slice, as a part of a form."""

MOUNTED = "/v2"
"""Where the Open Inference Protocol begins."""

KNOWN_PATHS = (
    PROBES | UPLOADS | {"/", "/v1/models", "/metrics", "/docs.json", "/schema.json", MOUNTED}
)

KNOWN_PATTERN = re.compile(
    r"/v1/jobs/[0-9a-f]{32}(/result)?"
    r"|/v2/health/(live|ready)"
    r"|/v2/models/[A-Za-z0-9_.-]{1,64}(/versions/[A-Za-z0-9_.-]{1,32})?(/ready|/infer)?"
)

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A client's own request id is taken over if it looks like this."""

TIMEOUT_HEADER = b"x-request-timeout"
"""Seconds that a client allows for its request."""


def is_known(path: str) -> bool:
    """Whether there is such a path."""
    return path in KNOWN_PATHS or KNOWN_PATTERN.fullmatch(path) is not None


def _is_work(path: str) -> bool:
    """Whether a request for the path takes a place."""
    return path in UPLOADS or (path.startswith("/v2/") and path.endswith("/infer"))


@dataclass(frozen=True)
class Limits:
    """What a request may be at most.

    Attributes
    ----------
    body_bytes
        A longer request body is refused with 413, before it is read where the
        client states its length.
    request_s
        From its first byte to its answer; a client may ask for less.
    upload_s
        From its first byte to the last of its body.
    """

    body_bytes: int
    request_s: float
    upload_s: float


class Gate:
    """Wraps the service's ASGI application.

    Parameters
    ----------
    app
        The application behind.
    admission
        Gives places to requests that are work.
    limits
        Of each request.
    token
        What a client has to show, if anything.
    """

    def __init__(self, app: App, admission: Admission, limits: Limits, token: Token) -> None:
        self.app = app
        self._admission, self._limits, self._token = admission, limits, token

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        request_id = request_id_of(headers.get(b"x-request-id", b"").decode("latin-1"))
        scope.setdefault("state", {})["request_id"] = request_id
        protocol = scope["path"].startswith(f"{MOUNTED}/")
        answer = Answer(send, request_id, protocol_error_body if protocol else error_body)
        try:
            await self._judge(scope, headers, receive, answer)
        except NeuroBentoError as error:
            await answer.fail(error)
        # an exception that leaves the middleware makes BentoML hang until its timeout
        except Exception:
            await answer.crash()

    async def _judge(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        answer: Answer,
    ) -> None:
        path = scope["path"]
        if not is_known(path):
            await answer.error(HTTPStatus.NOT_FOUND, "NotFound", "there is no such path")
            return
        if path not in PROBES and path != "/":
            self._token.require(headers.get(b"authorization", b""))
        if path == "/":
            await answer.page(PAGE)
        elif path == "/readyz" and self._admission.draining:
            await answer.error(HTTPStatus.SERVICE_UNAVAILABLE, "Draining", "about to stop")
        elif _is_work(path) and scope["method"] == "POST":
            await self._take_in(scope, headers, receive, answer)
        else:
            if path == MOUNTED:
                # what is mounted begins behind the slash; without it Starlette redirects
                scope["path"] = f"{MOUNTED}/"
            await self._pass_on(scope, Body(receive, self._limits.body_bytes), answer)

    async def _take_in(
        self,
        scope: MutableMapping[str, Any],
        headers: dict[bytes, bytes],
        receive: Receive,
        answer: Answer,
    ) -> None:
        """A request that is work: what its headers say is judged, then it gets a place."""
        content_type = headers.get(b"content-type", b"").lower()
        media_type = content_type.partition(b";")[0].strip()
        if scope["path"] in UPLOADS and media_type != b"multipart/form-data":
            text = "expected multipart/form-data with a file part, as `curl -F file=@scan` sends it"
            await answer.error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", text)
            return
        if _stated_length(headers) > self._limits.body_bytes:
            await answer.error(*too_large(self._limits.body_bytes))
            return
        limit_s = min(_allowed_s(headers), self._limits.request_s)
        call = Call(answer.request_id, "http", limit_s)
        scope["state"]["call"] = call
        upload_s = min(limit_s, self._limits.upload_s)
        body = Body(receive, self._limits.body_bytes, call, upload_s)
        try:
            with self._admission.place():
                await self._pass_on(scope, body, answer)
        except NeuroBentoError as error:
            await answer.fail(error)
        finally:
            body.stop_watching()
            log_request(call, answer.status)

    async def _pass_on(self, scope: MutableMapping[str, Any], body: Body, answer: Answer) -> None:
        answer.body = body
        try:
            await self.app(scope, body, answer)
        except Exception:
            if scope["path"] in PROBES:
                # a part is not there yet, or not there any more
                await answer.error(HTTPStatus.SERVICE_UNAVAILABLE, "NotReady", "not ready")
            elif body.refused is None:
                await answer.crash()
            elif not answer.started:
                await answer.error(*body.refused.answer)


def request_id_of(given: str) -> str:
    """A client's own request id, if it may be one; else a new one."""
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _stated_length(headers: dict[bytes, bytes]) -> int:
    stated = headers.get(b"content-length", b"0")
    return int(stated) if stated.isdigit() else 0


def _allowed_s(headers: dict[bytes, bytes]) -> float:
    """Seconds that the client allows; endless if it does not say.

    Raises
    ------
    ConfigError
        Its header holds no such number.
    """
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return float("inf")
    try:
        seconds = float(given)
    except ValueError:
        seconds = float("nan")
    if not 0 < seconds < float("inf"):
        raise ConfigError(
            subject="X-Request-Timeout",
            expected="the header X-Request-Timeout to hold a number of seconds above 0",
            found="something else",
            remedy="Send seconds, as `X-Request-Timeout: 30`, or leave it out.",
        )
    return seconds
