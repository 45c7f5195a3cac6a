"""The service's own log: one JSON object a line, and never a file name, header text or voxel.

A line has a time, a level and a message; lines of a request have its id, and the
last of them its model, level, status and how many milliseconds it took.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from typing import Any

from serving.calls import Call
from serving.metrics import ANSWERED
from serving.tracing import trace_id

__all__ = ["begin_logging", "log_request"]

FIELDS = (
    *("request_id", "protocol", "model", "level", "status", "error", "ms"),
    *("stage", "trace_id"),
)
"""What a line may say besides: nothing else that is put into a record is written."""

logger = logging.getLogger("neurobento.serving")


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        line: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds"),
            "severity": record.levelname,
            "message": record.getMessage(),
        }
        line |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        kind, _, where = record.exc_info or (None, None, None)
        if where is not None:
            # where, and of which kind: an exception's words may hold a path
            while where.tb_next is not None:
                where = where.tb_next
            line["exception"] = getattr(kind, "__name__", "")
            line["place"] = f"{where.tb_frame.f_code.co_name}, line {where.tb_lineno}"
        return json.dumps(line)


def begin_logging() -> None:
    """Send the lines of `neurobento.*` to stderr; BentoML sets up its own loggers only."""
    ours = logging.getLogger("neurobento")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines())
        ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False


def log_request(call: Call, status: int | str) -> None:
    """The end of a request, in the log and in the metrics.

    Parameters
    ----------
    call
        The request.
    status
        HTTP status, or the name of a gRPC code.
    """
    seconds = time.monotonic() - call.begun
    ANSWERED.labels(call.protocol, call.model, call.level, str(status)).observe(seconds)
    logger.info(
        "request %s ended",
        call.id,
        extra={
            "request_id": call.id,
            "protocol": call.protocol,
            "model": call.model,
            "level": call.level,
            "status": status,
            "trace_id": trace_id(),
            "ms": round(1000 * seconds),
        },
    )
