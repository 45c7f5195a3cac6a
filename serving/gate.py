"""The ASGI middleware in front of everything: request ids, limits, one error shape.

BentoML 1.4.39 has no body limit, answers errors in several shapes, and counts
unknown paths in its metrics one by one; this is where that ends.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from serving.answers import error_body
from serving.page import PAGE

__all__ = ["KNOWN_PATHS", "Gate"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

KNOWN_PATHS = frozenset(
    {
        *("/", "/predict/", "/v1/parcellation", "/v1/models"),
        *("/healthz", "/livez", "/readyz", "/metrics", "/docs.json", "/schema.json"),
    }
)

REPLACED_HEADERS = frozenset({b"content-type", b"content-length", b"x-request-id"})

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""A client's own request id is taken over if it looks like this."""

logger = logging.getLogger("neurobento.serving")


class Gate:
    """Wraps the service's ASGI application.

    Parameters
    ----------
    app
        The application behind.
    max_body_bytes
        A longer request body is refused with 413, before it is read where the
        client states its length.
    """

    def __init__(self, app: App, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        answer = _Answer(send, request_id)
        if scope["path"] not in KNOWN_PATHS:
            await answer.error(HTTPStatus.NOT_FOUND, "NotFound", "there is no such path")
        elif scope["path"] == "/":
            await answer.page(PAGE)
        elif _stated_length(headers) > self.max_body_bytes:
            await answer.error(*_too_large(self.max_body_bytes))
        else:
            await self._pass_on(scope, _Body(receive, self.max_body_bytes), answer)

    async def _pass_on(self, scope: MutableMapping[str, Any], body: _Body, answer: _Answer) -> None:
        answer.body = body
        try:
            await self.app(scope, body, answer)
        except _BodyTooLarge:
            if not answer.started:
                await answer.error(*_too_large(self.max_body_bytes))
        # an exception that leaves the middleware makes BentoML hang until its timeout
        except Exception:
            logger.exception("request %s failed", answer.request_id)
            if not answer.started:
                await answer.error(
                    HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", "something went wrong here"
                )


class _BodyTooLarge(Exception):
    pass


class _Body:
    """The request body, counted as it comes."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive, self._left = receive, max_bytes
        self.max_bytes = max_bytes

    @property
    def too_large(self) -> bool:
        """Whether more came than is allowed."""
        return self._left < 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self.too_large:
            raise _BodyTooLarge
        return message


class _Answer:
    """The response: passed through with its request id, errors brought into the one shape."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self.request_id = request_id
        self.started = False
        self.body: _Body | None = None
        self._held: Message | None = None
        self._text = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", []), (b"x-request-id", self.request_id.encode())]
            message = {**message, "headers": headers}
            if message["status"] >= 400:
                self._held = message
                return
            self.started = True
        elif self._held is not None:
            self._text += message.get("body", b"")
            if not message.get("more_body"):
                await self._held_error(self._held)
            return
        await self._send(message)

    async def _held_error(self, start: Message) -> None:
        """Answer with the error that the application gave, in our shape."""
        if self.body is not None and self.body.too_large:
            # BentoML catches what the body raised and makes a 500 of it
            await self.error(*_too_large(self.body.max_bytes))
            return
        status = HTTPStatus(start["status"])
        own = [(k, v) for k, v in start["headers"] if k.lower() not in REPLACED_HEADERS]
        await self.error(status, *_error_in(self._text, status), own)

    async def error(
        self, status: HTTPStatus, kind: str, text: str, headers: Headers | None = None
    ) -> None:
        """Answer with an error, and with further headers if there are any."""
        logger.info("request %s: %d %s", self.request_id, status, kind)
        body = json.dumps(error_body(kind, text, self.request_id)).encode()
        await self._whole(status, b"application/json", body, headers or [])

    async def page(self, html: str) -> None:
        """Answer with a page."""
        await self._whole(HTTPStatus.OK, b"text/html; charset=utf-8", html.encode(), [])

    async def _whole(
        self, status: HTTPStatus, content_type: bytes, body: bytes, further: Headers
    ) -> None:
        self.started = True
        headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", self.request_id.encode()),
            *further,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _stated_length(headers: dict[bytes, bytes]) -> int:
    stated = headers.get(b"content-length", b"0")
    return int(stated) if stated.isdigit() else 0


def _too_large(limit: int) -> tuple[HTTPStatus, str, str]:
    text = f"expected a request of at most {limit} bytes; send one scan, compressed with gzip"
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLarge", text


def _error_in(body: bytes, status: HTTPStatus) -> tuple[str, str]:
    """Type and message of an error body: ours, or one of the shapes BentoML gives."""
    try:
        value = json.loads(body)
    except ValueError:
        return status.phrase.replace(" ", ""), status.description
    value = value[0] if isinstance(value, list) and value else value
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and {"type", "message"} <= error.keys():
        return error["type"], error["message"]
    if isinstance(value, dict) and "detail" in value and isinstance(value["detail"], list):
        fields = ", ".join(".".join(map(str, d.get("loc", ()))) for d in value["detail"])
        return "BadRequest", f"these fields are missing or not what they should be: {fields}"
    return status.phrase.replace(" ", ""), str(error or status.description)
