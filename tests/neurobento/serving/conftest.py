"""Fixtures for all tests of the service."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def service_log() -> Iterator[list[logging.LogRecord]]:
    """Records that the service logs, from INFO on."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign, assignment]
    logger = logging.getLogger("neurobento.serving")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    logger.setLevel(level)
