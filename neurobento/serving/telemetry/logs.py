"""The service's own log: one JSON object a line, and never a file name, header text or voxel.

A line has a time, a level and a message; lines of a request have its id, and the
last of them its model, preprocessing, status and how many milliseconds it took.
Others in the process, BentoML above all, write their own lines: of what was raised,
these have the kind and the place, and not its words, which may be a client's.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from http import HTTPStatus
from typing import Any

from neurobento.serving.admission import Call
from neurobento.serving.telemetry.metrics import ANSWERED
from neurobento.serving.telemetry.tracing import trace_id

__all__ = ["begin_logging", "log_request"]

FIELDS = (
    *("request_id", "protocol", "model", "preprocessing", "status", "error", "ms"),
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
        if (raised := _kind_and_place(record)) is not None:
            line["exception"], line["place"] = raised
        return json.dumps(line)


class _Record(logging.LogRecord):
    """A line of any logger; unless it is ours, no exception goes with it, but kind and place."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.exc_info or self.name.partition(".")[0] == "neurobento":
            return
        message = str(self.msg)
        if isinstance(self.msg, BaseException):
            message = "an exception"
        elif not self.args:
            # asyncio repeats the exception below its first line
            message = message.strip().partition("\n")[0]
        raised = None if _is_refusal(self.exc_info[1]) else _kind_and_place(self)
        self.msg = message if raised is None else f"{message} ({' in '.join(raised)})"
        self.exc_info = None


def _kind_and_place(record: logging.LogRecord) -> tuple[str, str] | None:
    """Of which kind an exception was, and where: its words may hold a path or a name."""
    kind, _, where = record.exc_info or (None, None, None)
    if where is None:
        return None
    while where.tb_next is not None:
        where = where.tb_next
    place = f"{where.tb_frame.f_code.co_name}, line {where.tb_lineno}"
    return getattr(kind, "__name__", ""), place


def _is_refusal(error: BaseException | None) -> bool:
    """Whether BentoML answers 4xx for it: our line of the request tells what there is to know."""
    # by name: pydantic and BentoML are not for every process that logs
    refused = type(error).__name__ == "ValidationError"
    code = getattr(error, "error_code", HTTPStatus.BAD_REQUEST if refused else None)
    return isinstance(code, int) and code < HTTPStatus.INTERNAL_SERVER_ERROR


def begin_logging() -> None:
    """Send the lines of `neurobento.*` to stderr, and keep what clients sent out of all others.

    BentoML sets up its own loggers only, before or after this: what they are given
    is changed, whichever handler it goes to.
    """
    logging.setLogRecordFactory(_Record)
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
    ANSWERED.labels(call.protocol, call.model, call.preprocessing, str(status)).observe(seconds)
    logger.info(
        "request %s ended",
        call.id,
        extra={
            "request_id": call.id,
            "protocol": call.protocol,
            "model": call.model,
            "preprocessing": call.preprocessing,
            "status": status,
            "trace_id": trace_id(),
            "ms": round(1000 * seconds),
        },
    )
