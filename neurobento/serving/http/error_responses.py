"""Turn the errors of Starlette endpoints into JSON responses."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from neurobento.errors import NeuroBentoError
from neurobento.serving.error_answers import error_body, error_headers, error_status

__all__ = ["Endpoint", "with_error_responses"]

Endpoint = Callable[[Request], Awaitable[Response]]


def with_error_responses(endpoint: Endpoint) -> Endpoint:
    """Return an endpoint that answers errors instead of raising them."""

    async def respond(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NeuroBentoError as error:
            body = error_body(type(error).__name__, error.public_message, request.state.request_id)
            return JSONResponse(body, error_status(error), error_headers(error))

    return respond
