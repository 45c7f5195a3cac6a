"""OpenTelemetry traces: through the front, preprocessing and the runner, if a collector is named.

Spans carry the names of stages and models; nothing of the scan.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["root_span", "span", "stage_spans", "trace_id", "tracing_options"]

ENDPOINT_VARIABLE = "NEUROBENTO_OTLP_ENDPOINT"


def tracing_options() -> dict[str, Any]:
    """BentoML's `tracing` option of every service; empty where no collector is named."""
    endpoint = os.environ.get(ENDPOINT_VARIABLE)
    if not endpoint:
        return {}
    otlp = {"protocol": "http", "endpoint": f"{endpoint.rstrip('/')}/v1/traces"}
    return {"tracing": {"exporter_type": "otlp", "sample_rate": 1.0, "otlp": otlp}}


@functools.cache
def _tracer() -> Any:
    from bentoml._internal.configuration.containers import BentoMLContainer
    from opentelemetry import trace

    # BentoML's own provider, so that our spans lie within those of its requests
    return trace.get_tracer("neurobento", tracer_provider=BentoMLContainer.tracer_provider.get())


@contextlib.contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """What happens in the context, as one span."""
    with _tracer().start_as_current_span(name, attributes=attributes):
        yield


def stage_spans(seconds: Mapping[str, float]) -> None:
    """Stages that another process has just been through, one after the other, as spans."""
    start = time.time_ns() - round(1e9 * sum(seconds.values()))
    for stage, value in seconds.items():
        end = start + round(1e9 * value)
        _tracer().start_span(stage, start_time=start).end(end)
        start = end


@contextlib.contextmanager
def root_span(name: str, metadata: Mapping[str, str]) -> Iterator[None]:
    """The first span of a call that did not come through BentoML; the caller's trace goes on."""
    from opentelemetry import propagate

    context = propagate.extract(metadata)
    with _tracer().start_as_current_span(name, context=context):
        yield


def trace_id() -> str | None:
    """Of the trace that is going on, 32 hexadecimal digits."""
    from opentelemetry import trace

    found = trace.get_current_span().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else None
