"""Prometheus metrics, of which none identifies a scan or a request; BentoML answers `/metrics`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "ACTIVE_REQUESTS",
    "JOBS",
    "REFUSED_REQUESTS",
    "REQUEST_SECONDS",
    "RESTARTS",
    "STAGE_SECONDS",
    "WAIT_SECONDS",
    "observe_stages",
    "time_stage",
]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)

ACTIVE_REQUESTS = Gauge(
    "neurobento_requests_inside",
    "Requests in progress, waiting or worked on",
    multiprocess_mode="mostrecent",
)
REQUEST_SECONDS = Histogram(
    "neurobento_request_seconds",
    "From the first byte of a request to the last of its answer",
    ["protocol", "model", "preprocessing", "outcome"],
    buckets=SECONDS,
)
REFUSED_REQUESTS = Counter("neurobento_refused", "Requests refused before any work", ["reason"])
WAIT_SECONDS = Histogram(
    "neurobento_wait_seconds",
    "Waiting for a preprocessing process",
    ["preprocessing"],
    buckets=SECONDS,
)
STAGE_SECONDS = Histogram(
    "neurobento_stage_seconds",
    "One stage of the work on a scan",
    ["stage", "model"],
    buckets=SECONDS,
)
JOBS = Gauge(
    "neurobento_jobs",
    "Jobs in the database, waiting or running; servers that share it report the same number",
    ["state"],
    multiprocess_mode="mostrecent",
)
RESTARTS = Counter("neurobento_restarts", "Scan processes that were replaced, or ended", ["kind"])


def observe_stages(model: str, seconds: Mapping[str, float]) -> None:
    """Record the seconds of each stage of one scan."""
    for stage, value in seconds.items():
        STAGE_SECONDS.labels(stage, model).observe(value)


@contextlib.contextmanager
def time_stage(name: str, model: str) -> Iterator[None]:
    """Record the seconds that the context takes as one stage, unless it raises."""
    start = time.perf_counter()
    yield
    STAGE_SECONDS.labels(name, model).observe(time.perf_counter() - start)
