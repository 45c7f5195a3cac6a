"""How a request reaches a service: HTTP in two forms, or gRPC by the Open Inference Protocol.

The scan's name is never sent.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from benchmarks.service.arrivals import Outcome, Send

__all__ = ["PROTOCOLS", "Ask", "Protocol", "Request", "open_asker", "open_askers", "open_client"]

Ask = Callable[[bytes], Awaitable[tuple[Outcome, str, bytes]]]
"""Sends a scan's file; the outcome, the server's word for it, and the labels' file if it is ok."""

Protocol = Literal["http", "predict", "grpc"]
"""`http`: POST /v1/parcellation. `predict`: report A's POST /predict/. `grpc`: ModelInfer."""

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

TOO_MANY_REQUESTS = 429


@dataclass(frozen=True)
class Request:
    """What every request asks for.

    Attributes
    ----------
    content
        Bytes of a scan's file.
    model
        Which network is to answer.
    preprocessing
        `full`, `stripped` or `none`.
    """

    content: bytes
    model: str
    preprocessing: str


@asynccontextmanager
async def open_client(protocol: Protocol, url: str, request: Request) -> AsyncIterator[Send]:
    """A function that sends the request once; connections are kept between calls.

    Parameters
    ----------
    protocol
        How.
    url
        `http://HOST:PORT`, or `HOST:PORT` for gRPC.
    request
        What is asked for.
    """
    async with open_asker(protocol, url, request.model, request.preprocessing) as ask:

        async def send() -> tuple[Outcome, str]:
            outcome, status, _ = await ask(request.content)
            return outcome, status

        yield send


@asynccontextmanager
async def open_asker(
    protocol: Protocol, url: str, model: str, preprocessing: str
) -> AsyncIterator[Ask]:
    """A function that asks for the labels of a scan's file; as `open_client` besides."""
    opened = _open_grpc if protocol == "grpc" else functools.partial(_open_http, protocol)
    async with opened(url, model, preprocessing) as ask:
        yield ask


@asynccontextmanager
async def open_askers(
    url: str, grpc_url: str | None, model: str, preprocessing: str
) -> AsyncIterator[dict[str, Ask]]:
    """What asks a service over HTTP, and over gRPC where its HOST:PORT is named; by protocol."""
    async with AsyncExitStack() as stack:
        opened = open_asker("http", url, model, preprocessing)
        askers = {"http": await stack.enter_async_context(opened)}
        if grpc_url:
            opened = open_asker("grpc", grpc_url, model, preprocessing)
            askers["grpc"] = await stack.enter_async_context(opened)
        yield askers


@asynccontextmanager
async def _open_http(
    protocol: Protocol, url: str, model: str, preprocessing: str
) -> AsyncIterator[Ask]:
    import httpx

    target, options = _http_form(protocol, model, preprocessing)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=None, limits=limits, trust_env=False
    ) as client:

        async def ask(scan: bytes) -> tuple[Outcome, str, bytes]:
            try:
                answer = await client.post(
                    target,
                    files={"file": ("scan", scan)},
                    headers={"accept": "application/gzip"},
                    **options,
                )
            except httpx.HTTPError as error:
                return "failed", type(error).__name__, b""
            if answer.status_code == TOO_MANY_REQUESTS:
                return "refused", str(answer.status_code), b""
            outcome: Outcome = "ok" if answer.is_success else "failed"
            return outcome, str(answer.status_code), answer.content

        yield ask


def _http_form(protocol: Protocol, model: str, preprocessing: str) -> tuple[str, dict[str, Any]]:
    if protocol == "http":
        fields = {"model": model, "preprocessing": preprocessing}
        return "/v1/parcellation", {"data": fields}
    # report A's parameter is a boolean; ours takes a level's name there too
    asked = {"full": "true", "none": "false"}.get(preprocessing, preprocessing)
    return "/predict/", {"params": {"model": model, "preprocessing": asked}}


@asynccontextmanager
async def _open_grpc(url: str, model: str, preprocessing: str) -> AsyncIterator[Ask]:
    import numpy as np
    from tritonclient.grpc import (  # type: ignore[import-untyped]
        InferInput,
        InferRequestedOutput,
    )
    from tritonclient.grpc.aio import InferenceServerClient  # type: ignore[import-untyped]
    from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

    async with InferenceServerClient(url) as client:

        async def ask(scan: bytes) -> tuple[Outcome, str, bytes]:
            tensor = InferInput("scan", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([scan], dtype=np.object_))
            try:
                answer = await client.infer(
                    model,
                    [tensor],
                    outputs=[InferRequestedOutput("dseg")],
                    parameters={"preprocessing": preprocessing},
                )
            except InferenceServerException as error:
                status = str(error.status()).removeprefix("StatusCode.")
                refused = status == "RESOURCE_EXHAUSTED"
                return ("refused" if refused else "failed"), status, b""
            labels = answer.as_numpy("dseg")
            return ("failed", "no labels", b"") if labels is None else ("ok", "OK", labels[0])

        yield ask
