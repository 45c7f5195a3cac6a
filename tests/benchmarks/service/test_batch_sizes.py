"""Batch sizes are read from a histogram as BentoML writes it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from benchmarks.service.batch_sizes import BATCH_METRIC, batches_between, parse_batch_sizes

LABELS = ["runner_name", "worker_index", "method_name", "service_version", "service_name"]
EDGES = (1.0, 2.0, 4.0, 8.0)


class Metrics:
    """Metrics with the labels and edges of BentoML 1.4."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        values = {"registry": self.registry, "buckets": EDGES}
        self.histogram = Histogram(BATCH_METRIC, "Service adaptive batch size", LABELS, **values)

    def count(self, runner: str, *sizes: int, worker: str = "1") -> None:
        for size in sizes:
            self.histogram.labels(runner, worker, "segment", "1", "neurobento").observe(size)

    def text(self) -> str:
        return generate_latest(self.registry).decode()


def test_each_batch_is_counted_once() -> None:
    metrics = Metrics()
    metrics.count("runner-regions", 1, 1, 2, 3, 8, 9)
    assert parse_batch_sizes(metrics.text()) == {
        "runner-regions": {
            "up to 1": 2,
            "up to 2": 1,
            "up to 4": 1,
            "up to 8": 1,
            "above": 1,
            "batches": 6,
            "scans": 24,
        }
    }


def test_workers_of_a_runner_are_added_and_runners_are_not() -> None:
    metrics = Metrics()
    metrics.count("runner-regions", 2, worker="1")
    metrics.count("runner-regions", 2, worker="2")
    metrics.count("runner-unet", 1)
    found = parse_batch_sizes(metrics.text())
    assert found["runner-regions"]["up to 2"] == found["runner-regions"]["batches"] == 2
    assert found["runner-unet"]["scans"] == 1


def test_only_what_was_made_between_two_readings_counts() -> None:
    metrics = Metrics()
    metrics.count("runner-regions", 1, 1, 4)
    metrics.count("runner-unet", 1)
    before = parse_batch_sizes(metrics.text())
    metrics.count("runner-regions", 4, 8)
    made = batches_between(before, parse_batch_sizes(metrics.text()))
    assert set(made) == {"runner-regions"}
    counted = {name: count for name, count in made["runner-regions"].items() if count}
    assert counted == {"up to 4": 1, "up to 8": 1, "batches": 2, "scans": 12}


def test_other_metrics_are_ignored() -> None:
    assert parse_batch_sizes("# TYPE other counter\nother_total 3.0\n") == {}


def test_the_name_is_bentomls_own() -> None:
    """If this fails, BentoML has renamed its metric."""
    package = importlib.util.find_spec("_bentoml_impl")
    assert package is not None and package.origin is not None
    source = (Path(package.origin).parent / "server" / "app.py").read_text()
    namespace, name = BATCH_METRIC.split("_adaptive_")
    assert f'namespace="{namespace}"' in source
    assert f'name="adaptive_{name}"' in source
