"""What Prometheus is told: little, and of what there is only."""

from __future__ import annotations

import asyncio
import functools
import inspect
from types import SimpleNamespace
from typing import Any

import prometheus_client
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from neurobento.serving.http.gate import is_known
from neurobento.serving.telemetry import metrics
from neurobento.serving.telemetry.metrics import count_known_paths_only, observe_stages, stage

LABELS = {"protocol", "model", "preprocessing", "outcome", "reason", "stage", "kind", "state"}
"""Each has few values; a request id or a path would have one for every request."""


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """BentoML's own counter of requests in front of an application that answers all."""
    from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware

    monkeypatch.setattr(
        RunnerTrafficMetricsMiddleware, "__call__", RunnerTrafficMetricsMiddleware.__call__
    )
    count_known_paths_only(is_known)
    registry = CollectorRegistry()
    kinds = ("Histogram", "Counter", "Gauge", "Summary")
    client = SimpleNamespace(
        **{
            kind: functools.partial(getattr(prometheus_client, kind), registry=registry)
            for kind in kinds
        }
    )

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    counter = RunnerTrafficMetricsMiddleware(app, namespace="test")
    counter._setup(metrics_client=client, duration_buckets=(1.0, float("inf")))
    return SimpleNamespace(app=counter, registry=registry)


def ask(app: Any, path: str) -> bytes:
    """What the application behind answers."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app({"type": "http", "path": path}, None, send))
    return bytes(sent[-1]["body"])


def endpoints(registry: CollectorRegistry) -> set[str]:
    """Every path that was counted."""
    samples = [sample for metric in registry.collect() for sample in metric.samples]
    return {sample.labels["endpoint"] for sample in samples if "endpoint" in sample.labels}


def test_paths_that_there_are_are_counted(counting: Any) -> None:
    for path in ("/predict/", "/v2/models/compact/infer"):
        assert ask(counting.app, path) == path.encode()
    assert {"/predict/", "/v2/models/compact/infer"} <= endpoints(counting.registry)


def test_paths_that_there_are_not_pass_uncounted(counting: Any) -> None:
    before = endpoints(counting.registry)
    for path in ("/wp-login.php", "/v2/models/a/b", "/predict"):
        assert ask(counting.app, path) == path.encode()
    assert endpoints(counting.registry) == before


def test_bentoml_still_counts_with_the_class_that_is_changed() -> None:
    """And what it counts by is still the path as it came."""
    from _bentoml_impl.server.app import ServiceAppFactory
    from bentoml._internal.server.http import instruments

    assert "RunnerTrafficMetricsMiddleware" in inspect.getsource(ServiceAppFactory)
    assert 'endpoint = scope["path"]' in inspect.getsource(instruments)


def seconds_count(name: str, model: str) -> float:
    labels = {"stage": name, "model": model}
    return REGISTRY.get_sample_value("neurobento_stage_seconds_count", labels) or 0.0


def test_a_stage_is_counted_when_it_is_over() -> None:
    before = seconds_count("encode", "compact")
    with stage("encode", "compact"):
        assert seconds_count("encode", "compact") == before
    assert seconds_count("encode", "compact") == before + 1


def test_a_stage_that_failed_is_not_a_time() -> None:
    before = seconds_count("encode", "compact")
    with pytest.raises(ZeroDivisionError), stage("encode", "compact"):
        raise ZeroDivisionError
    assert seconds_count("encode", "compact") == before


def test_each_stage_of_a_scan_is_counted_with_its_seconds() -> None:
    def total(name: str) -> float:
        labels = {"stage": name, "model": "m"}
        return REGISTRY.get_sample_value("neurobento_stage_seconds_sum", labels) or 0.0

    seconds = {"check": 0.25, "infer": 1.5}
    before = {name: total(name) for name in seconds}
    observe_stages("m", seconds)
    assert {name: total(name) - before[name] for name in seconds} == pytest.approx(seconds)


def test_no_label_can_tell_requests_apart() -> None:
    ours = [value for name, value in vars(metrics).items() if name.isupper() and name != "SECONDS"]
    assert len(ours) >= 6
    assert {label for metric in ours for label in metric._labelnames} <= LABELS
