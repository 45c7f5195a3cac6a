"""The service's log: one JSON object a line, never a file name, header text or voxel.

Lines of a request have its id, and the last one its model, preprocessing, status and milliseconds.
Lines of libraries name an exception's class and code line, not its text, which may quote a client.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from http import HTTPStatus
from typing import Any

from neurobento.serving.request import RequestContext
from neurobento.serving.telemetry.metrics import REQUEST_SECONDS
from neurobento.serving.telemetry.tracing import current_trace_id

__all__ = ["log_request", "set_up_logging"]

FIELDS = (
    "request_id",
    "protocol",
    "model",
    "preprocessing",
    "status",
    "error",
    "ms",
    "stage",
    "trace_id",
)
"""The only extra fields of a record that are written."""

logger = logging.getLogger("neurobento.serving")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if (raised := _class_and_line(record)) is not None:
            line["exception"], line["place"] = raised
        return json.dumps(line)


class _SafeRecord(logging.LogRecord):
    """A record of any logger; outside ours, an exception is reduced to its class and code line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.exc_info or self.name.partition(".")[0] == "neurobento":
            return
        message = str(self.msg)
        if isinstance(self.msg, BaseException):
            message = "an exception"
        elif not self.args:
            # asyncio repeats the exception below the first line
            message = message.strip().partition("\n")[0]
        raised = None if _is_refusal(self.exc_info[1]) else _class_and_line(self)
        self.msg = message if raised is None else f"{message} ({' in '.join(raised)})"
        self.exc_info = None


def _class_and_line(record: logging.LogRecord) -> tuple[str, str] | None:
    """Return an exception's class and code line; its text may hold a path or a name."""
    kind, _, where = record.exc_info or (None, None, None)
    if where is None:
        return None
    while where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_name}, line {where.tb_lineno}"
    return getattr(kind, "__name__", ""), place


def _is_refusal(error: BaseException | None) -> bool:
    """Return whether BentoML answers 4xx for an error, which our line of the request reports."""
    # by name, so that processes that only log need not import pydantic and BentoML
    refused = type(error).__name__ == "ValidationError"
    code = getattr(error, "error_code", HTTPStatus.BAD_REQUEST if refused else None)
    return isinstance(code, int) and code < HTTPStatus.INTERNAL_SERVER_ERROR


def set_up_logging() -> None:
    """Log `neurobento.*` to stderr as JSON, and keep what clients sent out of all other lines.

    BentoML sets up its own loggers before or after this, so the records are changed, not handlers.
    """
    logging.setLogRecordFactory(_SafeRecord)
    ours = logging.getLogger("neurobento")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_JsonFormatter())
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def log_request(request: RequestContext, status: int | str) -> None:
    """Record the end of a request, with its HTTP status or gRPC code, in log and metrics."""
    seconds = time.monotonic() - request.started
    REQUEST_SECONDS.labels(
        request.protocol, request.model, request.preprocessing, str(status)
    ).observe(seconds)
    logger.info(
        "request %s ended",
        request.id,
        extra={
            "request_id": request.id,
            "protocol": request.protocol,
            "model": request.model,
            "preprocessing": request.preprocessing,
            "status": status,
            "trace_id": current_trace_id(),
            "ms": round(1000 * seconds),
        },
    )
