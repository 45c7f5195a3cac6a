"""The middleware alone, in front of applications that are a few lines each."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from prometheus_client import REGISTRY

from neurobento.serving.admission import Admission
from neurobento.serving.http.middleware import RequestMiddleware
from neurobento.serving.http.paths import KNOWN_PATHS, PROBES, is_known_path
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.request import RequestContext, RequestLimits
from neurobento.serving.settings import RUN_VARIABLE
from neurobento.serving.token import Token
from neurobento.serving.web.page import PAGE

LIMIT = 1000
LIMITS = RequestLimits(body_bytes=LIMIT, request_s=60.0, upload_s=30.0)
FORM = "multipart/form-data; boundary=x"
SECRET = "a-token-of-enough-characters"
INFER = "/v2/models/regions/infer"
WORK = ("/predict/", "/v1/parcellation", INFER, "/v2/models/regions/versions/1/infer")


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
        if isinstance(value["error"], str):
            # as the Open Inference Protocol has it
            value = {"error": {"message": value.pop("error"), **value}}
        assert value.keys() == {"error"}
        assert value["error"].keys() == {"type", "message", "request_id"}
        assert value["error"]["request_id"] == self.headers["x-request-id"]
        assert self.headers["content-type"] == "application/json"
        assert int(self.headers["content-length"]) == len(self.body)
        error: dict[str, str] = value["error"]
        return error


@dataclass
class Client:
    """Sends a body in chunks; then it leaves, or it waits for the answer."""

    chunks: Sequence[bytes] = (b"",)
    leaves: bool = False
    whole: bool = True
    pause_s: float = 0.0
    pulled: int = 0
    sent: list[Any] = field(default_factory=list)

    async def receive(self) -> Any:
        if self.pulled < len(self.chunks):
            await asyncio.sleep(self.pause_s)
            chunk = self.chunks[self.pulled]
            self.pulled += 1
            more = not self.whole or self.pulled < len(self.chunks)
            return {"type": "http.request", "body": chunk, "more_body": more}
        if not self.leaves:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def answer(self) -> Answer:
        start, *bodies = self.sent
        assert start["type"] == "http.response.start"
        assert not bodies[-1].get("more_body")
        names = {k.decode(): v.decode() for k, v in start["headers"]}
        assert len(names) == len(start["headers"])
        body = b"".join(message["body"] for message in bodies)
        return Answer(int(start["status"]), names, body, len(bodies), self.pulled)


@pytest.fixture(autouse=True)
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    return RunFolder(tmp_path)


def admitting(slots: int = 4) -> Admission:
    return Admission(slots, 1, 60.0)


async def visit(
    app: Any,
    client: Client,
    path: str = "/predict/",
    method: str = "POST",
    admission: Admission | None = None,
    limits: RequestLimits = LIMITS,
    token: str | None = None,
    query: str = "",
    **headers: str,
) -> None:
    """One request of a client through the middleware; header names with _ for -."""
    headers = {"content_type": FORM, **headers}
    raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    scope["query_string"] = query.encode()
    middleware = RequestMiddleware(app, admission or admitting(), limits, Token(token))
    await middleware(scope, client.receive, client.send)


def ask(
    app: Any, path: str = "/predict/", chunks: Sequence[bytes] = (b"",), **options: Any
) -> Answer:
    """What a client that waits for its answer gets."""
    client = Client(chunks)
    asyncio.run(visit(app, client, path, **options))
    return client.answer


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


def catching(app: Any) -> Any:
    """As BentoML does: any exception is an answer of 500 by itself."""

    async def catch(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        except Exception:
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b"{}"})

    return catch


async def crashing(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("secret /home/somebody/JANE_DOE.nii.gz")


async def untouched(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the application was called")


def answered(outcome: int) -> float:
    """How many requests metrics have counted with an outcome."""
    samples = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return sum(
        sample.value
        for sample in samples
        if sample.name == "neurobento_request_seconds_count"
        and sample.labels["outcome"] == str(outcome)
    )


def test_a_good_answer_passes_unchanged_and_part_by_part() -> None:
    answer = ask(answering(200, b"\x1f\x8b labels", "application/gzip"))
    assert (answer.status, answer.body, answer.parts) == (200, b"\x1f\x8b labels", 2)
    assert answer.headers["content-type"] == "application/gzip"


def test_a_clients_request_id_is_taken_over_and_the_application_learns_it() -> None:
    seen: list[Any] = []

    async def app(scope: Any, *channels: Any) -> None:
        seen.extend((scope["state"]["request_id"], scope["state"]["context"]))
        await answering(200, b"")(scope, *channels)

    assert ask(app, x_request_id="scan-7.a_B").headers["x-request-id"] == "scan-7.a_B"
    request_id, request = seen
    assert request_id == request.id == "scan-7.a_B"
    assert request.protocol == "http"


def test_each_request_without_an_id_or_with_junk_gets_one_of_its_own() -> None:
    app = answering(200, b"")
    ids = [ask(app).headers["x-request-id"] for _ in range(3)]
    for junk in ("", "a b", "x" * 65, "<script>", "a\r\nx: y", "ümlaut", "a/b"):
        ids.append(ask(app, x_request_id=junk).headers["x-request-id"])
    assert len(set(ids)) == 10
    assert all(re.fullmatch(r"[0-9a-f]{32}", i) for i in ids)


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/predict///", "/v1/model/", "/metrics/x", "//", "/../", "/v2/models/a/b/infer"],
)
def test_an_unknown_path_is_404_before_the_application_sees_it(path: str) -> None:
    """It takes no slot and is not counted."""
    before = answered(404)
    answer = ask(untouched, path, token=SECRET, admission=admitting(0))
    assert answer.status == 404
    assert answer.error["type"] == "NotFound"
    assert path not in answer.error["message"]
    assert answer.pulled == 0
    assert answered(404) == before


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/predict", "/predict/"),
        ("/v1/parcellation/", "/v1/parcellation"),
        ("/v1/anomaly/", "/v1/anomaly"),
        ("/v1/models/", "/v1/models"),
        ("/v2/models/regions/infer/", INFER),
        ("/readyz/", "/readyz"),
    ],
)
def test_a_path_with_a_slash_too_few_or_too_many_is_sent_to_the_right_one(
    path: str, location: str
) -> None:
    """With 308 a client repeats its POST; it needs neither slot nor token to be told."""
    answer = ask(untouched, path, token=SECRET, admission=admitting(0), query="model=regions&x=%0a")
    assert answer.status == HTTPStatus.PERMANENT_REDIRECT
    assert answer.pulled == 0
    for query in ("?model=regions&x=%0a", ""):
        found = ask(untouched, path, query=query[1:]).headers["location"]
        # behind a proxy the paths have its prefix
        for prefix in ("http://host", "http://host/brain"):
            assert urljoin(f"{prefix}{path}", found) == f"{prefix}{location}{query}"


QUERIES = {
    "a form field in the query": ("/v1/parcellation", "preprocessing=none", "-F preprocessing"),
    "an option of a job": ("/v1/jobs", "model=compact", "-F preprocessing"),
    "a slice's model": ("/v1/anomaly", "model=compact", "form fields"),
    "a parameter of the protocol": (INFER, "preprocessing=none", "`parameters`"),
    "a misspelt name": ("/predict/", "preproccessing=true", "Did you mean `preprocessing`?"),
    "a name in capitals": ("/predict/", "Model=regions", "Did you mean `model`?"),
    "a name alone": ("/predict/", "stripped", "`preprocessing` and `space`"),
    "one known, one not": ("/predict/", "model=regions&spce=native", "Did you mean `space`?"),
    "a name twice": ("/predict/", "model=a&model=b", "'model' 2 times"),
}


@pytest.mark.parametrize("case", QUERIES)
def test_an_unknown_name_in_the_query_is_400_before_the_body_is_read(case: str) -> None:
    path, query, hint = QUERIES[case]
    answer = ask(untouched, path, query=query)
    assert answer.status == 400
    assert hint in answer.error["message"]
    assert answer.pulled == 0


def test_a_long_name_in_the_query_is_not_repeated() -> None:
    answer = ask(untouched, query="JANE_DOE_1970_" * 4 + "=1")
    assert "56 other characters" in answer.error["message"]
    assert "JANE" not in answer.error["message"]


def test_known_names_in_the_query_pass() -> None:
    query = "preprocessing=true&model=regions&space=native"
    assert ask(answering(200, b"here"), query=query).body == b"here"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def bare_deflate(content: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(content) + stream.flush()


TEXT = bytes(range(256)) * 3
CODED = {
    "gzip": ("gzip", gzip.compress(TEXT)),
    "its old name": ("X-GZip", gzip.compress(TEXT)),
    "two members": ("gzip", gzip.compress(TEXT[:300]) + gzip.compress(TEXT[300:])),
    "deflate": ("deflate", zlib.compress(TEXT)),
    "bare deflate": ("deflate", bare_deflate(TEXT)),
    "as it is": ("identity", TEXT),
}


@pytest.mark.parametrize("case", CODED)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_compressed_body_reaches_the_application_inflated(case: str, size: int) -> None:
    coding, body = CODED[case]
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    answer = ask(echo, chunks=chunks, content_encoding=coding)
    assert (answer.status, answer.body) == (200, TEXT)


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "compress", "JANE_DOE"])
def test_another_coding_is_415_that_says_which_are_known(coding: str) -> None:
    answer = ask(untouched, content_encoding=coding)
    assert answer.status == 415
    assert answer.headers["accept-encoding"] == "gzip, deflate"
    assert "gzip or deflate" in answer.error["message"]
    assert "JANE" not in answer.error["message"]
    assert answer.pulled == 0


BROKEN = {
    "not compressed": ("gzip", TEXT),
    "not compressed either": ("deflate", b"\xff" * 20),
    "cut short": ("gzip", gzip.compress(TEXT)[:-9]),
    "deflate cut short": ("deflate", zlib.compress(TEXT)[:40]),
    "changed": ("gzip", gzip.compress(TEXT)[:-8] + bytes(8)),
    "followed by something else": ("gzip", gzip.compress(TEXT) + b"more"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("app", [echo, catching(echo)])
def test_a_body_that_is_not_in_its_coding_is_400(case: str, app: Any) -> None:
    coding, body = BROKEN[case]
    answer = ask(app, chunks=[body[:10], body[10:]], content_encoding=coding)
    assert (answer.status, answer.error["type"]) == (400, "CorruptContentEncoding")


def test_a_body_that_inflates_beyond_the_limit_is_413_and_never_whole() -> None:
    """A thousand zeros are twenty bytes; the limit holds for what they become."""
    assert ask(echo, chunks=[gzip.compress(bytes(LIMIT))], content_encoding="gzip").status == 200
    for content in (bytes(LIMIT + 1), bytes(64 << 20)):
        answer = ask(catching(echo), chunks=[gzip.compress(content)[:900]], content_encoding="gzip")
        assert (answer.status, answer.error["type"]) == (413, "RequestTooLarge")


def test_a_large_body_is_inflated_a_megabyte_at_a_time() -> None:
    sizes = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await answering_now(send)

    limits = RequestLimits(body_bytes=8 << 20, request_s=60.0, upload_s=30.0)
    ask(app, chunks=[gzip.compress(bytes(5 << 20))], content_encoding="gzip", limits=limits)
    assert sum(sizes) == 5 << 20
    assert max(sizes) == 1 << 20


@pytest.mark.parametrize("path", sorted(KNOWN_PATHS - {"/"}))
def test_known_paths_reach_the_application(path: str) -> None:
    assert ask(answering(200, b"here"), path).body == b"here"


def test_the_protocols_root_is_not_redirected() -> None:
    """Starlette answers 307 for the path that it has mounted something at, without a slash."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/v2/"
        await answering_now(send)

    assert ask(app, "/v2", method="GET").status == 200


