"""The service's own log lines: a request id, a status, a kind; never a file name or header text."""

from __future__ import annotations

import logging

__all__ = ["begin_logging"]


def begin_logging() -> None:
    """Send the lines of `neurobento.*` to stderr; BentoML sets up its own loggers only."""
    logger = logging.getLogger("neurobento")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
