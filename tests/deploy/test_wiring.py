"""What deploy/ wires together, together: programs of Debian's packages in the containers' place.

`scripts/deploy-check` installs them and runs this. Grafana is in no package that can be had here:
in its place every query of its dashboard is asked at the address that its data source has.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from neurobento.sample import write_sample
from tests.deploy.manifests import (
    COMPOSE,
    PROMETHEUS,
    ROOT,
    RULES,
    SOURCE,
    adapter_rules,
    alerts,
    container,
    dashboard_queries,
    environment,
    named,
    read,
)
from tests.deploy.programs import Prometheus, program, put_here, until
from tests.service.conftest import Server, free_port, serving

missing = [name for name in ("prometheus", "redis-server") if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        os.environ.get("NEUROBENTO_TEST_DEPLOY") != "1",
        reason="runs programs for minutes: NEUROBENTO_TEST_DEPLOY=1, or scripts/deploy-check",
    ),
    pytest.mark.skipif(
        bool(missing), reason=f"not installed: {' '.join(missing)}; scripts/deploy-check does it"
    ),
]

TOKEN = "a-token-of-this-test-alone"

RATE_INTERVAL = "1m"
"""What Grafana puts for `$__rate_interval`: four times the data source's timeInterval, 15 s."""

NOT_THERE = {"NEUROBENTO_GRPC_PORT", "NEUROBENTO_GRPC_HOST"}
"""Settings that `serving` gives: a free port of 127.0.0.1."""


@dataclass(frozen=True)
class Stack:
    """The service and the Prometheus that watches it."""

    server: Server
    prometheus: Prometheus
    source: str
    scan: bytes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the smallest models that ship."""
    folder = tmp_path_factory.mktemp("models")
    for name in ("regions", "anomaly"):
        (folder / name).symlink_to(ROOT / "models" / name)
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("scan") / "sample.nii.gz"
    write_sample(file)
    return file.read_bytes()


@pytest.fixture(scope="module")
def stack(models: Path, scan: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """compose.yaml's service and Prometheus, with what its files say."""
    here = tmp_path_factory.mktemp("compose")
    token = here / "token"
    token.write_text(TOKEN + "\n")
    variables = read(COMPOSE)["services"]["neurobento"]["environment"]
    places = {"/var/lib/neurobento": str(here), "/run/secrets/neurobento_token": str(token)}
    text = put_here("\n".join(f"{k}={v}" for k, v in variables.items()), places)
    settings = dict(line.split("=", 1) for line in text.splitlines())
    # two places, so that a third request is refused
    with serving(models, here, SLOTS="2", **_ours(settings)) as server:
        server.client.headers["authorization"] = f"Bearer {TOKEN}"
        port = free_port()
        with program(_prometheus(here, server.url, token, port), here / "prometheus.log"):
            (source,) = read(SOURCE)["datasources"]
            address = put_here(source["url"], {"prometheus:9090": f"127.0.0.1:{port}"})
            prometheus = Prometheus(address)
            yield Stack(server, prometheus, address, scan)
            prometheus.close()


def _ours(variables: dict[str, str]) -> dict[str, str]:
    """NEUROBENTO_ variables, as `serving` takes them."""
    mine = {k: v for k, v in variables.items() if k.startswith("NEUROBENTO_")}
    return {k.removeprefix("NEUROBENTO_"): v for k, v in mine.items() if k not in NOT_THERE}


def _prometheus(here: Path, url: str, token: Path, port: int) -> list[str]:
    """The command, with the configuration in a folder beside the rules."""
    folder = here / "prometheus"
    folder.mkdir()
    shutil.copy(RULES, folder)
    places = {
        "neurobento:3000": url.removeprefix("http://"),
        "/run/secrets/neurobento_token": str(token),
    }
    (folder / PROMETHEUS.name).write_text(put_here(PROMETHEUS.read_text(), places))
    options = "\n".join(read(COMPOSE)["services"]["prometheus"]["command"])
    options = put_here(options, {"/etc/prometheus/": f"{folder}/", "=/prometheus": f"={here}/tsdb"})
    return ["prometheus", *options.splitlines(), f"--web.listen-address=127.0.0.1:{port}"]


def _slice() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))).save(buffer, "png")
    return buffer.getvalue()


def _use(server: Server, scan: bytes) -> list[int]:
    """A slice, a job, more scans at once than there are places, and one with no time."""
    fields = {"model": "regions", "preprocessing": "stripped"}
    files = {"file": ("scan", scan)}

    def parcellate(seconds: float) -> int:
        headers = {"x-request-timeout": str(seconds)}
        return int(
            server.client.post(
                "/v1/parcellation", files=files, data=fields, headers=headers, timeout=200
            ).status_code
        )

    statuses = [server.anomaly(_slice()).status_code]
    statuses.append(server.client.post("/v1/jobs", files=files, data=fields).status_code)
    with ThreadPoolExecutor(4) as clients:
        statuses += clients.map(parcellate, [180.0] * 4)
    return [*statuses, parcellate(0.5)]


@dataclass(frozen=True)
class Use:
    """What came of using the service: statuses, and queries of panels that showed a number."""

    statuses: set[int]
    shown: set[str]


