"""What becomes of requests that are too many or take too long, and of those whose server dies."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.service.conftest import SLOTS, TOKEN, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

NONE = {"preprocessing": "none"}
WHOLE_AGAIN_S = 15


@pytest.fixture(scope="module")
def head(nifti_bytes: Any) -> bytes:
    """A scan that ROBEX is busy with for as long as anybody waits: a noisy ball."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (150, 160, 150)), indexing="ij"))
    ball = ((grid**2).sum(axis=0) < 0.8) * np.random.default_rng(0).uniform(50, 100, grid.shape[1:])
    return bytes(nifti_bytes(ball.astype(np.float32), np.diag([1.2, 1.2, 1.2, 1])))


def processes(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def of_kind(pid: int, kind: str) -> list[psutil.Process]:
    """Processes with a word on their command line."""
    found = []
    for process in processes(pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(kind in word for word in process.cmdline()):
                found.append(process)
    return found


def busy(server: Any) -> bool:
    return bool(of_kind(server.pid, "ROBEX"))


def temporary(server: Any) -> list[str]:
    """Files of scans that the server keeps."""
    folder = next(Path("/proc", str(p.pid), "environ") for p in processes(server.pid))
    pairs = dict(pair.split("=", 1) for pair in folder.read_text().split("\0") if "=" in pair)
    kept = Path(pairs["TMPDIR"]).rglob("*")
    return [str(p) for p in kept if p.is_file() and p.suffix != ".sock"]


def post(server: Any, scan: bytes, preprocessing: str, **headers: str) -> Any:
    with httpx.Client(base_url=server.url, headers=server.client.headers, timeout=90) as client:
        return client.post(
            "/v1/parcellation",
            files={"file": ("scan", scan)},
            data={"preprocessing": preprocessing},
            headers={"accept": "application/gzip", **headers},
        )


def well(server: Any, scan: bytes) -> bool:
    try:
        return post(server, scan, "none").status_code == 200
    except httpx.TransportError:
        return False


def test_who_has_no_token_gets_nothing_but_the_probes(tight: Any, scan_of: Any) -> None:
    for shown in ({}, {"authorization": "Bearer another-of-two-dozen-signs"}):
        with httpx.Client(base_url=tight.url, headers=shown) as client:
            for path in ("/healthz", "/livez", "/readyz", "/"):
                assert client.get(path).status_code == 200
            for path in ("/metrics", "/v1/models", "/v2/health/ready", "/docs.json"):
                answer = client.get(path)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "token-of" not in answer.text
            assert client.post("/predict/", files={"file": scan_of(1)}).status_code == 401
    tensor = triton_grpc.InferInput("scan", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([scan_of(1)], dtype=np.object_))
    with triton_grpc.InferenceServerClient(tight.grpc) as client:
        with pytest.raises(InferenceServerException, match="token") as caught:
            client.infer("regions", [tensor], parameters=NONE)
        assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
        shown = {"authorization": f"Bearer {TOKEN}"}
        assert client.infer("regions", [tensor], parameters=NONE, headers=shown)


def test_at_a_deadline_all_work_is_ended_and_nothing_is_left(
    tight: Any, head: bytes, scan_of: Any
) -> None:
    before = temporary(tight)
    start = time.monotonic()
    answer = post(tight, head, "full", **{"x-request-timeout": "4"})
    assert answer.status_code == 504, answer.text
    assert answer.json()["error"]["type"] == "DeadlineExceeded"
    assert 3.9 < time.monotonic() - start < 10
    assert not busy(tight)
    # BentoML removes the upload once the answer is on its way
    assert wait_until(lambda: temporary(tight) == before, 2)
    assert well(tight, scan_of(2))


def test_a_grpc_deadline_ends_the_work_too(tight: Any, head: bytes) -> None:
    tensor = triton_grpc.InferInput("scan", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([head], dtype=np.object_))
    assert wait_until(lambda: len(of_kind(tight.pid, "spawn_main")) == 2, 20)
    with (
        triton_grpc.InferenceServerClient(tight.grpc) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        shown = {"authorization": f"Bearer {TOKEN}"}
        client.infer("regions", [tensor], headers=shown, client_timeout=5)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    assert wait_until(lambda: not busy(tight), 5)


def test_a_client_that_leaves_frees_its_slot(tight: Any, head: bytes, scan_of: Any) -> None:
    assert wait_until(lambda: len(of_kind(tight.pid, "spawn_main")) == 2, 20)
    with (
        contextlib.suppress(httpx.ReadTimeout),
        httpx.Client(base_url=tight.url, headers=tight.client.headers) as client,
    ):
        limits = httpx.Timeout(30, read=5)
        client.post("/v1/parcellation", files={"file": ("scan", head)}, timeout=limits)
    assert wait_until(lambda: not busy(tight), 5)
    assert wait_until(lambda: active_requests(tight) == 0, 5)
    assert temporary(tight) == []


def active_requests(server: Any) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith("neurobento_requests_inside")
    )


def test_more_than_there_are_places_for_are_refused_at_once(
    tight: Any, head: bytes, scan_of: Any
) -> None:
    """Heads hold all slots; one more scan is refused at once, with a time to try again."""
    over = threading.Event()
    with ThreadPoolExecutor(SLOTS) as holders:
        for _ in range(SLOTS):
            holders.submit(post, tight, head, "full", **{"x-request-timeout": "9"})
        assert wait_until(lambda: active_requests(tight) == SLOTS, 8)
        start = time.monotonic()
        answer = post(tight, scan_of(3), "none")
        took = time.monotonic() - start
        over.set()
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "ServiceBusy"
    assert int(answer.headers["retry-after"]) >= 1
    assert took < 0.5
    assert wait_until(lambda: active_requests(tight) == 0, 10)
    assert well(tight, scan_of(3))


@pytest.mark.parametrize("kind", ["runner-regions", "preprocessing", "neurobento", "spawn_main"])
def test_a_killed_process_is_replaced_and_nobody_hangs(tight: Any, scan_of: Any, kind: str) -> None:
    """Clients go on asking; each gets its labels, a 503, or its connection cut."""
    scans = [scan_of(seed) for seed in (4, 5)]
    over = threading.Event()
    statuses: list[str] = []

    def ask(scan: bytes) -> None:
        while not over.is_set():
            start = time.monotonic()
            try:
                answer = post(tight, scan, "none")
                statuses.append(str(answer.status_code))
                if answer.status_code == 503:
                    assert "retry-after" in answer.headers
            except httpx.TransportError as error:
                statuses.append(type(error).__name__)
            assert time.monotonic() - start < WHOLE_AGAIN_S + 5
            time.sleep(0.05)

    with ThreadPoolExecutor(2) as clients:
        asking = [clients.submit(ask, scan) for scan in scans]
        try:
            assert wait_until(lambda: len(of_kind(tight.pid, "spawn_main")) == 2, 20)
            time.sleep(0.5)
            # with `--service-name`, or a child of the pool; the newest is the quick queue's
            victim = max(of_kind(tight.pid, kind), key=lambda p: p.create_time())
            victim.send_signal(signal.SIGKILL)
            start = time.monotonic()
            victim.wait(5)
            whole = wait_until(lambda: bool(of_kind(tight.pid, kind)) and well(tight, scans[0]), 30)
            took = time.monotonic() - start
        finally:
            over.set()
        for each in asking:
            each.result()
    assert whole
    assert took < WHOLE_AGAIN_S
    cut = {"ReadError", "RemoteProtocolError", "ConnectError"} if kind == "neurobento" else set()
    assert set(statuses) <= {"200", "503", *cut}, statuses


def test_a_second_server_with_the_same_home_is_refused_and_the_first_serves_on(
    server: Any,
) -> None:
    home = Path(server.log).parent
    before = server.client.get("/metrics").text
    environment = {**os.environ, "BENTOML_HOME": str(home), "NEUROBENTO_GRPC_PORT": "0"}
    command = [sys.executable, "-m", "bentoml", "serve", "service:NeuroBento", "--port", "0"]
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert second.returncode == 1
    assert "one that another process holds. Give each server a BENTOML_HOME" in second.stderr
    assert "Traceback" not in second.stderr
    assert server.client.get("/readyz").status_code == 200
    counted = [line for line in before.splitlines() if line.startswith("neurobento_")]
    assert {line.split()[0] for line in counted} <= {
        line.split()[0] for line in server.client.get("/metrics").text.splitlines() if line
    }
