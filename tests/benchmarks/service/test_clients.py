"""Requests arrive as the service's documentation has them, and answers are told apart."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.service.clients import Protocol, Request, open_client

CONTENT = b"\x1f\x8b not a scan"
LABELS = b"no labels either"


@contextlib.asynccontextmanager
async def http_server(answer: Callable[[HttpRequest], Awaitable[Any]]) -> AsyncIterator[str]:
    """An HTTP server on a free port of this machine."""
    routes = [Route(path, answer, methods=["POST"]) for path in ("/v1/parcellation", "/predict/")]
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error"))
    task = asyncio.create_task(server.serve([listening]))
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    await task
    listening.close()


class Inference(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """An Open Inference Protocol server that keeps what it was asked."""

    def __init__(self, code: grpc.StatusCode | None = None) -> None:
        self.asked: list[Any] = []
        self.code = code

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Labels' file, or the error."""
        self.asked.append(request)
        if self.code is not None:
            await context.abort(self.code, "no")
        dseg = service_pb2.ModelInferResponse.InferOutputTensor(
            name="dseg", datatype="BYTES", shape=[1]
        )
        return service_pb2.ModelInferResponse(
            model_name=request.model_name,
            outputs=[dseg],
            raw_output_contents=[struct.pack("<I", len(LABELS)) + LABELS],
        )


@contextlib.asynccontextmanager
async def grpc_server(servicer: Inference) -> AsyncIterator[str]:
    """A gRPC server on a free port of this machine."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


async def ask(protocol: Protocol, url: str, preprocessing: str = "stripped") -> tuple[str, str]:
    async with open_client(protocol, url, Request(CONTENT, "compact", preprocessing)) as send:
        return await send()


def ask_http(protocol: Protocol, status: int, preprocessing: str = "stripped") -> tuple[Any, Any]:
    """Outcome, and what the server saw: path, query, fields, the file's name and bytes."""
    seen: dict[str, Any] = {}

    async def answer(request: HttpRequest) -> PlainTextResponse:
        async with request.form() as form:
            file: Any = form["file"]
            fields = {name: value for name, value in form.items() if name != "file"}
            seen.update(file=(file.filename, await file.read()), fields=fields)
        seen.update(path=request.url.path, query=dict(request.query_params))
        seen.update(accept=request.headers["accept"])
        return PlainTextResponse("", status)

    async def both() -> tuple[str, str]:
        async with http_server(answer) as url:
            return await ask(protocol, url, preprocessing)

    return asyncio.run(both()), seen


def test_http_asks_for_labels_as_the_readme_does() -> None:
    outcome, seen = ask_http("http", 200)
    assert outcome == ("ok", "200")
    assert seen == {
        "path": "/v1/parcellation",
        "query": {},
        "fields": {"model": "compact", "preprocessing": "stripped"},
        "file": ("scan", CONTENT),
        "accept": "application/gzip",
    }


@pytest.mark.parametrize(
    ("preprocessing", "asked"), [("full", "true"), ("none", "false"), ("stripped", "stripped")]
)
def test_predict_asks_as_report_a_does(preprocessing: str, asked: str) -> None:
    _, seen = ask_http("predict", 200, preprocessing)
    assert (seen["path"], seen["fields"]) == ("/predict/", {})
    assert seen["query"] == {"model": "compact", "preprocessing": asked}


@pytest.mark.parametrize(
    ("status", "outcome"), [(429, "refused"), (503, "failed"), (422, "failed"), (302, "failed")]
)
def test_only_shed_load_is_a_refusal(status: int, outcome: str) -> None:
    assert ask_http("http", status)[0] == (outcome, str(status))


def test_nobody_there_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert asyncio.run(ask("http", f"http://127.0.0.1:{port}")) == ("failed", "ConnectError")


def ask_grpc(servicer: Inference) -> tuple[str, str]:
    async def both() -> tuple[str, str]:
        async with grpc_server(servicer) as url:
            return await ask("grpc", url)

    return asyncio.run(both())


def test_grpc_speaks_the_open_inference_protocol() -> None:
    servicer = Inference()
    assert ask_grpc(servicer) == ("ok", "OK")
    (asked,) = servicer.asked
    assert asked.model_name == "compact"
    assert asked.parameters["preprocessing"].string_param == "stripped"
    (scan,) = asked.inputs
    assert (scan.name, scan.datatype, list(scan.shape)) == ("scan", "BYTES", [1])
    # the protocol's raw form of BYTES: length, little-endian, then the bytes
    (raw,) = asked.raw_input_contents
    assert raw == len(CONTENT).to_bytes(4, "little") + CONTENT


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "refused"),
        (grpc.StatusCode.UNAVAILABLE, "failed"),
        (grpc.StatusCode.INVALID_ARGUMENT, "failed"),
    ],
)
def test_grpc_errors_are_told_apart(code: grpc.StatusCode, outcome: str) -> None:
    assert ask_grpc(Inference(code)) == (outcome, code.name)
