"""Respond to errors with an HTTP status or gRPC code and one JSON shape, without scan content."""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from neurobento import errors as e

__all__ = [
    "CLIENT_GONE",
    "GRPC_CODES",
    "Endpoint",
    "api_error_responses",
    "endpoint_error_responses",
    "error_body",
    "error_headers",
    "error_status",
    "protocol_error_body",
]

Endpoint = Callable[[Request], Awaitable[Response]]

CLIENT_GONE = 499
"""Nginx's status for a client that left: it shows in logs and metrics only."""

STATUS: dict[type[e.NeuroBentoError], int] = {
    e.OversizedScan: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    e.ScanError: HTTPStatus.UNPROCESSABLE_ENTITY,
    e.PreprocessingTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    e.SkullStrippingUnavailable: HTTPStatus.NOT_IMPLEMENTED,
    e.PreprocessingError: HTTPStatus.UNPROCESSABLE_ENTITY,
    e.ModelNotFound: HTTPStatus.NOT_FOUND,
    e.ConfigError: HTTPStatus.BAD_REQUEST,
    e.NotEnoughMemory: HTTPStatus.SERVICE_UNAVAILABLE,
    e.ServiceBusy: HTTPStatus.TOO_MANY_REQUESTS,
    e.ServiceUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    e.DeadlineExceeded: HTTPStatus.GATEWAY_TIMEOUT,
    e.ClientGone: CLIENT_GONE,
    e.NotAuthorised: HTTPStatus.UNAUTHORIZED,
    e.JobNotFound: HTTPStatus.NOT_FOUND,
    e.JobConflict: HTTPStatus.CONFLICT,
}
"""The first class that an error is an instance of counts; anything else is 500."""

GRPC_CODES: dict[int, str] = {
    HTTPStatus.BAD_REQUEST: "INVALID_ARGUMENT",
    HTTPStatus.UNAUTHORIZED: "UNAUTHENTICATED",
    HTTPStatus.NOT_FOUND: "NOT_FOUND",
    HTTPStatus.CONFLICT: "FAILED_PRECONDITION",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "INVALID_ARGUMENT",
    HTTPStatus.UNPROCESSABLE_ENTITY: "INVALID_ARGUMENT",
    HTTPStatus.TOO_MANY_REQUESTS: "RESOURCE_EXHAUSTED",
    CLIENT_GONE: "CANCELLED",
    HTTPStatus.INTERNAL_SERVER_ERROR: "INTERNAL",
    HTTPStatus.NOT_IMPLEMENTED: "UNIMPLEMENTED",
    HTTPStatus.SERVICE_UNAVAILABLE: "UNAVAILABLE",
    HTTPStatus.GATEWAY_TIMEOUT: "DEADLINE_EXCEEDED",
}
"""HTTP status -> name of the gRPC code for the same error."""


def error_status(error: Exception) -> int:
    """Return the HTTP status for an error."""
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            return int(status)
    return int(HTTPStatus.INTERNAL_SERVER_ERROR)


def error_headers(error: Exception) -> dict[str, str]:
    """Return an error's HTTP headers: when to try again, or how to authenticate."""
    if isinstance(error, e.NotAuthorised):
        return {"www-authenticate": "Bearer"}
    wait_s = getattr(error, "retry_after_s", None)
    return {} if wait_s is None else {"retry-after": str(math.ceil(wait_s))}


def protocol_error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """Return an error in the Open Inference Protocol's shape, where `error` is a text."""
    return {"error": message, "type": kind, "request_id": request_id}


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """Return `{"error": {"type", "message", "request_id"}}`, the shape of every other error."""
    return {"error": {"type": kind, "message": message, "request_id": request_id}}


def endpoint_error_responses(endpoint: Endpoint) -> Endpoint:
    """Decorate a Starlette endpoint: its errors become responses."""

    async def respond(request: Request) -> Response:
        try:
            return await endpoint(request)
        except e.NeuroBentoError as error:
            return _error_response(error, request, error_headers(error))

    return respond


def api_error_responses(method: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a BentoML API method: its errors become responses, with their status in `ctx`."""

    @functools.wraps(method)
    async def respond(self: Any, *args: Any, ctx: Any, **options: Any) -> Any:
        try:
            return await method(self, *args, ctx=ctx, **options)
        except e.NeuroBentoError as error:
            # BentoML sets the context's status on every response of a method that has a context
            ctx.response.status_code = error_status(error)
            ctx.response.metadata.update(error_headers(error))
            return _error_response(error, ctx.request)

    return respond


def _error_response(
    error: e.NeuroBentoError, request: Request, headers: dict[str, str] | None = None
) -> Response:
    body = error_body(type(error).__name__, error.public_message, request.state.request_id)
    return JSONResponse(body, error_status(error), headers)
