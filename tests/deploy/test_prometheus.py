"""Prometheus, its alerts and the dashboard ask for what the service tells."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from neurobento.serving.http.paths import is_known_path
from tests.deploy.manifests import (
    CLUSTER_PROMETHEUS,
    COMPOSE,
    DASHBOARD,
    PROMETHEUS,
    PROVIDER,
    RULES,
    SOURCE,
    adapter_rules,
    alerts,
    asked,
    dashboard_queries,
    read,
    told,
)

PROMETHEUS_OWN = {"le", "job", "instance", "namespace", "pod"}
"""Labels that are not the service's to give."""

QUERIES = [
    *dashboard_queries(),
    *alerts().items(),
    *((rule["seriesQuery"], rule["seriesQuery"]) for rule in adapter_rules()),
]

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool: Debian's package prometheus has it"
)


def promtool(*words: Any) -> subprocess.CompletedProcess[str]:
    command = ["promtool", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(("name", "query"), QUERIES, ids=[name for name, _ in QUERIES])
def test_a_query_asks_for_what_is_told(name: str, query: str) -> None:
    known = told()
    series = list(asked(query))
    assert series or "up{" in query
    for metric, labels in series:
        assert metric in known, name
        assert labels <= known[metric] | PROMETHEUS_OWN, name


def test_a_metric_that_there_is_not_would_be_found() -> None:
    assert dict(asked('rate(neurobento_scans_total{kind="a"}[1m])')) == {
        "neurobento_scans_total": {"kind"}
    }
    assert "neurobento_scans_total" not in told()
    assert told()["neurobento_jobs"] == {"state"}


def test_panels_are_told_apart_and_waiting_has_its_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len({*ids})
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(places) == len({*places})
    assert any('stage="queue"' in query for _, query in dashboard_queries())


@pytest.mark.parametrize("file", [PROMETHEUS, CLUSTER_PROMETHEUS], ids=["machine", "cluster"])
def test_metrics_are_asked_with_the_token_and_readiness_without(file: Path) -> None:
    jobs = {job["job_name"]: job for job in read(file)["scrape_configs"]}
    assert {*jobs} == {"neurobento", "neurobento-ready"}
    assert "credentials_file" in jobs["neurobento"]["authorization"]
    assert jobs["neurobento-ready"]["metrics_path"] == "/readyz"
    assert is_known_path("/metrics")
    assert is_known_path("/readyz")


def test_the_service_is_scraped_where_it_listens() -> None:
    services = read(COMPOSE)["services"]
    command = services["neurobento"]["command"]
    port = command[command.index("--port") + 1]
    for job in read(PROMETHEUS)["scrape_configs"]:
        assert job["static_configs"] == [{"targets": [f"neurobento:{port}"]}]


def test_grafana_asks_our_prometheus_and_finds_the_dashboard_where_it_is_mounted() -> None:
    (source,) = read(SOURCE)["datasources"]
    host, port = source["url"].removeprefix("http://").split(":")
    (published,) = read(COMPOSE)["services"][host]["ports"]
    assert published.endswith(f":{port}")
    interval = read(PROMETHEUS)["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = read(PROVIDER)["providers"]
    grafana = read(COMPOSE)["services"]["grafana"]
    mounts = dict(volume.split(":")[:2] for volume in grafana["volumes"])
    mounted = mounts["./grafana/dashboard.json"]
    assert str(Path(mounted).parent) == provider["options"]["path"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounted
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"


@needs_promtool
def test_promtool_takes_the_alerts() -> None:
    done = promtool("check", "rules", "--lint-fatal", RULES)
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


@needs_promtool
def test_alerts_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    tests = shutil.copy(Path(__file__).with_name("rules_test.yml"), tmp_path)
    done = promtool("test", "rules", tests)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [case for group in read(Path(tests))["tests"] for case in group["alert_rule_test"]]
    for alert in alerts():
        found = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert}
        assert found == {True, False}, f"{alert} is to be seen firing and not firing"


@needs_promtool
@pytest.mark.parametrize("file", [PROMETHEUS, CLUSTER_PROMETHEUS], ids=["machine", "cluster"])
def test_promtool_takes_the_configuration(file: Path, tmp_path: Path) -> None:
    """But for how pods are found: Debian's Prometheus is built without Kubernetes."""
    config = read(file)
    for job in config["scrape_configs"]:
        if pods := job.pop("kubernetes_sd_configs", None):
            assert pods == [{"role": "pod", "namespaces": {"names": ["neurobento"]}}]
    assert [(file.parent / rules).resolve() for rules in config["rule_files"]] == [RULES]
    config["rule_files"] = [str(RULES)]
    copy = tmp_path / "prometheus.yml"
    copy.write_text(yaml.safe_dump(config))
    done = promtool("check", "config", "--syntax-only", copy)
    assert done.returncode == 0, done.stderr
    copy.write_text(copy.read_text().replace("metrics_path", "metric_path"))
    assert promtool("check", "config", "--syntax-only", copy).returncode != 0
