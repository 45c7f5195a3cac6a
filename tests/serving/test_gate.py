"""The middleware alone, in front of applications that are a few lines each."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from dataclasses import dataclass
from typing import Any

import pytest

from serving.gate import KNOWN_PATHS, Gate
from serving.page import PAGE

LIMIT = 1000


@dataclass
class Answer:
    """What a client got, and how much of its body was asked for."""

    status: int
    headers: dict[str, str]
    body: bytes
    parts: int
    pulled: int

    @property
    def error(self) -> dict[str, str]:
        value = json.loads(self.body)
        assert value.keys() == {"error"}
        assert value["error"].keys() == {"type", "message", "request_id"}
        assert value["error"]["request_id"] == self.headers["x-request-id"]
        assert self.headers["content-type"] == "application/json"
        assert int(self.headers["content-length"]) == len(self.body)
        return value["error"]


def ask(
    app: Any, path: str = "/predict/", chunks: tuple[bytes, ...] = (b"",), **headers: str
) -> Answer:
    """One request through the gate."""
    pulled, sent = 0, []

    async def receive() -> Any:
        nonlocal pulled
        chunk = chunks[pulled]
        pulled += 1
        return {"type": "http.request", "body": chunk, "more_body": pulled < len(chunks)}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": "POST", "path": path, "headers": raw}
    asyncio.run(Gate(app, LIMIT)(scope, receive, send))
    start, *bodies = sent
    assert start["type"] == "http.response.start"
    assert not bodies[-1].get("more_body")
    names = {k.decode(): v.decode() for k, v in start["headers"]}
    body = b"".join(message["body"] for message in bodies)
    return Answer(int(start["status"]), names, body, len(bodies), pulled)


def answering(status: int, body: bytes, content_type: str = "application/json") -> Any:
    """An application that reads all and answers the same in two parts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", content_type.encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        half = len(body) // 2
        await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        await send({"type": "http.response.body", "body": body[half:]})

    return app