MODEL = "/v2/models/regions"
KNOWN_V2 = ["/v2", "/v2/health/live", "/v2/health/ready", MODEL, f"{MODEL}/ready", f"{MODEL}/infer"]
KNOWN_V2 += [f"{MODEL}_2.0-int8/versions/0.1.0/infer", f"{MODEL}/versions/1"]
KNOWN_V2 += [f"{MODEL}/versions/1/ready"]
UNKNOWN_V2 = ["/v2/", "/v2/health", "/v2/health/live/", "/v2/models", "/v2/models/"]
UNKNOWN_V2 += ["/v2/models//infer", f"{MODEL}/generate", f"{MODEL}/infer/more", f"{MODEL}/infer\n"]
UNKNOWN_V2 += ["/v2/models/a b/infer", f"/v2/models/{'x' * 65}/infer", "/x/v2/health/live"]
UNKNOWN_V2 += [f"{MODEL}/versions//infer", f"{MODEL}/versions/{'1' * 33}"]


def test_the_open_inference_protocols_paths_are_known_and_others_below_v2_are_not() -> None:
    assert [path for path in KNOWN_V2 if not is_known_path(path)] == []
    assert [path for path in UNKNOWN_V2 if is_known_path(path)] == []


def test_an_upload_that_is_no_form_is_415_before_its_body_is_read() -> None:
    """A content type has no case, and inference may have any."""
    form = "application/x-www-form-urlencoded"
    for content_type in ("application/json", form, "text/plain", "", "form-data"):
        answer = ask(untouched, content_type=content_type)
        assert answer.status == 415
        assert answer.error["type"] == "UnsupportedMediaType"
        assert "curl -F" in answer.error["message"]
        assert answer.pulled == 0
    mixed_case = "Multipart/Form-Data; boundary=X"
    assert ask(answering(200, b""), content_type=mixed_case).status == 200
    assert ask(answering(200, b""), INFER, content_type="application/json").status == 200


