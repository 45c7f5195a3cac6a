"""Errors as HTTP answers: one JSON shape for all, and nothing of the scan in it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from neurobento import errors as e

__all__ = ["error_body", "error_status"]

STATUS: dict[type[e.NeuroBentoError], HTTPStatus] = {
    e.OversizedScan: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    e.ScanError: HTTPStatus.UNPROCESSABLE_ENTITY,
    e.PreprocessingTimeout: HTTPStatus.GATEWAY_TIMEOUT,
    e.SkullStrippingUnavailable: HTTPStatus.NOT_IMPLEMENTED,
    e.PreprocessingError: HTTPStatus.UNPROCESSABLE_ENTITY,
    e.ModelNotFound: HTTPStatus.NOT_FOUND,
    e.ConfigError: HTTPStatus.BAD_REQUEST,
}
"""The first class that an error is an instance of decides; anything else is 500."""


def error_status(error: Exception) -> HTTPStatus:
    """The status an error is answered with."""
    for kind, status in STATUS.items():
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


def error_body(kind: str, message: str, request_id: str) -> dict[str, Any]:
    """The one shape of every error: `{"error": {"type", "message", "request_id"}}`."""
    return {"error": {"type": kind, "message": message, "request_id": request_id}}
