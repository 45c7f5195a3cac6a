"""How a request reaches a service: HTTP in two forms, or gRPC by the Open Inference Protocol.

The scan's name is never sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

from benchmarks.arrivals import Outcome, Send

__all__ = ["PROTOCOLS", "Protocol", "Request", "open_client"]

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
    opened = _open_grpc(url, request) if protocol == "grpc" else _open_http(protocol, url, request)
    async with opened as send:
        yield send


@asynccontextmanager
async def _open_http(protocol: Protocol, url: str, request: Request) -> AsyncIterator[Send]:
    import httpx

    target, options = _http_form(protocol, request)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=None, limits=limits, trust_env=False
    ) as client:

        async def send() -> tuple[Outcome, str]:
            try:
                answer = await client.post(
                    target,
                    files={"file": ("scan", request.content)},
                    headers={"accept": "application/gzip"},
                    **options,
                )
            except httpx.HTTPError as error:
                return "failed", type(error).__name__
            if answer.status_code == TOO_MANY_REQUESTS:
                return "refused", str(answer.status_code)
            return ("ok" if answer.is_success else "failed"), str(answer.status_code)

        yield send


def _http_form(protocol: Protocol, request: Request) -> tuple[str, dict[str, Any]]:
    if protocol == "http":
        fields = {"model": request.model, "preprocessing": request.preprocessing}
        return "/v1/parcellation", {"data": fields}
    # report A's parameter is a boolean; ours takes a level's name there too
    asked = {"full": "true", "none": "false"}.get(request.preprocessing, request.preprocessing)
    return "/predict/", {"params": {"model": request.model, "preprocessing": asked}}


@asynccontextmanager
async def _open_grpc(url: str, request: Request) -> AsyncIterator[Send]:
    import numpy as np
    from tritonclient.grpc import InferInput  # type: ignore[import-untyped]
    from tritonclient.grpc.aio import InferenceServerClient  # type: ignore[import-untyped]
    from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

    scan = InferInput("scan", [1], "BYTES")
    scan.set_data_from_numpy(np.array([request.content], dtype=np.object_))
    async with InferenceServerClient(url) as client:

        async def send() -> tuple[Outcome, str]:
            try:
                await client.infer(
                    request.model, [scan], parameters={"preprocessing": request.preprocessing}
                )
            except InferenceServerException as error:
                status = str(error.status()).removeprefix("StatusCode.")
                return ("refused" if status == "RESOURCE_EXHAUSTED" else "failed"), status
            return "ok", "OK"

        yield send