def test_a_stated_length_beyond_the_limit_is_413_without_reading() -> None:
    answer = ask(untouched, content_length=str(LIMIT + 1))
    assert answer.status == 413
    assert answer.pulled == 0
    assert str(LIMIT) in answer.error["message"]
    half = b"x" * (LIMIT // 2)
    answer = ask(answering(200, b"ok"), chunks=(half, half), content_length=str(LIMIT))
    assert (answer.status, answer.pulled) == (200, 2)


@pytest.mark.parametrize("path", ["/predict/", INFER, "/v1/models"])
@pytest.mark.parametrize("stated", [{}, {"content_length": "5"}, {"content_length": "junk"}])
@pytest.mark.parametrize("behind", [answering(200, b"ok"), catching(answering(200, b"ok"))])
def test_a_chunked_body_beyond_the_limit_is_413_and_not_read_on(
    path: str, stated: dict[str, Any], behind: Any
) -> None:
    answer = ask(behind, path, chunks=(b"x" * 400,) * 10, **stated)
    assert answer.status == 413
    assert answer.error["type"] == "RequestTooLarge"
    assert answer.pulled == 3


@pytest.mark.parametrize("behind", [answering(200, b"ok"), catching(answering(200, b"ok"))])
def test_a_body_that_does_not_come_in_time_is_408(behind: Any, run: RunFolder) -> None:
    client = Client((b"half",), whole=False)
    limits = RequestLimits(LIMIT, 60.0, 0.05)
    asyncio.run(visit(behind, client, limits=limits))
    assert client.answer.status == 408
    assert client.answer.error["type"] == "RequestTimeout"
    assert "0.05 s" in client.answer.error["message"]
    assert run.active_requests == 0


def test_the_whole_body_has_to_come_in_time_not_each_part_of_it() -> None:
    """And in the time that its client allows; the answer may come later."""
    limits = RequestLimits(LIMIT, 60.0, 0.1)
    client = Client((b"x",) * 20, pause_s=0.03)
    asyncio.run(visit(answering(200, b"ok"), client, limits=limits))
    assert client.answer.status == 408
    assert client.pulled <= 4
    client = Client((b"half",), whole=False)
    asyncio.run(visit(answering(200, b"ok"), client, x_request_timeout="0.05"))
    assert client.answer.status == 408

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(0.15)
        await answering_now(send)

    assert ask(slow, limits=limits).status == 200


async def answering_now(send: Any, status: int = 200) -> None:
    """An answer without a look at the body."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def test_a_timeout_that_is_no_number_of_seconds_is_400() -> None:
    for given in ("soon", "", "0", "-1", "nan", "inf", "-inf", "1 s", "0x10"):
        answer = ask(untouched, x_request_timeout=given)
        assert answer.status == 400
        assert answer.error["type"] == "ConfigError"
        assert "X-Request-Timeout" in answer.error["message"]
        assert answer.pulled == 0


def test_a_call_ends_when_its_client_says_but_not_later_than_we_do() -> None:
    calls: list[RequestContext] = []

    async def app(scope: Any, *channels: Any) -> None:
        calls.append(scope["state"]["context"])
        await answering(200, b"")(scope, *channels)

    ask(app)
    for given in ("7", "2.5", "1e9"):
        ask(app, x_request_timeout=given)
    limits = [call.deadline - call.started for call in calls]
    assert limits == pytest.approx([60.0, 7.0, 2.5, 60.0])


def test_without_a_slot_work_is_429_before_its_body_is_read(run: RunFolder) -> None:
    """What is no work takes no slot."""
    for path in WORK:
        answer = ask(untouched, path, admission=admitting(0))
        assert answer.status == 429
        assert answer.error["type"] == "ServiceBusy"
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.pulled == 0
        assert run.active_requests == 0
    for path in ("/v1/models", "/metrics", "/readyz", "/v2/models/regions/ready"):
        assert ask(answering(200, b""), path, admission=admitting(0)).status == 200
    for path in ("/predict/", INFER):
        app = answering(405, b"")
        assert ask(app, path, method="GET", admission=admitting(0)).status == 405


def test_a_slot_is_held_until_the_answer_is_given(run: RunFolder) -> None:
    async def app(scope: Any, *channels: Any) -> None:
        assert run.active_requests == 1
        await answering(200, b"")(scope, *channels)
        assert run.active_requests == 1

    assert ask(app).status == 200
    assert run.active_requests == 0


@pytest.mark.parametrize(
    ("app", "chunks", "status"),
    [
        (answering(200, b""), (b"",), 200),
        (answering(422, b""), (b"",), 422),
        (crashing, (b"",), 500),
        (answering(200, b""), (b"x" * 600,) * 2, 413),
    ],
)
def test_a_slot_is_free_again_whatever_comes_of_it(
    app: Any, chunks: tuple[bytes, ...], status: int, run: RunFolder
) -> None:
    admission, before = admitting(1), answered(status)
    for _ in range(2):
        assert ask(app, chunks=chunks, admission=admission).status == status
        assert run.active_requests == 0
    assert answered(status) == before + 2


def test_a_place_is_free_again_when_the_request_is_cancelled(run: RunFolder) -> None:
    """BentoML's own timeout cancels what it waits for."""

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.sleep(30)

    async def scenario() -> None:
        task = asyncio.ensure_future(visit(stuck, Client()))
        await asyncio.sleep(0.01)
        assert run.active_requests == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())
    assert run.active_requests == 0


