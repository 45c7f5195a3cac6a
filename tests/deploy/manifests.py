"""What lies in deploy/, read."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.metrics import MetricWrapperBase

from neurobento.serving.telemetry import metrics

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
COMPOSE_GPU = DEPLOY / "compose.gpu.yaml"
DASHBOARD = DEPLOY / "grafana/dashboard.json"
PROMETHEUS = DEPLOY / "prometheus/prometheus.yml"
RULES = DEPLOY / "prometheus/rules.yml"
SOURCE = DEPLOY / "grafana/provisioning/datasources/prometheus.yml"
PROVIDER = DEPLOY / "grafana/provisioning/dashboards/neurobento.yml"
KUBERNETES = DEPLOY / "kubernetes"
ADAPTER = KUBERNETES / "monitoring/adapter.yaml"
CLUSTER_PROMETHEUS = KUBERNETES / "monitoring/prometheus.yaml"
LAYERS = ("base", "overlays/gpu")

Manifest = dict[str, Any]


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


@functools.cache
def _built(layer: str) -> list[Manifest]:
    command = [Path(sys.executable).with_name("kubectl"), "kustomize", KUBERNETES / layer]
    told = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    return list(yaml.safe_load_all(told))


def kubernetes(layer: str) -> list[Manifest]:
    """All that `kubectl apply -k` would apply of a layer; not to be changed."""
    return _built(layer)


def named(layer: str, kind: str, name: str = "neurobento") -> Manifest:
    (found,) = [
        each
        for each in kubernetes(layer)
        if (each["kind"], each["metadata"]["name"]) == (kind, name)
    ]
    return found


def container(workload: Manifest) -> Manifest:
    """The one container of a Deployment or StatefulSet."""
    (found,) = workload["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def environment(workload: Manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in container(workload).get("env", [])}


def dashboard_queries() -> list[tuple[str, str]]:
    """Title of the panel and query, of all panels of the dashboard."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]


def alerts() -> dict[str, str]:
    """Name of an alert -> its query."""
    groups = read(RULES)["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def adapter_rules() -> list[Manifest]:
    rules = read(ADAPTER)["rules"]
    return [*rules["external"], *rules["custom"]]


READS = re.compile(r'\b_(?:text|number|whole|folder)\("(\w+)"|"NEUROBENTO_(\w+)"')
"""How the code reads a variable: through neurobento/serving/settings.py, or by its whole name."""


@functools.cache
def settings() -> frozenset[str]:
    sources = [ROOT / "service.py", ROOT / "neurobento/environment.py"]
    sources += (ROOT / "neurobento/serving").rglob("*.py")
    found = {name for file in sources for pair in READS.findall(file.read_text()) for name in pair}
    return frozenset({"BENTOML_HOME", *(f"NEUROBENTO_{name}" for name in found if name)})


SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}


def told() -> dict[str, set[str]]:
    """Series that the service tells Prometheus of -> their labels."""
    ours = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    series = {
        metric._name + suffix: {*metric._labelnames}
        for metric in ours
        for suffix in SUFFIXES[metric._type]
    }
    batch = "bentoml_service_adaptive_batch_size"
    series |= {f"{batch}{suffix}": {"runner_name"} for suffix in SUFFIXES["histogram"]}
    return series


SERIES = re.compile(r"\b((?:neurobento|bentoml)_\w+)(?:\{([^}]*)\})?")


def asked(query: str) -> Iterator[tuple[str, set[str]]]:
    """Series of ours in a query, each with the labels that it is chosen by."""
    for name, matchers in SERIES.findall(query):
        yield name, set(re.findall(r"(\w+)\s*[=!]", matchers))
