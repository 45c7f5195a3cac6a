"""OpenTelemetry traces, with names of stages and models only, if a collector is set."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["current_trace_id", "record_stage_spans", "root_span", "span", "tracing_options"]


def tracing_options(endpoint: str) -> dict[str, Any]:
    """Return BentoML's `tracing` option for every service; empty without a collector."""
    if not endpoint:
        return {}
    otlp = {"protocol": "http", "endpoint": f"{endpoint.rstrip('/')}/v1/traces"}
    return {"tracing": {"exporter_type": "otlp", "sample_rate": 1.0, "otlp": otlp}}


@functools.cache
def _tracer() -> Any:
    from opentelemetry import trace

    from neurobento.serving.bentoml_patches import tracer_provider

    return trace.get_tracer("neurobento", tracer_provider=tracer_provider())


@contextlib.contextmanager
def span(name: str, **attributes: str) -> Iterator[None]:
    """Trace the context as one span."""
    with _tracer().start_as_current_span(name, attributes=attributes):
        yield


def record_stage_spans(seconds: Mapping[str, float]) -> None:
    """Record stages that another process has just been through, one after the other, as spans."""
    start = time.time_ns() - round(1e9 * sum(seconds.values()))
    for stage, value in seconds.items():
        end = start + round(1e9 * value)
        _tracer().start_span(stage, start_time=start).end(end)
        start = end


@contextlib.contextmanager
def root_span(name: str, metadata: Mapping[str, str]) -> Iterator[None]:
    """Trace a request that did not come through BentoML; it joins the caller's trace."""
    from opentelemetry import propagate

    context = propagate.extract(metadata)
    with _tracer().start_as_current_span(name, context=context):
        yield


def current_trace_id() -> str | None:
    """Return the current trace's id, 32 hexadecimal digits, or None outside of a trace."""
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
