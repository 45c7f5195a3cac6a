"""Requests arrive as the service documents them, and outcomes are told apart."""

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
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tritonclient.grpc import service_pb2, service_pb2_grpc

from benchmarks.service.protocols import Protocol, open_sender

CONTENT = b"\x1f\x8b not a scan"
LABELS = b"no labels either"


@contextlib.asynccontextmanager
async def http_server(answer: Callable[[Request], Awaitable[Any]]) -> AsyncIterator[str]:
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
    """An Open Inference Protocol server that records its requests."""

    def __init__(self, code: grpc.StatusCode | None = None) -> None:
        self.requests: list[Any] = []
        self.code = code

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        """Return the labels' file, or the error."""
        self.requests.append(request)
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


async def send(protocol: Protocol, url: str, preprocessing: str = "stripped") -> tuple[str, str]:
    async with open_sender(protocol, url, "regions", preprocessing) as send_scan:
        outcome, status, _ = await send_scan(CONTENT)
        return outcome, status


def send_http(protocol: Protocol, status: int, preprocessing: str = "stripped") -> tuple[Any, Any]:
    """Return the outcome, and the path, query, fields and file that the server saw."""
    seen: dict[str, Any] = {}

    async def answer(request: Request) -> PlainTextResponse:
        async with request.form() as form:
            file: Any = form["file"]
            fields = {name: value for name, value in form.items() if name != "file"}
            seen.update(file=(file.filename, await file.read()), fields=fields)
        seen.update(path=request.url.path, query=dict(request.query_params))
        seen.update(accept=request.headers["accept"])
        return PlainTextResponse("", status)

    async def both() -> tuple[str, str]:
        async with http_server(answer) as url:
            return await send(protocol, url, preprocessing)

    return asyncio.run(both()), seen


def test_http_requests_labels_as_documented() -> None:
    outcome, seen = send_http("http", 200)
    assert outcome == ("ok", "200")
    assert seen == {
        "path": "/v1/parcellation",
        "query": {},
        "fields": {"model": "regions", "preprocessing": "stripped"},
        "file": ("scan", CONTENT),
        "accept": "application/gzip",
    }


@pytest.mark.parametrize(
    ("preprocessing", "sent"), [("full", "true"), ("none", "false"), ("stripped", "stripped")]
)
def test_predict_sends_what_report_a_does(preprocessing: str, sent: str) -> None:
    _, seen = send_http("predict", 200, preprocessing)
    assert (seen["path"], seen["fields"]) == ("/predict/", {})
    assert seen["query"] == {"model": "regions", "preprocessing": sent}


@pytest.mark.parametrize(
    ("status", "outcome"), [(429, "refused"), (503, "failed"), (422, "failed"), (302, "failed")]
)
def test_only_shed_load_is_a_refusal(status: int, outcome: str) -> None:
    assert send_http("http", status)[0] == (outcome, str(status))


def test_no_server_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert asyncio.run(send("http", f"http://127.0.0.1:{port}")) == ("failed", "ConnectError")


def send_grpc(servicer: Inference) -> tuple[str, str]:
    async def both() -> tuple[str, str]:
        async with grpc_server(servicer) as url:
            return await send("grpc", url)

    return asyncio.run(both())


def test_grpc_speaks_the_open_inference_protocol() -> None:
    servicer = Inference()
    assert send_grpc(servicer) == ("ok", "OK")
    (request,) = servicer.requests
    assert request.model_name == "regions"
    assert request.parameters["preprocessing"].string_param == "stripped"
    (scan,) = request.inputs
    assert (scan.name, scan.datatype, list(scan.shape)) == ("scan", "BYTES", [1])
    # the protocol's raw form of BYTES: length, little-endian, then the bytes
    (raw,) = request.raw_input_contents
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
    assert send_grpc(Inference(code)) == (outcome, code.name)
