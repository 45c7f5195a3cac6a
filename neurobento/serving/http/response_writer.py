"""The way from the application to the client: adds request ids, gives all errors one shape."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from neurobento.errors import NeuroBentoError
from neurobento.serving.error_responses import CLIENT_GONE, error_body, error_headers, error_status
from neurobento.serving.http.request_body import Message, RequestBody
from neurobento.serving.telemetry.tracing import current_trace_id

__all__ = ["ResponseWriter", "Send"]

Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

Shape = Callable[[str, str, str], dict[str, Any]]
"""Makes an error's JSON from its kind, message and request id."""

TEMPORARY = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
RETRY_AFTER = (b"retry-after", b"5")
"""Seconds, for a temporary error that does not say when to try again."""

REPLACED_HEADERS = frozenset({b"content-type", b"content-length", b"x-request-id", b"x-trace-id"})

logger = logging.getLogger("neurobento.serving")


class ResponseWriter:
    """An ASGI send callable that passes responses on, and errors in one JSON shape."""

    def __init__(self, send: Send, request_id: str, shape: Shape = error_body) -> None:
        self._send, self._shape = send, shape
        self.request_id = request_id
        self.started = False
        # what it is if nothing is ever sent
        self.status = CLIENT_GONE
        self.body: RequestBody | None = None
        self._error_start: Message | None = None
        self._error_text = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *self._id_headers()]}
            if message["status"] >= 400:
                self._error_start = message
                return
            self.started, self.status = True, message["status"]
        elif self._error_start is not None:
            self._error_text += message.get("body", b"")
            if not message.get("more_body"):
                await self._reshape_error(self._error_start)
            return
        await self._send(message)

    async def _reshape_error(self, start: Message) -> None:
        """Send the application's error in our shape."""
        if self.body is not None and self.body.refused is not None:
            # BentoML catches what reading the body raised, and makes a 500 of it
            await self.error(*self.body.refused.error)
            return
        status: int = start["status"]
        headers = [(k, v) for k, v in start["headers"] if k.lower() not in REPLACED_HEADERS]
        if status in TEMPORARY and all(name.lower() != RETRY_AFTER[0] for name, _ in headers):
            headers.append(RETRY_AFTER)
        await self.error(status, *_parse_error(self._error_text, status), headers)

    async def fail(self, error: NeuroBentoError) -> None:
        """Send one of our errors, unless a response has begun."""
        headers = [(k.encode(), v.encode()) for k, v in error_headers(error).items()]
        if not self.started:
            kind = type(error).__name__
            await self.error(error_status(error), kind, error.public_message, headers)

    async def crash(self) -> None:
        """Log the exception being handled; send 500, unless a response has begun."""
        logger.exception("request %s failed", self.request_id)
        if not self.started:
            await self.error(
                HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", "something went wrong here"
            )

    async def error(
        self, status: int, kind: str, text: str, headers: Headers | None = None
    ) -> None:
        """Log and send an error, with further headers if there are any."""
        logger.info(
            "request %s: %d %s",
            self.request_id,
            status,
            kind,
            extra={"request_id": self.request_id, "status": int(status), "error": kind},
        )
        body = json.dumps(self._shape(kind, text, self.request_id)).encode()
        await self._send_whole(status, b"application/json", body, headers or [])

    async def page(self, html: str) -> None:
        """Send an HTML page."""
        await self._send_whole(HTTPStatus.OK, b"text/html; charset=utf-8", html.encode(), [])

    async def redirect(self, location: bytes) -> None:
        """Send the client to another path, with the same method and body."""
        headers = [(b"location", location)]
        await self._send_whole(HTTPStatus.PERMANENT_REDIRECT, b"text/plain", b"", headers)

    def _id_headers(self) -> Headers:
        """Return the headers by which an operator finds the request."""
        headers = [(b"x-request-id", self.request_id.encode())]
        trace_id = current_trace_id()
        return headers if trace_id is None else [*headers, (b"x-trace-id", trace_id.encode())]

    async def _send_whole(
        self, status: int, content_type: bytes, body: bytes, further: Headers
    ) -> None:
        self.started, self.status = True, int(status)
        headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            *self._id_headers(),
            *further,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _parse_error(body: bytes, status: int) -> tuple[str, str]:
    """Return type and message of an error body: ours, or one of the shapes BentoML gives."""
    try:
        known = HTTPStatus(status)
    except ValueError:
        known = HTTPStatus.INTERNAL_SERVER_ERROR
    kind = known.phrase.replace(" ", "")
    try:
        value = json.loads(body)
    except ValueError:
        return kind, known.description
    value = value[0] if isinstance(value, list) and value else value
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and {"type", "message"} <= error.keys():
        return error["type"], error["message"]
    if isinstance(value, dict) and "detail" in value and isinstance(value["detail"], list):
        fields = ", ".join(".".join(map(str, d.get("loc", ()))) for d in value["detail"])
        return "BadRequest", f"these fields are missing or not what they should be: {fields}"
    return kind, str(error or known.description)