async def untouched(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the application was called")


def test_a_good_answer_passes_unchanged_and_part_by_part() -> None:
    answer = ask(answering(200, b"\x1f\x8b labels", "application/gzip"))
    assert (answer.status, answer.body, answer.parts) == (200, b"\x1f\x8b labels", 2)
    assert answer.headers["content-type"] == "application/gzip"


def test_a_clients_request_id_is_taken_over() -> None:
    assert (
        ask(answering(200, b""), x_request_id="scan-7.a_B").headers["x-request-id"] == "scan-7.a_B"
    )


def test_each_request_without_an_id_gets_one_of_its_own() -> None:
    ids = {ask(answering(200, b"")).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(re.fullmatch(r"[0-9a-f]{32}", i) for i in ids)


@pytest.mark.parametrize("junk", ["", "a b", "x" * 65, "<script>", "a\r\nx: y", "ümlaut", "a/b"])
def test_a_junk_request_id_is_replaced(junk: str) -> None:
    found = ask(answering(200, b""), x_request_id=junk).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", found)


def test_the_application_learns_the_request_id() -> None:
    seen = []

    async def app(scope: Any, *channels: Any) -> None:
        seen.append(scope["state"]["request_id"])
        await answering(200, b"")(scope, *channels)

    ask(app, x_request_id="mine")
    assert seen == ["mine"]


@pytest.mark.parametrize(
    "path", ["/nothing", "/predict", "/v1/models/", "/metrics/x", "//", "/../"]
)
def test_an_unknown_path_is_404_before_the_application_sees_it(path: str) -> None:
    answer = ask(untouched, path)
    assert answer.status == 404
    assert answer.error["type"] == "NotFound"
    assert path not in answer.error["message"]


@pytest.mark.parametrize("path", sorted(KNOWN_PATHS - {"/"}))
def test_known_paths_reach_the_application(path: str) -> None:
    assert ask(answering(200, b"here"), path).body == b"here"


def test_a_stated_length_beyond_the_limit_is_413_without_reading() -> None:
    answer = ask(untouched, content_length=str(LIMIT + 1))
    assert answer.status == 413
    assert answer.pulled == 0
    assert str(LIMIT) in answer.error["message"]


def test_a_body_as_long_as_the_limit_is_read() -> None:
    half = b"x" * (LIMIT // 2)
    answer = ask(answering(200, b"ok"), chunks=(half, half), content_length=str(LIMIT))
    assert (answer.status, answer.pulled) == (200, 2)


@pytest.mark.parametrize("stated", [{}, {"content_length": "5"}, {"content_length": "junk"}])
def test_a_chunked_body_beyond_the_limit_is_413_and_not_read_on(stated: dict[str, str]) -> None:
    chunks = tuple(b"x" * 400 for _ in range(10))
    answer = ask(answering(200, b"ok"), chunks=chunks, **stated)
    assert answer.status == 413
    assert answer.error["type"] == "RequestTooLarge"
    assert answer.pulled == 3


def test_an_application_that_catches_all_cannot_hide_the_413() -> None:
    """BentoML answers any exception of the body with 500 by itself."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await answering(200, b"ok")(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

    assert ask(app, chunks=(b"x" * 400,) * 10).status == 413


def test_an_exception_is_500_in_our_shape_and_leaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret /home/somebody/JANE_DOE.nii.gz")

    with caplog.at_level(logging.ERROR, logger="neurobento.serving"):
        answer = ask(app, x_request_id="mine")
    assert answer.status == 500
    assert answer.error["type"] == "InternalError"
    assert b"secret" not in answer.body
    assert "request mine failed" in caplog.text


def test_an_exception_in_the_middle_of_an_answer_does_not_start_a_second_one() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half"})
        raise RuntimeError

    assert (ask(app).status, ask(app).body, ask(app).parts) == (200, b"half", 1)


OURS = {"type": "EmptyScan", "message": "expected a head", "request_id": "other"}
DETAIL = [{"loc": ["file"]}, {"loc": ["a", 0]}]
FIELDS = "these fields are missing or not what they should be: file, a.0"
SHAPES: dict[str, tuple[int, Any, str, str]] = {
    "ours": (422, {"error": OURS}, "EmptyScan", "expected a head"),
    "list": (400, [{"error": "expected a file"}], "BadRequest", "expected a file"),
    "detail": (400, {"error": "1 error", "detail": DETAIL}, "BadRequest", FIELDS),
    "plain": (429, {"error": "Too many requests"}, "TooManyRequests", "Too many requests"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_error_shape_becomes_ours(shape: str) -> None:
    status, body, kind, message = SHAPES[shape]
    answer = ask(answering(status, json.dumps(body).encode()))
    assert answer.status == status
    assert (answer.error["type"], answer.error["message"]) == (kind, message)


@pytest.mark.parametrize(
    "body",
    [b"Internal Server Error", b"", b"[]", b"null", b"7", b'{"detail": "x"}', b"\xff", b'"text"'],
)
def test_an_error_without_a_known_shape_says_what_the_status_says(body: bytes) -> None:
    answer = ask(answering(504, body, "text/plain"))
    assert answer.status == 504
    assert answer.error["type"] == "GatewayTimeout"
    assert answer.error["message"]


def test_an_errors_own_headers_stay() -> None:
    """A client that is told to come back needs to know when, and which methods there are."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", b"2"), (b"retry-after", b"5"), (b"allow", b"POST")]
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})

    headers = ask(app).headers
    assert (headers.get("retry-after"), headers.get("allow")) == ("5", "POST")


def test_the_page_is_answered_without_the_application() -> None:
    answer = ask(untouched, "/")
    assert (answer.status, answer.body.decode()) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")


def test_what_is_not_http_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(scope["type"])

    gate: Any = Gate(app, LIMIT)
    asyncio.run(gate({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
