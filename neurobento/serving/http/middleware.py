"""ASGI middleware around the service: request ids, limits, slots, and one shape for errors.

BentoML has no body limit, several shapes of errors, and works on for clients that left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, TypeVar

from neurobento.errors import ConfigError, NeuroBentoError
from neurobento.serving.admission import Admission
from neurobento.serving.error_responses import error_body, protocol_error_body
from neurobento.serving.http.content_coding import CODINGS, is_known_coding, unknown_coding
from neurobento.serving.http.paths import (
    MOUNTED,
    PROBES,
    UPLOADS,
    is_known_path,
    needs_slot,
    path_with_other_slash,
    require_known_query,
)
from neurobento.serving.http.request_body import Receive, RequestBody, too_large
from neurobento.serving.http.response_writer import ResponseWriter, Send
from neurobento.serving.request import RequestContext, RequestLimits, choose_request_id
from neurobento.serving.telemetry.logs import log_request
from neurobento.serving.token import Token
from neurobento.serving.web.page import PAGE

__all__ = ["RequestMiddleware", "guard_requests"]

Scope = MutableMapping[str, Any]
Service = TypeVar("Service", bound=Any)
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TIMEOUT_HEADER = b"x-request-timeout"
"""Seconds that a client allows for its request."""


class RequestMiddleware:
    """Wraps the service's ASGI application."""

    def __init__(self, app: App, admission: Admission, limits: RequestLimits, token: Token) -> None:
        self.app = app
        self._admission, self._limits, self._token = admission, limits, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        request_id = choose_request_id(headers.get(b"x-request-id", b"").decode("latin-1"))
        scope.setdefault("state", {})["request_id"] = request_id
        is_protocol = scope["path"].startswith(f"{MOUNTED}/")
        writer = ResponseWriter(
            send, request_id, protocol_error_body if is_protocol else error_body
        )
        try:
            await self._route(scope, headers, receive, writer)
        except NeuroBentoError as error:
            await writer.fail(error)
        # BentoML would hang until its timeout if an exception left the middleware
        except Exception:
            await writer.crash()

    async def _route(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, writer: ResponseWriter
    ) -> None:
        path = scope["path"]
        if not is_known_path(path):
            await _answer_unknown_path(path, scope.get("query_string", b""), writer)
            return
        if path not in PROBES and path != "/":
            self._token.require(headers.get(b"authorization", b""))
        coding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
        if not is_known_coding(coding):
            accepted = [(b"accept-encoding", ", ".join(CODINGS).encode())]
            await writer.error(*unknown_coding(), accepted)
        elif path == "/":
            await writer.page(PAGE)
        elif path == "/readyz" and self._admission.draining:
            await writer.error(HTTPStatus.SERVICE_UNAVAILABLE, "Draining", "about to stop")
        elif needs_slot(path) and scope["method"] == "POST":
            await self._admit(scope, headers, coding, receive, writer)
        else:
            if path == MOUNTED:
                # Starlette redirects a mounted path without its slash
                scope["path"] = f"{MOUNTED}/"
            body = RequestBody(receive, self._limits.body_bytes, coding=coding)
            await self._pass_on(scope, body, writer)

    async def _admit(
        self,
        scope: Scope,
        headers: dict[bytes, bytes],
        coding: str,
        receive: Receive,
        writer: ResponseWriter,
    ) -> None:
        """Judge a request that is work by its headers, then pass it on with a slot."""
        content_type = headers.get(b"content-type", b"").lower()
        media_type = content_type.partition(b";")[0].strip()
        if scope["path"] in UPLOADS and media_type != b"multipart/form-data":
            text = "expected multipart/form-data with a file part, as `curl -F file=@scan` sends it"
            await writer.error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", text)
            return
        if _stated_length(headers) > self._limits.body_bytes:
            await writer.error(*too_large(self._limits.body_bytes))
            return
        require_known_query(scope["path"], scope.get("query_string", b""))

        limit_s = min(_client_limit_s(headers), self._limits.request_s)
        request = RequestContext(writer.request_id, "http", limit_s)
        scope["state"]["context"] = request
        upload_s = min(limit_s, self._limits.upload_s)
        body = RequestBody(receive, self._limits.body_bytes, request, upload_s, coding)
        try:
            with self._admission.slot():
                await self._pass_on(scope, body, writer)
        except NeuroBentoError as error:
            await writer.fail(error)
        finally:
            body.stop_watching()
            log_request(request, writer.status)

    async def _pass_on(self, scope: Scope, body: RequestBody, writer: ResponseWriter) -> None:
        writer.body = body
        try:
            await self.app(scope, body, writer)
        except Exception:
            if scope["path"] in PROBES:
                # a part of the service has not started, or is gone
                await writer.error(HTTPStatus.SERVICE_UNAVAILABLE, "NotReady", "not ready")
            elif body.refused is None:
                await writer.crash()
            elif not writer.started:
                await writer.error(*body.refused.error)


def guard_requests(
    admission: Admission, limits: RequestLimits, token: Token
) -> Callable[[Service], Service]:
    """Decorate a BentoML service with the middleware."""

    def decorate(service: Service) -> Service:
        service.add_asgi_middleware(
            RequestMiddleware, admission=admission, limits=limits, token=token
        )
        return service

    return decorate


async def _answer_unknown_path(path: str, query: bytes, writer: ResponseWriter) -> None:
    meant = path_with_other_slash(path)
    if meant is None:
        text = "there is no such path; the page at / tells what there is"
        await writer.error(HTTPStatus.NOT_FOUND, "NotFound", text)
    else:
        await writer.redirect(meant.encode() + (b"?" + query if query else b""))


def _stated_length(headers: dict[bytes, bytes]) -> int:
    stated = headers.get(b"content-length", b"0")
    return int(stated) if stated.isdigit() else 0


def _client_limit_s(headers: dict[bytes, bytes]) -> float:
    """Return the seconds that the client allows, infinite if it does not say."""
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
            found="another value",
            remedy="Send seconds, as `X-Request-Timeout: 30`, or leave it out.",
        )
    return seconds
