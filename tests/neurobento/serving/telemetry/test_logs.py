"""The log: JSON lines with a few listed fields, and nothing of a scan."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pydantic
import pytest
from bentoml._internal.server.http_app import log_exception
from bentoml.exceptions import BentoMLException
from prometheus_client import REGISTRY
from starlette.requests import Request

from neurobento.serving.request import RequestContext
from neurobento.serving.telemetry.logs import FIELDS, log_request, set_up_logging

logger = logging.getLogger("neurobento.serving")

SECRET = "/home/somebody/JANE_DOE.nii.gz"

Lines = Callable[[], list[dict[str, Any]]]


@contextlib.contextmanager
def service_log() -> Iterator[Lines]:
    """Reads what a service that has just begun writes; afterwards all is as it was."""
    ours, written = logging.getLogger("neurobento"), io.StringIO()
    factory = logging.getLogRecordFactory()
    handlers, level, propagate = ours.handlers, ours.level, ours.propagate
    try:
        ours.handlers = []
        with contextlib.redirect_stderr(written):
            set_up_logging()
        yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    finally:
        ours.handlers, ours.propagate = handlers, propagate
        ours.setLevel(level)
        logging.setLogRecordFactory(factory)


@contextlib.contextmanager
def lines_of(name: str) -> Iterator[Callable[[], str]]:
    """Reads what another logger writes in a service that has begun."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    other = logging.getLogger(name)
    other.addHandler(handler)
    try:
        with service_log():
            yield written.getvalue
    finally:
        other.removeHandler(handler)


def test_a_line_has_a_time_a_severity_a_message_and_listed_fields_alone() -> None:
    with service_log() as lines:
        logger.warning("restarted %d of %d", 1, 2)
        listed = dict.fromkeys(FIELDS, "here")
        logger.info("x", extra={**listed, "path": SECRET, "patient": SECRET})
    plain, line = lines()
    assert (plain["severity"], plain["message"]) == ("WARNING", "restarted 1 of 2")
    assert plain["time"].endswith("+00:00")
    assert plain.keys() == {"time", "severity", "message"}
    assert {name for name, value in line.items() if value == "here"} == set(FIELDS)
    assert SECRET not in json.dumps(line)


def test_one_line_is_written_for_each_message_of_ours_but_details_for_developers() -> None:
    with service_log() as lines:
        logger.info("first\nsecond")
        logger.error("nothing was raised", exc_info=True)
        logger.debug("detail")
        logging.getLogger("somebody.else").error("not ours")
    assert [line["message"] for line in lines()] == ["first\nsecond", "nothing was raised"]


def test_an_exception_is_a_kind_and_a_place_without_its_words_or_its_causes() -> None:
    def failing() -> None:
        raise FileNotFoundError(SECRET) from ValueError(SECRET)

    with service_log() as lines:
        try:
            failing()
        except FileNotFoundError:
            logger.exception("request r-1 failed")
    (line,) = lines()
    assert line["exception"] == "FileNotFoundError"
    assert line["place"].startswith("failing, line ")
    assert "JANE_DOE" not in json.dumps(line)


def test_a_line_is_written_once() -> None:
    """Neither by a second handler of ours, nor by those of the root, which are BentoML's."""
    root, written = logging.getLogger(), io.StringIO()
    bentomls = logging.StreamHandler(written)
    root.addHandler(bentomls)
    try:
        with service_log() as lines:
            set_up_logging()
            logger.info("once")
    finally:
        root.removeHandler(bentomls)
    assert len(lines()) == 1
    assert written.getvalue() == ""


class Form(pydantic.BaseModel):
    file: int


def no_file() -> None:
    Form.model_validate({"name": SECRET})


def bad_request() -> None:
    raise BentoMLException(SECRET, error_code=HTTPStatus.BAD_REQUEST)


def no_room() -> None:
    raise BentoMLException(SECRET, error_code=HTTPStatus.SERVICE_UNAVAILABLE)


def broken() -> None:
    try:
        bad_request()
    except BentoMLException as error:
        raise RuntimeError(SECRET) from error


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (no_file, ""),
        (bad_request, ""),
        (no_room, " (BentoMLException in no_room, line N)"),
        (broken, " (RuntimeError in broken, line N)"),
    ],
)
def test_bentoml_tells_no_words_of_an_exception_and_nothing_of_a_refusal(
    fail: Callable[[], None], told: str
) -> None:
    """It logs every answer of 4xx as an error, and pydantic repeats what was sent."""
    request = Request({"type": "http", "method": "POST", "path": "/predict/", "headers": []})
    with lines_of("bentoml") as text:
        try:
            fail()
        except Exception:
            log_exception(request)
    assert re.sub(r"line \d+", "line N", text()) == f"Exception on /predict/ [POST]{told}\n"


def test_an_exception_logged_as_a_message_tells_none_of_its_words() -> None:
    with lines_of("somebody.else") as text:
        try:
            broken()
        except RuntimeError as error:
            logging.getLogger("somebody.else").exception(error)
    assert text().startswith("an exception (RuntimeError in broken, line ")
    assert "JANE_DOE" not in text()


def test_asyncio_tells_none_of_the_words_of_what_nobody_waited_for() -> None:
    async def nobody_waits() -> None:
        async def fail() -> None:
            broken()

        failing = asyncio.ensure_future(fail())
        await asyncio.sleep(0)
        del failing
        gc.collect()

    with lines_of("asyncio") as text:
        asyncio.run(nobody_waits())
    assert text().startswith("Task exception was never retrieved (RuntimeError in broken, line ")
    assert "JANE_DOE" not in text()


def test_loggers_that_bentoml_sets_up_later_are_held_to_it_too() -> None:
    written = io.StringIO()
    with service_log():
        late = logging.getLogger("set.up.later")
        late.addHandler(logging.StreamHandler(written))
        try:
            broken()
        except RuntimeError:
            late.exception("%d failed", 1)
    assert written.getvalue().startswith("1 failed (RuntimeError in broken, line ")
    assert "JANE_DOE" not in written.getvalue()


@pytest.mark.parametrize(("protocol", "status"), [("http", 422), ("grpc", "INVALID_ARGUMENT")])
def test_the_end_of_a_request_is_told_and_counted(protocol: Any, status: int | str) -> None:
    request = RequestContext("r-1", protocol, 30.0)
    request.model, request.preprocessing = "regions", "full"
    request.started -= 2.0
    labels = {
        "protocol": protocol,
        "model": "regions",
        "preprocessing": "full",
        "outcome": str(status),
    }

    def counted() -> float:
        return REGISTRY.get_sample_value("neurobento_request_seconds_count", labels) or 0.0

    before = counted()
    with service_log() as lines:
        log_request(request, status)
    (line,) = lines()
    assert (line["request_id"], line["protocol"], line["status"]) == ("r-1", protocol, status)
    assert (line["model"], line["preprocessing"]) == ("regions", "full")
    assert 2000 <= line["ms"] < 12000
    assert "r-1" in line["message"]
    assert counted() == before + 1
