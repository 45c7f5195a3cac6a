"""One machine: compose.yaml is what Compose takes, and says what the service needs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from neurobento.serving.http.paths import PROBES
from tests.deploy.manifests import COMPOSE, COMPOSE_GPU, DEPLOY, ROOT, read, settings

FILES = pytest.mark.parametrize("file", [COMPOSE, COMPOSE_GPU], ids=lambda file: file.name)

NOT_OURS = {"HOME", "NVIDIA_DRIVER_CAPABILITIES", "BENTOML_DO_NOT_TRACK"}
"""Variables that others than the service listen to."""

PINNED = re.compile(r"[a-z/]+:v?\d+\.\d+\.\d+(-[a-z]+)?")


def service(name: str = "neurobento") -> Any:
    return read(COMPOSE)["services"][name]


def checked(compose: Any) -> None:
    """Raises ValueError at the first field that is unknown or of a wrong type."""
    defaults = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", yaml.safe_dump(compose))
    PyCompose.from_yaml(defaults)


def seconds(span: str) -> int:
    return int(span.removesuffix("s"))


@FILES
def test_a_file_is_what_the_compose_specification_allows_and_every_variable_is_read(
    file: Path,
) -> None:
    checked(read(file))
    named = {*read(file)["services"]["neurobento"]["environment"]}
    assert named - NOT_OURS <= settings()


@pytest.mark.parametrize(
    "wrong",
    [
        {"restarts": "always"},
        {"restart": "now and then"},
        {"read_only": "perhaps"},
        {"environment": {"NEUROBENTO_SLOTS": [1]}},
        {"stop_grace_period": "a while"},
        {"healthcheck": {"tests": ["CMD", "true"]}},
    ],
    ids=str,
)
def test_unknown_fields_and_wrong_types_are_found(wrong: dict[str, Any]) -> None:
    broken = read(COMPOSE)
    broken["services"]["neurobento"] |= wrong
    with pytest.raises(ValueError, match=r"services\.neurobento"):
        checked(broken)


def test_docker_compose_takes_both_files() -> None:
    compose = ["docker", "compose"]
    if not shutil.which("docker") or subprocess.run([*compose, "version"], check=False).returncode:
        pytest.skip("no `docker compose` here")
    files = ["-f", str(COMPOSE), "-f", str(COMPOSE_GPU)]
    subprocess.run([*compose, *files, "config", "-q"], check=True, timeout=60)


def test_what_a_service_names_is_there_and_secrets_stay_out_of_the_repository() -> None:
    whole = read(COMPOSE)
    for each in whole["services"].values():
        assert {*each.get("secrets", [])} <= {*whole["secrets"]}
        assert {*each.get("depends_on", [])} <= {*whole["services"]}
        for volume in each.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source[0] == "." else source in whole["volumes"]
    files = [Path(secret["file"]) for secret in read(COMPOSE)["secrets"].values()]
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert all(f"deploy/{file.parent}/" in ignored for file in files)


def test_a_variable_that_nobody_reads_would_be_found() -> None:
    assert {"NEUROBENTO_JOBS", "NEUROBENTO_TOKEN_FILE", "NEUROBENTO_ENGINES"} <= settings()
    assert "NEUROBENTO_PLACE" not in settings()


def test_the_drain_ends_before_compose_loses_patience() -> None:
    drain_s = float(service()["environment"]["NEUROBENTO_DRAIN_S"])
    assert seconds(service()["stop_grace_period"]) >= drain_s + 15


@pytest.mark.parametrize("name", ["neurobento", "prometheus", "grafana"])
def test_a_service_can_change_nothing_but_what_it_must(name: str) -> None:
    given = service(name)
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in given
    assert given["restart"] == "unless-stopped"


def test_only_this_machine_is_listened_to_where_the_service_listens() -> None:
    ports = [port for each in read(COMPOSE)["services"].values() for port in each.get("ports", [])]
    assert len(ports) == len({port.split(":")[1] for port in ports}) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)
    given = service()
    http = given["command"][given["command"].index("--port") + 1]
    grpc = given["environment"]["NEUROBENTO_GRPC_PORT"]
    assert {port.split(":")[2] for port in given["ports"]} == {http, grpc}
    assert given["environment"]["NEUROBENTO_GRPC_HOST"] == "0.0.0.0"


def test_what_is_written_goes_to_a_volume_or_to_memory() -> None:
    """The root is read-only; nothing is mounted over /home/bentoml, where the bento lies."""
    given = service()
    memory = {mount.split(":")[0] for mount in given["tmpfs"]}
    volumes = {volume.split(":")[1] for volume in given["volumes"]}
    assert not any(path.startswith("/home/bentoml") for path in memory | volumes)
    variables = given["environment"]
    assert variables["BENTOML_HOME"] in memory
    assert variables["HOME"] in memory
    database = Path(variables["NEUROBENTO_JOBS"].removeprefix("sqlite:///"))
    assert str(database.parent) in volumes


def test_the_image_is_bentoml_s_still() -> None:
    """Its user and where it has the bento, which the files here rely on."""
    from bentoml._internal.container.generate import BENTO_HOME, BENTO_PATH, BENTO_UID_GID

    assert (BENTO_HOME, BENTO_PATH) == ("/home/bentoml/", "/home/bentoml/bento")
    assert service()["user"] == f"{BENTO_UID_GID}:{BENTO_UID_GID}"
    assert f"{BENTO_UID_GID}:{BENTO_UID_GID}" in service("jobs-folder")["entrypoint"]


def test_health_is_asked_of_a_probe_that_is_open_to_all() -> None:
    check = service()["healthcheck"]
    assert check["test"][:3] == ["CMD", "python", "-c"]
    program = check["test"][3]
    ast.parse(program)
    assert "/" + program.split(":3000/")[1].split('"')[0] in PROBES
    assert "timeout=" in program
    assert seconds(check["timeout"]) > 8


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_the_others_are_of_a_stated_version(name: str) -> None:
    assert PINNED.fullmatch(service(name)["image"])


def test_the_gpu_s_image_adds_what_gpu_txt_names() -> None:
    text = (DEPLOY / "gpu.Dockerfile").read_text()
    copied = re.search(r"^COPY (\S+) (\S+)$", text, re.MULTILINE)
    assert copied
    assert (ROOT / copied[1]).is_file()
    assert f"-r {copied[2]}" in text
    assert text.rstrip().endswith("USER bentoml")
