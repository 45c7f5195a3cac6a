"""A cluster: what `kubectl apply -k` would apply is valid, and hangs together."""

from __future__ import annotations

import copy
import re
from typing import Any

import kubernetes_validate
import pytest

from neurobento.serving.http.paths import PROBES
from neurobento.serving.settings import read_token
from neurobento.serving.token import Token
from tests.deploy.manifests import (
    ADAPTER,
    LAYERS,
    RULES,
    Manifest,
    adapter_rules,
    container,
    environment,
    kubernetes,
    named,
    read,
    settings,
)
from tests.deploy.test_compose import NOT_OURS, PINNED

VERSIONS = ("1.29", "1.37")
"""Of Kubernetes, the oldest and the newest that the manifests are held against."""

WORKLOADS = [("Deployment", "neurobento"), ("StatefulSet", "neurobento-redis")]
workloads = pytest.mark.parametrize(("kind", "name"), WORKLOADS)


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def deployment(layer: str) -> Manifest:
    return named(layer, "Deployment")


def validate(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def labels(workload: Manifest) -> dict[str, str]:
    found = workload["spec"]["template"]["metadata"]["labels"]
    assert isinstance(found, dict)
    return found


def selects(selector: dict[str, str], workload: Manifest) -> bool:
    return selector.items() <= labels(workload).items()


@pytest.mark.parametrize("version", VERSIONS)
def test_all_of_a_layer_is_valid(layer: str, version: str) -> None:
    found = kubernetes(layer)
    assert {each["kind"] for each in found} == {
        *("Namespace", "Deployment", "StatefulSet", "Service", "HorizontalPodAutoscaler"),
        *("PodDisruptionBudget", "NetworkPolicy"),
    }
    for each in found:
        validate(each, version)
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "neurobento"


WRONG: list[tuple[str, list[str | int], Any]] = [
    ("Deployment", ["spec", "replica"], 2),
    ("Deployment", ["spec", "template", "spec", "terminationGracePeriodSeconds"], "long"),
    ("Deployment", ["spec", "template", "spec", "containers", 0, "readynessProbe"], {}),
    ("Deployment", ["spec", "template", "spec", "containers", 0, "env", 0, "value"], 300),
    ("HorizontalPodAutoscaler", ["spec", "maxReplicas"], "eight"),
    ("HorizontalPodAutoscaler", ["spec", "metrics", 0, "external", "name"], "jobs"),
    ("PodDisruptionBudget", ["spec", "maxUnavailabe"], 1),
    ("NetworkPolicy", ["spec", "ingress", 0, "port"], 3000),
    ("Service", ["spec", "ports", 0, "port"], "3000"),
]


@pytest.mark.parametrize(("kind", "path", "value"), WRONG, ids=lambda part: str(part))
def test_unknown_fields_and_wrong_types_are_found(
    kind: str, path: list[str | int], value: Any
) -> None:
    broken: Any = copy.deepcopy(named("base", kind))
    validate(broken, VERSIONS[0])
    place = broken
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(broken, VERSIONS[0])


@workloads
def test_selectors_find_their_pods_alone_and_a_service_leads_to_ports_that_there_are(
    layer: str, kind: str, name: str
) -> None:
    workload = named(layer, kind, name)
    others = [named(layer, *other) for other in WORKLOADS if other != (kind, name)]
    selectors = [
        workload["spec"]["selector"]["matchLabels"],
        named(layer, "Service", name)["spec"]["selector"],
        named(layer, "NetworkPolicy", name)["spec"]["podSelector"]["matchLabels"],
    ]
    if kind == "Deployment":
        budget = named(layer, "PodDisruptionBudget")
        (spread,) = workload["spec"]["template"]["spec"]["topologySpreadConstraints"]
        selectors += [
            each["matchLabels"] for each in (budget["spec"]["selector"], spread["labelSelector"])
        ]
    for selector in selectors:
        assert selects(selector, workload)
        assert not any(selects(selector, other) for other in others)
    ports = {port["name"] for port in container(named(layer, kind, name))["ports"]}
    led = {port["targetPort"] for port in named(layer, "Service", name)["spec"]["ports"]}
    assert led == ports
    policy = named(layer, "NetworkPolicy", name)["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == ports


def test_the_service_listens_where_its_ports_are_and_probes_ask_what_is_open_to_all(
    layer: str,
    deployment: Manifest,
) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(deployment)["ports"]}
    args, variables = container(deployment)["args"], environment(deployment)
    assert args[args.index("--port") + 1] == str(ports["http"])
    assert args[args.index("--host") + 1] == "0.0.0.0"
    assert variables["NEUROBENTO_GRPC_PORT"] == str(ports["grpc"])
    assert variables["NEUROBENTO_GRPC_HOST"] == "0.0.0.0"
    server = container(named(layer, "Deployment"))
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["path"] in PROBES
        assert server[probe]["httpGet"]["port"] == "http"
    # what asks every part would end a server whose one part starts again
    assert server["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert server["readinessProbe"]["timeoutSeconds"] > 5


def test_the_drain_ends_in_time_and_every_variable_is_read_and_within_the_limits(
    deployment: Manifest,
) -> None:
    wait_s = int(container(deployment)["lifecycle"]["preStop"]["exec"]["command"][1])
    drain_s = float(environment(deployment)["NEUROBENTO_DRAIN_S"])
    grace_s = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace_s >= wait_s + drain_s + 15
    variables = environment(deployment)
    threads = int(variables["NEUROBENTO_THREADS"])
    processes = int(variables["NEUROBENTO_PREPROCESSING_PROCESSES"])
    assert threads * processes == int(container(deployment)["resources"]["limits"]["cpu"])
    assert {*variables} - NOT_OURS <= settings()


@workloads
def test_pods_hold_to_the_namespace_s_level(layer: str, kind: str, name: str) -> None:
    """Kubernetes' level `restricted`, and a read-only root beside."""
    space = named(layer, "Namespace")
    assert space["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    workload = named(layer, kind, name)
    pod, one = workload["spec"]["template"]["spec"], container(workload)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert one["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert not any("hostPath" in volume for volume in pod.get("volumes", []))


def test_what_is_written_goes_to_memory_that_the_limit_covers(deployment: Manifest) -> None:
    pod, server = deployment["spec"]["template"]["spec"], container(deployment)
    mounts = {mount["name"]: mount["mountPath"] for mount in server["volumeMounts"]}
    assert {*mounts} == {volume["name"] for volume in pod["volumes"]}
    assert not any(path.startswith("/home/bentoml") for path in mounts.values())
    assert mounts["bentoml"] == environment(deployment)["BENTOML_HOME"]
    assert mounts["temporary"] == environment(deployment)["HOME"] == "/tmp"
    memory = [volume["emptyDir"] for volume in pod["volumes"] if "emptyDir" in volume]
    assert {each["medium"] for each in memory} == {"Memory"}
    sizes = {
        volume["name"]: volume.get("emptyDir", {}).get("sizeLimit") for volume in pod["volumes"]
    }
    limit = server["resources"]["limits"]["memory"]
    assert int(sizes["temporary"].removesuffix("Gi")) <= int(limit.removesuffix("Gi")) / 2


def test_the_token_is_where_the_service_looks(
    deployment: Manifest, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (mount,) = [m for m in container(deployment)["volumeMounts"] if m["name"] == "token"]
    file = environment(deployment)["NEUROBENTO_TOKEN_FILE"]
    assert file == f"{mount['mountPath']}/token"
    # and without it the start is an error
    monkeypatch.setenv("NEUROBENTO_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(Exception, match="cannot be read"):
        Token(read_token())


def test_the_queue_is_redis_of_this_namespace_which_keeps_what_it_was_given(layer: str) -> None:
    service = named(layer, "Service", "neurobento-redis")
    (port,) = service["spec"]["ports"]
    url = environment(named(layer, "Deployment"))["NEUROBENTO_JOBS"]
    assert url == f"redis://{service['metadata']['name']}:{port['port']}/0"
    workload = named(layer, "StatefulSet", "neurobento-redis")
    assert workload["spec"]["serviceName"] == service["metadata"]["name"]
    # the policy lets the servers in, and nobody else
    (rule,) = named(layer, "NetworkPolicy", "neurobento-redis")["spec"]["ingress"]
    (source,) = rule["from"]
    assert selects(source["podSelector"]["matchLabels"], named(layer, "Deployment"))
    egress = named(layer, "NetworkPolicy")["spec"]["egress"][0]
    assert selects(egress["to"][0]["podSelector"]["matchLabels"], workload)
    assert egress["ports"] == [{"port": port["port"]}]
    args = container(workload)["args"]
    options = dict(zip(args[1::2], args[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--maxmemory-policy"] == "noeviction"
    (mount,) = container(workload)["volumeMounts"]
    (claim,) = workload["spec"]["volumeClaimTemplates"]
    assert (options["--dir"], mount["name"]) == (mount["mountPath"], claim["metadata"]["name"])
    room = int(container(workload)["resources"]["limits"]["memory"].removesuffix("Gi"))
    most = int(options["--maxmemory"].removesuffix("gb"))
    assert most <= room / 2
    # the scans that may wait are large ones, and leave room for results
    waiting = int(environment(named(layer, "Deployment"))["NEUROBENTO_JOBS_MOST"])
    assert waiting * 20 / 1024 <= 0.75 * most
    assert PINNED.fullmatch(container(workload)["image"])


def test_the_autoscaler_goes_by_what_the_adapter_gives(layer: str) -> None:
    scaler, deployment = named(layer, "HorizontalPodAutoscaler"), named(layer, "Deployment")
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert target["apiVersion"] == deployment["apiVersion"]
    # else every `kubectl apply` would undo what the autoscaler did
    assert "replicas" not in deployment["spec"]
    assert scaler["spec"]["minReplicas"] >= 2
    wanted = {
        metric["type"]: metric[metric["type"].lower()]["metric"]["name"]
        for metric in scaler["spec"]["metrics"]
    }
    rules = read(ADAPTER)["rules"]
    (jobs,), (inside,) = rules["external"], rules["custom"]
    assert wanted["External"] == jobs["name"]["as"]
    assert wanted["Pods"] == re.match(r"\w+", inside["seriesQuery"])[0]  # type: ignore[index]


def test_the_adapter_s_rules_have_its_fields_and_labels() -> None:
    """Its configuration has no published schema: these are all fields of docs/config.md."""
    fields = {"seriesQuery", "seriesFilters", "resources", "name", "metricsQuery"}
    for rule in adapter_rules():
        assert {"seriesQuery", "resources", "metricsQuery"} <= {*rule} <= fields
        for label, resource in rule["resources"]["overrides"].items():
            assert resource == {"resource": label}
            assert f'{label}!=""' in rule["seriesQuery"]
        assert "<<.Series>>{<<.LabelMatchers>>}" in rule["metricsQuery"]
    # every server of a queue tells the same number: adding them up would be wrong
    assert "max by (state)" in read(ADAPTER)["rules"]["external"][0]["metricsQuery"]
    assert "max by" in RULES.read_text()


def test_the_gpu_s_layer_differs_by_the_gpu_alone() -> None:
    plain, gpu = ({(m["kind"], m["metadata"]["name"]): m for m in kubernetes(x)} for x in LAYERS)
    assert {key for key in plain if plain[key] != gpu[key]} == {("Deployment", "neurobento")}
    server = container(named("overlays/gpu", "Deployment"))
    assert server["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert server["image"] == container(named("base", "Deployment"))["image"] + "-gpu"
    added = {*environment(named("overlays/gpu", "Deployment")).items()} - {
        *environment(named("base", "Deployment")).items()
    }
    assert added == {("NEUROBENTO_BACKEND", "onnxruntime"), ("NEUROBENTO_DEVICE", "cuda")}
    # no GPU is to spare for one server more
    strategy = named("overlays/gpu", "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert strategy == {"maxSurge": 0, "maxUnavailable": 1}
