"""The real server on a loopback port, with models whose answers are known."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from neurobento.serving.settings import RUN_VARIABLE
from tests.neurobento.anomaly.known_anomaly import write_known_model
from tests.service.collector import Spans, collecting

ROOT = Path(__file__).resolve().parents[2]
TILTED = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.05, 0.08) @ np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0]
)

SLOTS = 3
TOKEN = "a-token-of-two-dozen-signs"

TEMPORARY = tempfile.gettempdir()
"""As it is before any test; a server's sockets do not fit into a deep folder."""

STORES: dict[Path, Path] = {}
"""Folder of models -> BentoML's store of them, of the first server that served it."""


@dataclass(frozen=True)
class Server:
    """A running server, its first process, its log, and a client for it."""

    url: str
    grpc: str
    pid: int
    log: Path
    client: httpx.Client

    def predict(self, scan: bytes, query: str = "preprocessing=false&model=regions") -> Any:
        return self.client.post(f"/predict/?{query}", files={"file": ("scan", scan)})

    def parcellation(self, scan: bytes, accept: str = "*/*", **fields: str) -> Any:
        return self._post("parcellation", ("scan", scan), accept, fields)

    def anomaly(self, content: bytes, accept: str = "*/*", **fields: str) -> Any:
        return self._post("anomaly", ("slice", content), accept, fields)

    def _post(self, task: str, file: tuple[str, bytes], accept: str, fields: Any) -> Any:
        headers = {"accept": accept}
        return self.client.post(f"/v1/{task}", files={"file": file}, data=fields, headers=headers)


def descendants(pid: int) -> set[int]:
    """Every process that a process started, directly or not."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(entry.parent.name)] = int(entry.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    found, grown = {pid}, True
    while grown:
        more = {child for child, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return found


def running(pids: set[int]) -> set[int]:
    alive = set()
    for pid in pids:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                alive.add(pid)
        except FileNotFoundError:
            continue
    return alive


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.2)
    return true()


def is_ready(url: str) -> bool:
    try:
        # a context for TLS, which nobody needs here, would take longer than the request
        return httpx.get(f"{url}/readyz", timeout=5, verify=False).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(models: Path, home: Path, **settings: str) -> Iterator[Server]:
    """A server of its own; at the end SIGTERM must end it and all it started.

    Parameters
    ----------
    models
        Folder of the models to serve.
    home
        For its store and log.
    settings
        NEUROBENTO_ variables beside the tests' own.
    """
    port, grpc_port = free_port(), free_port()
    env = {
        # a test of the server's processes may have left the folder of its run
        **{name: value for name, value in os.environ.items() if name != RUN_VARIABLE},
        "BENTOML_HOME": str(home),
        "TMPDIR": TEMPORARY,
        "BENTOML_DO_NOT_TRACK": "True",
        "NEUROBENTO_MODELS": str(models),
        "NEUROBENTO_THREADS": "1",
        "NEUROBENTO_PREPROCESSING_PROCESSES": "1",
        "NEUROBENTO_MAX_BODY_BYTES": str(32 << 20),
        "NEUROBENTO_GRPC_PORT": str(grpc_port),
        **{f"NEUROBENTO_{name}": value for name, value in settings.items()},
    }
    if models not in STORES:
        store = [sys.executable, "-m", "export.to_bento", "--models", str(models)]
        subprocess.run(store, cwd=ROOT, env=env, check=True, timeout=60)
        STORES[models] = home / "models"
    elif not (home / "models").exists():
        shutil.copytree(STORES[models], home / "models", symlinks=True)
    command = [sys.executable, "-m", "bentoml", "serve", "service:NeuroBento"]
    log, url = home / "server.log", f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=ROOT,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    family: set[int] = {process.pid}
    try:
        assert wait_until(lambda: is_ready(url), 120), log.read_text()[-3000:]
        family |= descendants(process.pid)
        assert len(family) > 3
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Server(url, f"127.0.0.1:{grpc_port}", process.pid, log, client)
    finally:
        family |= descendants(process.pid)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        ended = wait_until(lambda: process.poll() is not None and not running(family), 30)
        for pid in running(family):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)
    assert ended, "SIGTERM left processes behind"


def process_of(pid: int, service: str) -> int:
    """The process of one of a server's services."""
    for each in descendants(pid):
        words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
        if b"--service-name" in words and service.encode() in words:
            return each
    raise AssertionError(f"no process of {service}")


@contextmanager
def standing_still(pid: int, service: str) -> Iterator[None]:
    """A service's process takes nothing in for the time; what it is asked waits."""
    process = process_of(pid, service)
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@pytest.fixture(scope="session")
def known_models(known_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: `regions`, whose labels are known, and `anomaly`, whose scores are."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(known_model, folder / "regions")
    write_known_model(folder)
    return folder


@pytest.fixture(scope="package")
def server(known_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(known_models, tmp_path_factory.mktemp("bentoml")) as running_server:
        yield running_server


@pytest.fixture(scope="package")
def collected() -> Iterator[tuple[str, Spans]]:
    """Address of a collector, and the spans that were reported to it."""
    with collecting() as address_and_spans:
        yield address_and_spans


@pytest.fixture(scope="package")
def tight(
    known_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
    collected: tuple[str, Spans],
) -> Iterator[Server]:
    """A server with few slots, which requires a token and reports its traces, if it can."""
    home = tmp_path_factory.mktemp("tight")
    settings = {"SLOTS": str(SLOTS), "TOKEN": TOKEN, "DRAIN_S": "60"}
    if find_spec("opentelemetry.proto"):
        settings["OTLP_ENDPOINT"] = collected[0]
    with serving(known_model.parent, home, **settings) as tight_server:
        tight_server.client.headers["authorization"] = f"Bearer {TOKEN}"
        yield tight_server


@pytest.fixture(scope="module")
def grpc(server: Server) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[Any]:
    with triton_http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


def nifti(array: Any, affine: Any = TILTED, **header: Any) -> bytes:
    image = nib.Nifti1Image(array, affine)
    for field, value in header.items():
        image.header[field] = value
    return gzip.compress(image.to_bytes(), compresslevel=1)


@pytest.fixture(scope="session")
def nifti_bytes() -> Callable[..., bytes]:
    """Makes a gzip NIfTI file of an array; keyword arguments set header fields."""
    return nifti


@pytest.fixture(scope="session")
def scan_of(known_labels: Callable[[int], Any]) -> Callable[[int], bytes]:
    """The scan whose labels are `known_labels(seed)`."""
    return lambda seed: nifti((known_labels(seed) / np.float32(116)).astype(np.float32))
