"""A request's body: its size and time are limited, and afterwards the client is watched."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from neurobento.serving.error_responses import CLIENT_GONE
from neurobento.serving.http.content_coding import inflater_for
from neurobento.serving.request import RequestContext

__all__ = ["BodyRefused", "Message", "Receive", "RequestBody", "too_large"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]


class BodyRefused(Exception):
    """The body is too large, too slow, not whole or corrupt; `error` is status, kind and text."""

    def __init__(self, error: tuple[int, str, str]) -> None:
        self.error = error


class RequestBody:
    """An ASGI receive callable that limits and inflates the body, and notices a client leaving.

    The limit of bytes counts as they arrive and once more when they are inflated.
    """

    def __init__(
        self,
        receive: Receive,
        max_bytes: int,
        request: RequestContext | None = None,
        upload_s: float | None = None,
        coding: str = "",
    ) -> None:
        self._receive, self._bytes_left = receive, max_bytes
        self._inflater, self._inflated_left = inflater_for(coding), max_bytes
        self._max_bytes, self._request, self._upload_s = max_bytes, request, upload_s
        self._watcher: asyncio.Task[None] | None = None
        self._end = asyncio.get_running_loop().time() + upload_s if upload_s else None
        self.refused: BodyRefused | None = None

    async def __call__(self) -> Message:
        if self._inflater is not None and self._inflater.has_more:
            return await self._next_inflated()
        # the body is whole already: report the client's leaving only
        if self._watcher is not None:
            assert self._request is not None
            await self._request.wait_abandoned()
            return {"type": "http.disconnect"}

        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise self._refuse(*_too_slow(self._upload_s)) from None

        self._bytes_left -= len(message.get("body", b""))
        if self._bytes_left < 0:
            raise self._refuse(*too_large(self._max_bytes))
        if message["type"] == "http.disconnect" and self._request is not None:
            self._refuse(CLIENT_GONE, "ClientGone", "the client left before its request was whole")
            self._request.abandon()
        elif self._request is not None and not message.get("more_body"):
            self._watcher = asyncio.ensure_future(self._watch(self._request))
        if self._inflater is not None and message["type"] == "http.request":
            is_last = not message.get("more_body")
            self._inflater.feed(message.get("body", b""), is_last)
            return await self._next_inflated()
        return message

    async def _next_inflated(self) -> Message:
        assert self._inflater is not None
        await asyncio.sleep(0)
        try:
            piece = self._inflater.next_piece() if self._inflater.has_more else b""
            self._inflated_left -= len(piece)
            if self._inflated_left < 0:
                raise self._refuse(*too_large(self._max_bytes))
            is_over = self._inflater.is_over
        except zlib.error:
            raise self._refuse(*_not_inflatable()) from None
        return {"type": "http.request", "body": piece, "more_body": not is_over}

    def _refuse(self, status: int, kind: str, text: str) -> BodyRefused:
        self.refused = BodyRefused((status, kind, text))
        return self.refused

    async def _watch(self, request: RequestContext) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        request.abandon()

    def stop_watching(self) -> None:
        """Stop watching the client; call it when the request is over."""
        if self._watcher is not None:
            self._watcher.cancel()


def _too_slow(limit_s: float | None) -> tuple[HTTPStatus, str, str]:
    text = f"expected the whole request within {limit_s:g} s; send it faster, or compressed"
    return HTTPStatus.REQUEST_TIMEOUT, "RequestTimeout", text


def _not_inflatable() -> tuple[HTTPStatus, str, str]:
    text = (
        "expected a whole body in the format that its Content-Encoding names; found other bytes, "
        "or a part of it. Compress the whole request, or leave the header out"
    )
    return HTTPStatus.BAD_REQUEST, "CorruptContentEncoding", text


def too_large(limit: int) -> tuple[HTTPStatus, str, str]:
    """Return status, kind and text for a body of more than `limit` bytes."""
    text = f"expected a request of at most {limit} bytes; send one scan, compressed with gzip"
    return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RequestTooLarge", text
