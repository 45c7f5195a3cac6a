"""The answer alone: what is put beside an error that BentoML gives; the rest is in test_gate."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from neurobento.serving.http.response_writer import ResponseWriter

Headers = list[tuple[bytes, bytes]]


def answered(status: int, headers: Headers) -> tuple[dict[str, Any], Headers]:
    """An error of BentoML as the client gets it: its body, and when to try again."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def answer() -> None:
        give = ResponseWriter(send, "r-1")
        await give({"type": "http.response.start", "status": status, "headers": headers})
        await give({"type": "http.response.body", "body": b'{"error": "no room"}'})

    asyncio.run(answer())
    start, body = sent
    assert start["status"] == status
    found = [(name, value) for name, value in start["headers"] if name.lower() == b"retry-after"]
    return json.loads(body["body"])["error"], found


@pytest.mark.parametrize("status", [429, 503])
def test_what_passes_says_when_to_try_again_unless_it_says_so_already(status: int) -> None:
    error, found = answered(status, [(b"content-type", b"application/json")])
    assert error["message"] == "no room"
    assert found == [(b"retry-after", b"5")]
    for name in (b"retry-after", b"Retry-After"):
        assert answered(status, [(name, b"60")])[1] == [(name, b"60")]


@pytest.mark.parametrize("status", [400, 404, 500])
def test_what_does_not_pass_says_nothing_of_it(status: int) -> None:
    assert answered(status, [])[1] == []
