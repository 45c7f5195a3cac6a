"""What Prometheus is told: little, and of what there is only."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from neurobento.serving.telemetry import metrics
from neurobento.serving.telemetry.metrics import observe_stages, time_stage

LABELS = {"protocol", "model", "preprocessing", "outcome", "reason", "stage", "kind", "state"}
"""Each has few values; a request id or a path would have one for every request."""


def seconds_count(name: str, model: str) -> float:
    labels = {"stage": name, "model": model}
    return REGISTRY.get_sample_value("neurobento_stage_seconds_count", labels) or 0.0


def test_a_stage_is_counted_when_it_is_over_unless_it_failed() -> None:
    before = seconds_count("encode", "regions")
    with pytest.raises(ZeroDivisionError), time_stage("encode", "regions"):
        raise ZeroDivisionError
    with time_stage("encode", "regions"):
        assert seconds_count("encode", "regions") == before
    assert seconds_count("encode", "regions") == before + 1


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
