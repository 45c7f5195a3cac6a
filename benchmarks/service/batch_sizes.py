"""Read from /metrics how large the batches were that a service made of its requests."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["BATCH_METRIC", "Histograms", "batches_between", "parse_batch_sizes"]

BATCH_METRIC = "bentoml_service_adaptive_batch_size"
"""BentoML 1.4's histogram of dispatched batches (_bentoml_impl/server/app.py)."""

Histograms = dict[str, dict[str, float]]
"""Runner -> batches "up to 1", "up to 2", ... "above", their number and the scans in them."""


def parse_batch_sizes(metrics: str) -> Histograms:
    """Return each runner's batches since it started, from /metrics in Prometheus's format."""
    from prometheus_client.parser import text_string_to_metric_families

    cumulative: dict[str, dict[float, float]] = {}
    histograms: Histograms = {}
    for family in text_string_to_metric_families(metrics):
        if family.name != BATCH_METRIC:
            continue
        # The workers of one runner are added up.
        for sample in family.samples:
            runner = sample.labels.get("runner_name", "")
            counts = histograms.setdefault(runner, {"batches": 0.0, "scans": 0.0})
            if sample.name.endswith("_bucket"):
                buckets = cumulative.setdefault(runner, {})
                edge = float(sample.labels["le"])
                buckets[edge] = buckets.get(edge, 0.0) + sample.value
            elif sample.name.endswith("_count"):
                counts["batches"] += sample.value
            elif sample.name.endswith("_sum"):
                counts["scans"] += sample.value
    for runner, buckets in cumulative.items():
        histograms[runner] = {**_bin_counts(buckets), **histograms[runner]}
    return histograms


def batches_between(before: Mapping[str, Mapping[str, float]], after: Histograms) -> Histograms:
    """Return the batches made between two readings, without runners that made none."""
    made = {
        runner: {key: value - before.get(runner, {}).get(key, 0.0) for key, value in counts.items()}
        for runner, counts in after.items()
    }
    return {runner: counts for runner, counts in made.items() if counts["batches"]}


def _bin_counts(cumulative: Mapping[float, float]) -> dict[str, float]:
    # Prometheus counts everything up to an edge; here each batch is counted once.
    bins, below = {}, 0.0
    for edge in sorted(cumulative):
        name = "above" if edge == float("inf") else f"up to {edge:g}"
        bins[name] = cumulative[edge] - below
        below = cumulative[edge]
    return bins