async def waiting_for_nobody(scope: Any, receive: Any, send: Any) -> None:
    """Works until the client has left, and answers as the front does then."""
    while (await receive()).get("more_body"):
        pass
    await asyncio.wait_for(scope["state"]["context"].wait_abandoned(), 5)
    await answering_now(send, 499)


def test_a_client_that_leaves_after_its_body_has_abandoned_its_request(run: RunFolder) -> None:
    before = answered(499)
    client = Client((b"half", b"half"), leaves=True)
    asyncio.run(visit(waiting_for_nobody, client))
    assert client.answer.status == 499
    assert run.active_requests == 0
    assert answered(499) == before + 1


def test_a_client_that_stays_has_not_abandoned_its_request() -> None:
    """And nothing goes on after its answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        left = asyncio.ensure_future(scope["state"]["context"].wait_abandoned())
        await asyncio.wait({left}, timeout=0.05)
        assert not left.done()
        left.cancel()
        await answering_now(send)

    async def scenario() -> int:
        client = Client()
        await visit(app, client)
        assert client.answer.status == 200
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(scenario()) == 1


def test_an_application_that_listens_on_hears_only_that_the_client_left() -> None:
    """Starlette reads on while it answers, to see whether anybody listens."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        assert (await receive())["type"] == "http.disconnect"
        await answering_now(send)

    client = Client(leaves=True)
    asyncio.run(visit(app, client))
    assert client.answer.status == 200