@pytest.fixture(scope="module")
def used(stack: Stack) -> Use:
    """The service is used until every panel has shown something, or for seven minutes."""
    use = Use(set(), set())
    wanted = {query for _, query in dashboard_queries()}
    end = time.monotonic() + 420
    while use.shown != wanted and time.monotonic() < end:
        use.statuses.update(_use(stack.server, stack.scan))
        # Prometheus looks every 15 s
        for _ in range(6):
            use.shown.update(query for query in wanted if _shows(stack, query))
            time.sleep(3)
    return use


def _shows(stack: Stack, query: str) -> bool:
    found = stack.prometheus.ask(query.replace("$__rate_interval", RATE_INTERVAL))
    return any(each["value"][1] != "NaN" for each in found)


def test_prometheus_reaches_the_service_with_the_token_alone(stack: Stack) -> None:
    up = {"neurobento": "up", "neurobento-ready": "up"}
    assert until(lambda: stack.prometheus.health() == up, 60), stack.prometheus.health()
    assert httpx.get(f"{stack.server.url}/metrics").status_code == 401
    assert [value for _, value in _values(stack, "up")] == ["1", "1"]


def _values(stack: Stack, query: str) -> list[Any]:
    return [each["value"] for each in stack.prometheus.ask(query)]


def test_the_service_answered_and_refused(used: Use) -> None:
    assert {200, 202, 429} <= used.statuses
    assert not {500, 401} & used.statuses


@pytest.mark.parametrize(("panel", "query"), dashboard_queries())
def test_a_panel_has_something_to_show(used: Use, panel: str, query: str) -> None:
    assert query in used.shown, panel


def test_every_alert_is_evaluated_and_none_fires(stack: Stack, used: Use) -> None:
    assert used.shown

    def evaluated() -> Any:
        groups = stack.prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        return rules if all(rule["health"] == "ok" for rule in rules) else None

    rules = until(evaluated, 60)
    assert rules
    assert {rule["name"] for rule in rules} == {*alerts()}
    firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
    # requests at their deadline and beyond the places were made
    assert firing <= {"NeurobentoRefusing", "NeurobentoRestarting"}


@pytest.mark.parametrize("rule", adapter_rules(), ids=lambda rule: rule["seriesQuery"])
def test_the_autoscaler_would_be_given_a_number(
    stack: Stack, used: Use, rule: dict[str, Any]
) -> None:
    """The adapter's query, filled in as the adapter does; pods are instances here."""
    assert used.shown
    filled = {
        "<<.Series>>": rule["seriesQuery"].split("{")[0],
        "<<.LabelMatchers>>": 'job="neurobento"',
    }
    if "<<.GroupBy>>" in rule["metricsQuery"]:
        filled["<<.GroupBy>>"] = "instance"
    (found,) = _values(stack, put_here(rule["metricsQuery"], filled))
    assert float(found[1]) >= 0


def test_the_health_check_tells_a_ready_server_from_none(stack: Stack) -> None:
    words = read(COMPOSE)["services"]["neurobento"]["healthcheck"]["test"]
    assert words[:2] == ["CMD", "python"]
    for place, code in ((stack.server.url.removeprefix("http://"), 0), ("127.0.0.1:9", 1)):
        program_text = put_here(words[3], {"127.0.0.1:3000": place})
        done = subprocess.run(
            [sys.executable, words[2], program_text], check=False, timeout=30, capture_output=True
        )
        assert done.returncode == code, done.stderr


def test_a_job_in_redis_outlives_a_kill_of_redis(models: Path, scan: bytes, tmp_path: Path) -> None:
    """With the StatefulSet's options, and the Deployment's variables for one server."""
    port = free_port()
    options = put_here("\n".join(container(_redis())["args"]), {"/data": str(tmp_path)})
    command = [*options.split("\n"), "--port", str(port), "--bind", "127.0.0.1"]
    token = tmp_path / "token"
    token.write_text(TOKEN)
    variables = environment(named("base", "Deployment"))
    text = "\n".join(f"{key}={value}" for key, value in variables.items())
    places = {
        "neurobento-redis:6379": f"127.0.0.1:{port}",
        "/run/secrets/neurobento/token": str(token),
    }
    settings = dict(line.split("=", 1) for line in put_here(text, places).splitlines())
    log = tmp_path / "redis.log"
    with program(command, log) as redis:
        assert until(lambda: b"Ready to accept" in log.read_bytes(), 20)
        with serving(models, tmp_path, **_ours(settings)) as server:
            server.client.headers["authorization"] = f"Bearer {TOKEN}"
            files = {"file": ("scan", scan)}
            fields = {"model": "regions", "preprocessing": "stripped"}
            taken = server.client.post("/v1/jobs", files=files, data=fields)
            assert taken.status_code == 202
            redis.send_signal(signal.SIGKILL)
            redis.wait(10)
            place = taken.headers["location"]
            with program(command, log):
                state = until(lambda: _ended(server, place), 300)
                assert state == "done"
                assert server.client.get(f"{place}/result").status_code == 200


def _redis() -> Any:
    return named("base", "StatefulSet", "neurobento-redis")


def _ended(server: Server, place: str) -> str:
    """How a job ended; empty until then, and while Redis is not back."""
    answer = server.client.get(place)
    state = answer.json()["state"] if answer.status_code == 200 else ""
    return state if state in {"done", "failed"} else ""
