"""One request's body and answer, between the server and the application behind the gate."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from neurobento.errors import NeuroBentoError
from neurobento.serving.admission import Call
from neurobento.serving.error_answers import CLIENT_GONE, error_body, error_headers, error_status
from neurobento.serving.telemetry.tracing import trace_id

__all__ = ["Answer", "Body", "Message", "Receive", "Send", "too_large"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

Shape = Callable[[str, str, str], dict[str, Any]]
"""An error's JSON from its kind, message and request id."""

PASSING = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
TRY_AGAIN = (b"retry-after", b"5")
"""Seconds, for an answer that says nothing of when to try again."""

REPLACED_HEADERS = frozenset({b"content-type", b"content-length", b"x-request-id", b"x-trace-id"})

logger = logging.getLogger("neurobento.serving")


class _BodyRefused(Exception):
    def __init__(self, answer: tuple[int, str, str]) -> None:
        self.answer = answer


class Body:
    """The request body, counted and timed as it comes; once it is whole, the client is watched."""

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        call: Call | None = None,
        upload_s: float | None = None,
    ) -> None:
        self._receive, self._left = receive, max_bytes
        self._max_bytes, self._call, self._upload_s = max_bytes, call, upload_s
        self._watcher: asyncio.Task[None] | None = None
        self._end = asyncio.get_running_loop().time() + upload_s if upload_s else None
        self.refused: _BodyRefused | None = None

    async def __call__(self) -> Message:
        if self._watcher is not None:
            assert self._call is not None
            await self._call.left()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise self._refuse(*_too_slow(self._upload_s)) from None
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise self._refuse(*too_large(self._max_bytes))
        if message["type"] == "http.disconnect" and self._call is not None:
            self._refuse(CLIENT_GONE, "ClientGone", "the client left before its request was whole")
            self._call.leave()
        elif self._call is not None and not message.get("more_body"):
            self._watcher = asyncio.ensure_future(self._watch(self._call))
        return message

    def _refuse(self, status: int, kind: str, text: str) -> _BodyRefused:
        self.refused = _BodyRefused((status, kind, text))
        return self.refused

    async def _watch(self, call: Call) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        call.leave()

    def stop_watching(self) -> None:
        """The request is over."""
        if self._watcher is not None:
            self._watcher.cancel()


class Answer:
    """The response: passed through with its request id, errors brought into the one shape."""

    def __init__(self, send: Send, request_id: str, shape: Shape = error_body) -> None:
        self._send, self._shape = send, shape
        self.request_id = request_id
        self.started = False
        self.status = CLIENT_GONE
        self.body: Body | None = None
        self._held: Message | None = None
        self._text = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *self._names()]}
            if message["status"] >= 400:
                self._held = message
                return
            self.started, self.status = True, message["status"]
        elif self._held is not None:
            self._text += message.get("body", b"")
            if not message.get("more_body"):
                await self._held_error(self._held)
            return
        await self._send(message)

    async def _held_error(self, start: Message) -> None:
        """Answer with the error that the application gave, in our shape."""
        if self.body is not None and self.body.refused is not None:
            # BentoML catches what reading the body raised and makes a 500 of it
            await self.error(*self.body.refused.answer)
            return
        status: int = start["status"]
        own = [(k, v) for k, v in start["headers"] if k.lower() not in REPLACED_HEADERS]
        if status in PASSING and all(name.lower() != TRY_AGAIN[0] for name, _ in own):
            own.append(TRY_AGAIN)
        await self.error(status, *_error_in(self._text, status), own)

    async def fail(self, error: NeuroBentoError) -> None:
        """Answer with an error of ours, if nothing is answered yet."""
        headers = [(k.encode(), v.encode()) for k, v in error_headers(error).items()]
        if not self.started:
            kind = type(error).__name__
            await self.error(error_status(error), kind, error.public_message, headers)

    async def crash(self) -> None:
        """Log the exception that is being handled; answer 500, if nothing is answered yet."""
        logger.exception("request %s failed", self.request_id)
        if not self.started:
            await self.error(
                HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", "something went wrong here"
            )

    async def error(
        self, status: int, kind: str, text: str, headers: Headers | None = None
    ) -> None:
        """Answer with an error, and with further headers if there are any."""
        logger.info(
            "request %s: %d %s",
            *(self.request_id, status, kind),
            extra={"request_id": self.request_id, "status": int(status), "error": kind},
        )
        body = json.dumps(self._shape(kind, text, self.request_id)).encode()
        await self._whole(status, b"application/json", body, headers or [])

    def _names(self) -> Headers:
        """What an operator finds the request by."""
        trace = trace_id()
        names = [(b"x-request-id", self.request_id.encode())]
        return names if trace is None else [*names, (b"x-trace-id", trace.encode())]

    async def page(self, html: str) -> None:
        """Answer with a page."""
        await self._whole(HTTPStatus.OK, b"text/html; charset=utf-8", html.encode(), [])

    async def _whole(self, status: int, content_type: bytes, body: bytes, further: Headers) -> None:
        self.started, self.status = True, int(status)
        headers = [
            (b"content-type", content_type),
            (b"content-length", str(len(body)).encode()),
            *self._names(),
            *further,
        ]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _too_slow(limit_s: float | None) -> tuple[HTTPStatus, str, str]:
    text = f"expected the whole request within {limit_s:g} s; send it faster, or compressed"
    return HTTPStatus.REQUEST_TIMEOUT, "RequestTimeout", text


def too_large(limit: int) -> tuple[HTTPStatus, str, str]:
    """Status, kind and text of the answer to a body of more bytes."""
    text = f"expected a request of at most {limit} bytes; send one scan, compressed with gzip"
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLarge", text


def _error_in(body: bytes, status: int) -> tuple[str, str]:
    """Type and message of an error body: ours, or one of the shapes BentoML gives."""
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