@pytest.mark.parametrize("behind", [lambda app: app, catching])
def test_a_client_that_leaves_amid_its_body_is_not_our_error(
    behind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[RequestContext] = []

    async def reading(scope: Any, receive: Any, send: Any) -> None:
        calls.append(scope["state"]["context"])
        while (message := await receive())["type"] != "http.disconnect":
            assert message["more_body"]
        raise RuntimeError("ClientDisconnect")

    before = answered(499)
    client = Client((b"half",), whole=False, leaves=True)
    with caplog.at_level(logging.ERROR, logger="neurobento.serving"):
        asyncio.run(visit(behind(reading), client))
    assert client.answer.error["type"] == "ClientGone"
    assert answered(499) == before + 1
    assert caplog.text == ""
    asyncio.run(asyncio.wait_for(calls[0].wait_abandoned(), 1))


def test_without_the_token_there_is_nothing() -> None:
    for path in sorted((KNOWN_PATHS | set(WORK)) - PROBES - {"/"}):
        for shown in ({}, {"authorization": "Bearer another"}):
            answer = ask(untouched, path, token=SECRET, **shown)
            assert answer.status == 401
            assert answer.error["type"] == "NotAuthorised"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert SECRET not in answer.body.decode()
            assert answer.pulled == 0
        with_token = {"token": SECRET, "authorization": f"Bearer {SECRET}"}
        assert ask(answering(200, b""), path, **with_token).status == 200


def test_probes_and_the_page_need_no_token() -> None:
    for path in sorted(PROBES):
        assert ask(answering(200, b""), path, method="GET", token=SECRET).status == 200
    assert ask(untouched, "/", method="GET", token=SECRET).status == 200
    answer = ask(untouched, "/")
    assert (answer.status, answer.body.decode()) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")


def test_a_draining_service_is_not_ready_but_alive_and_sends_work_away(run: RunFolder) -> None:
    run.drain()
    answer = ask(untouched, "/readyz", method="GET")
    assert (answer.status, answer.error["type"]) == (503, "Draining")
    assert ask(answering(200, b""), "/livez", method="GET").status == 200
    answer = ask(untouched)
    assert (answer.status, answer.error["type"]) == (503, "ServiceUnavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.pulled == 0


@pytest.mark.parametrize("path", ["/predict/", "/v1/models"])
def test_an_exception_is_500_in_our_shape_and_leaks_nothing(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="neurobento.serving"):
        answer = ask(crashing, path, x_request_id="mine")
    assert answer.status == 500
    assert answer.error["type"] == "InternalError"
    assert b"secret" not in answer.body
    assert "request mine failed" in caplog.text


def test_no_exception_of_ours_leaves_the_gate_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """BentoML hangs on one until its timeout."""
    monkeypatch.setenv(RUN_VARIABLE, "/nowhere/at/all")
    answer = ask(untouched)
    assert (answer.status, answer.error["type"]) == (500, "InternalError")
    assert b"nowhere" not in answer.body


def test_an_exception_in_the_middle_of_an_answer_does_not_start_a_second_one() -> None:
    """In the middle of an error it is answered."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status = 200 if scope["path"] == "/predict/" else 404
        await send({"type": "http.response.start", "status": status, "headers": []})
        if status == 200:
            await send({"type": "http.response.body", "body": b"half"})
        raise RuntimeError

    answer = ask(app)
    assert (answer.status, answer.body, answer.parts) == (200, b"half", 1)
    assert ask(app, "/v1/models").status == 500


OURS = {"type": "EmptyScan", "message": "expected a head", "request_id": "other"}
DETAIL = [{"loc": ["file"]}, {"loc": ["a", 0]}]
FIELDS = "these fields are missing or not what they should be: file, a.0"
SHAPES: dict[str, tuple[int, Any, str, str]] = {
    "ours": (422, {"error": OURS}, "EmptyScan", "expected a head"),
    "list": (400, [{"error": "expected a file"}], "BadRequest", "expected a file"),
    "detail": (400, {"error": "1 error", "detail": DETAIL}, "BadRequest", FIELDS),
    "plain": (429, {"error": "Too many requests"}, "TooManyRequests", "Too many requests"),
    "gone": (499, {"error": {**OURS, "type": "ClientGone"}}, "ClientGone", "expected a head"),
    "no status of HTTP": (599, {"error": "what"}, "InternalServerError", "what"),
}


@pytest.mark.parametrize("path", ["/predict/", "/v1/models"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_error_shape_becomes_ours(shape: str, path: str) -> None:
    status, body, kind, message = SHAPES[shape]
    answer = ask(answering(status, json.dumps(body).encode()), path)
    assert answer.status == status
    assert (answer.error["type"], answer.error["message"]) == (kind, message)


@pytest.mark.parametrize("status", [504, HTTPStatus.GATEWAY_TIMEOUT])
def test_an_error_without_a_known_shape_says_what_the_status_says(status: int) -> None:
    words = (b"Internal Server Error", b"", b"[]", b"null", b"7", b'{"detail": "x"}', b"\xff")
    for body in (*words, b'"text"'):
        answer = ask(answering(status, body, "text/plain"))
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


@pytest.mark.parametrize(("path", "lines"), [("/predict/", 1), (INFER, 1), ("/v1/models", 0)])
def test_the_end_of_work_is_a_line_in_the_log(
    path: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="neurobento.serving"):
        ask(answering(200, b""), path, x_request_id="mine")
    ended = [record for record in caplog.records if "ended" in record.message]
    assert [(r.request_id, r.status) for r in ended] == [("mine", 200)] * lines  # type: ignore[attr-defined]


def test_what_is_not_http_passes() -> None:
    seen: list[str] = []

    async def app(scope: Any, *_: Any) -> None:
        seen.append(scope["type"])

    middleware: Any = RequestMiddleware(app, admitting(), LIMITS, Token(SECRET))
    asyncio.run(middleware({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
