"""Send scans, without their names, to a service: HTTP in two forms, or Open Inference gRPC."""

from __future__ import annotations

import argparse
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from neurobento.preprocessing.mode import PREPROCESSINGS
from neurobento.registry import DEFAULT_MODEL

__all__ = [
    "PROTOCOLS",
    "Outcome",
    "Protocol",
    "SendScan",
    "add_service_options",
    "open_sender",
    "open_senders",
]

Outcome = Literal["ok", "refused", "failed", "timeout"]
"""`refused`: load was shed (429, RESOURCE_EXHAUSTED). `failed`: any other response, or none."""

SendScan = Callable[[bytes], Awaitable[tuple[Outcome, str, bytes]]]
"""Send a scan's file; return the outcome, the server's status, and the labels' file if it is ok."""

Protocol = Literal["http", "predict", "grpc"]
"""`http`: POST /v1/parcellation. `predict`: report A's POST /predict/. `grpc`: ModelInfer."""

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)

TOO_MANY_REQUESTS = 429


def add_service_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `open_senders`, and the output."""
    parser.add_argument("--url", required=True)
    parser.add_argument("--grpc-url", help="HOST:PORT; without it all clients use HTTP")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--preprocessing", choices=PREPROCESSINGS, default="none")
    parser.add_argument("-o", "--output", type=Path, required=True)


@asynccontextmanager
async def open_sender(
    protocol: Protocol, url: str, model: str, preprocessing: str
) -> AsyncIterator[SendScan]:
    """Yield a function that sends a scan's file; a `url` for gRPC is `HOST:PORT`."""
    opened = _open_grpc if protocol == "grpc" else functools.partial(_open_http, protocol)
    async with opened(url, model, preprocessing) as send_scan:
        yield send_scan


@asynccontextmanager
async def open_senders(
    url: str, grpc_url: str | None, model: str, preprocessing: str
) -> AsyncIterator[dict[str, SendScan]]:
    """Yield a sender for HTTP, and one for gRPC if `grpc_url` is given, by protocol."""
    async with AsyncExitStack() as stack:
        opened = open_sender("http", url, model, preprocessing)
        senders = {"http": await stack.enter_async_context(opened)}
        if grpc_url:
            opened = open_sender("grpc", grpc_url, model, preprocessing)
            senders["grpc"] = await stack.enter_async_context(opened)
        yield senders


@asynccontextmanager
async def _open_http(
    protocol: Protocol, url: str, model: str, preprocessing: str
) -> AsyncIterator[SendScan]:
    import httpx

    path, options = _http_form(protocol, model, preprocessing)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=None, limits=limits, trust_env=False
    ) as client:

        async def send_scan(scan: bytes) -> tuple[Outcome, str, bytes]:
            try:
                response = await client.post(
                    path,
                    files={"file": ("scan", scan)},
                    headers={"accept": "application/gzip"},
                    **options,
                )
            except httpx.HTTPError as error:
                return "failed", type(error).__name__, b""
            if response.status_code == TOO_MANY_REQUESTS:
                return "refused", str(response.status_code), b""
            outcome: Outcome = "ok" if response.is_success else "failed"
            return outcome, str(response.status_code), response.content

        yield send_scan


def _http_form(protocol: Protocol, model: str, preprocessing: str) -> tuple[str, dict[str, Any]]:
    if protocol == "http":
        fields = {"model": model, "preprocessing": preprocessing}
        return "/v1/parcellation", {"data": fields}
    # Report A's parameter is a boolean; our service also takes the names there.
    flag = {"full": "true", "none": "false"}.get(preprocessing, preprocessing)
    return "/predict/", {"params": {"model": model, "preprocessing": flag}}


@asynccontextmanager
async def _open_grpc(url: str, model: str, preprocessing: str) -> AsyncIterator[SendScan]:
    import numpy as np
    from tritonclient.grpc import (  # type: ignore[import-untyped]
        InferInput,
        InferRequestedOutput,
    )
    from tritonclient.grpc.aio import InferenceServerClient  # type: ignore[import-untyped]
    from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

    async with InferenceServerClient(url) as client:

        async def send_scan(scan: bytes) -> tuple[Outcome, str, bytes]:
            tensor = InferInput("scan", [1], "BYTES")
            tensor.set_data_from_numpy(np.array([scan], dtype=np.object_))
            try:
                response = await client.infer(
                    model,
                    [tensor],
                    outputs=[InferRequestedOutput("dseg")],
                    parameters={"preprocessing": preprocessing},
                )
            except InferenceServerException as error:
                status = str(error.status()).removeprefix("StatusCode.")
                refused = status == "RESOURCE_EXHAUSTED"
                return ("refused" if refused else "failed"), status, b""
            labels = response.as_numpy("dseg")
            return ("failed", "no labels", b"") if labels is None else ("ok", "OK", labels[0])

        yield send_scan
