"""What Prometheus is told; BentoML merges the processes and answers `/metrics`.

BentoML's own tell of batches (`bentoml_service_adaptive_batch_size`). Labels have few
values each: a stage, a model's name, a preprocessing, an outcome. Nothing of a scan or a request is
in them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "ANSWERED",
    "INSIDE",
    "JOBS",
    "REFUSED",
    "RESTARTS",
    "STAGE_SECONDS",
    "WAIT_SECONDS",
    "count_known_paths_only",
    "observe_stages",
    "stage",
]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)

INSIDE = Gauge(
    "neurobento_requests_inside",
    "Requests under way, waiting or worked on",
    multiprocess_mode="mostrecent",
)
ANSWERED = Histogram(
    "neurobento_request_seconds",
    "From the first byte of a request to the last of its answer",
    ["protocol", "model", "preprocessing", "outcome"],
    buckets=SECONDS,
)
REFUSED = Counter("neurobento_refused", "Requests refused before any work", ["reason"])
WAIT_SECONDS = Histogram(
    "neurobento_wait_seconds",
    "Waiting for a preprocessing process",
    ["preprocessing"],
    buckets=SECONDS,
)
STAGE_SECONDS = Histogram(
    "neurobento_stage_seconds", "One stage of a scan's way", ["stage", "model"], buckets=SECONDS
)
JOBS = Gauge(
    "neurobento_jobs",
    "Jobs in the database, waiting or running: every server that shares it tells the same number",
    ["state"],
    multiprocess_mode="mostrecent",
)
RESTARTS = Counter("neurobento_restarts", "Scan processes that were replaced, or ended", ["kind"])


def observe_stages(model: str, seconds: Mapping[str, float]) -> None:
    """Count the stages of one scan."""
    for stage, value in seconds.items():
        STAGE_SECONDS.labels(stage, model).observe(value)


@contextlib.contextmanager
def stage(name: str, model: str) -> Iterator[None]:
    """Count what happens in the context as one stage."""
    start = time.perf_counter()
    yield
    STAGE_SECONDS.labels(name, model).observe(time.perf_counter() - start)


def count_known_paths_only(known: Any) -> None:
    """Keep paths that there are not out of BentoML's metrics: each would be some twenty series.

    BentoML counts before any middleware of ours, and has no setting for it.

    Parameters
    ----------
    known
        Says of a path whether it is known.
    """
    from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware

    count = RunnerTrafficMetricsMiddleware.__call__

    async def count_if_known(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not known(scope["path"]):
            await self.app(scope, receive, send)
        else:
            await count(self, scope, receive, send)

    RunnerTrafficMetricsMiddleware.__call__ = count_if_known
