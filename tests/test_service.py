"""The real server on a loopback port, with the model whose labels are known."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TILTED = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.05, 0.08) @ np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0]
)
NONE = {"preprocessing": "none"}

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Server:
    """A running server, its log, and a client for it."""

    url: str
    log: Path
    client: httpx.Client

    def predict(self, scan: bytes, query: str = "preprocessing=false&model=compact") -> Any:
        return self.client.post(f"/predict/?{query}", files={"file": ("scan", scan)})

    def parcellation(self, scan: bytes, accept: str = "*/*", **fields: str) -> Any:
        files = {"file": ("scan", scan)}
        headers = {"accept": accept}
        return self.client.post("/v1/parcellation", files=files, data=fields, headers=headers)


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
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def server(known_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests; at the end SIGTERM must end it and all it started."""
    home = tmp_path_factory.mktemp("bentoml")
    env = {
        **os.environ,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "NEUROBENTO_MODELS": str(known_model.parent),
        "NEUROBENTO_THREADS": "1",
        "NEUROBENTO_PREPROCESSING_PROCESSES": "1",
        "NEUROBENTO_MAX_BODY_BYTES": str(32 << 20),
    }
    store = [sys.executable, "-m", "export.to_bento", "--models", str(known_model.parent)]
    subprocess.run(store, cwd=ROOT, env=env, check=True, timeout=60)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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
        with httpx.Client(base_url=url, timeout=60) as client:
            yield Server(url, log, client)
    finally:
        family |= descendants(process.pid)
        process.send_signal(signal.SIGTERM)
        ended = wait_until(lambda: process.poll() is not None and not running(family), 30)
        for pid in running(family):
            os.kill(pid, signal.SIGKILL)
        process.wait(10)
    assert ended, "SIGTERM left processes behind"
    assert len(family) > 3


def nifti(array: Any, affine: Any = TILTED, **header: Any) -> bytes:
    image = nib.Nifti1Image(array, affine)
    for field, value in header.items():
        image.header[field] = value
    return gzip.compress(image.to_bytes(), compresslevel=1)


@pytest.fixture(scope="module")
def scan_of(known_labels: Callable[[int], Any]) -> Callable[[int], bytes]:
    """The scan whose labels are `known_labels(seed)`."""
    return lambda seed: nifti((known_labels(seed) / np.float32(116)).astype(np.float32))


def labels_in(content: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def refused(answer: Any, *statuses: int) -> dict[str, str]:
    """The error, in the one shape there is."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"type", "message", "request_id"}
    assert body["error"]["request_id"] == answer.headers["x-request-id"]
    assert "/tmp" not in answer.text
    assert "Traceback" not in answer.text
    return body["error"]


def test_report_as_call_gives_the_labels_in_native_space(
    server: Server, scan_of: Any, known_labels: Any
) -> None:
    answer = server.predict(scan_of(51))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    image = labels_in(answer.content)
    assert np.array_equal(np.asarray(image.dataobj), known_labels(51))
    assert np.array_equal(image.affine, labels_in(scan_of(51)).affine)


def test_the_zip_and_the_labels_alone_are_the_same(server: Server, scan_of: Any) -> None:
    zipped = server.parcellation(scan_of(51), **NONE)
    assert zipped.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        assert len(archive.namelist()) == 5
        inside = archive.read("scan_dseg.nii.gz")
        run = json.loads(archive.read("scan_run.json"))
    alone = server.parcellation(scan_of(51), accept="application/gzip", **NONE)
    assert alone.headers["content-type"] == "application/gzip"
    assert inside == alone.content == server.predict(scan_of(51)).content
    assert run["model"]["name"] == "compact"
    assert run["preprocessing"] == "none"


def test_a_scan_without_skull_comes_back_on_its_own_grid(server: Server, phantom: Any) -> None:
    scan = nifti(phantom.image, phantom.affine)
    image = labels_in(server.predict(scan, "preprocessing=stripped").content)
    assert image.shape == phantom.shape
    assert np.array_equal(image.affine, labels_in(scan).affine)
    inside = np.asarray(image.dataobj) > 0
    assert 2 * (inside & (phantom.image > 0)).sum() > 0.9 * (
        inside.sum() + (phantom.image > 0).sum()
    )


def test_network_space_is_the_network_grid(server: Server, phantom: Any) -> None:
    scan = nifti(phantom.image, phantom.affine)
    image = labels_in(server.predict(scan, "preprocessing=stripped&space=network").content)
    assert image.shape == (91, 122, 123)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_service_and_command_line_give_the_same_bytes(
    server: Server, scan_of: Any, known_model: Path, tmp_path: Path
) -> None:
    scan = tmp_path / "sub.nii.gz"
    scan.write_bytes(scan_of(52))
    options = ["--models", str(known_model.parent), "--preprocessing", "none", "--threads", "1"]
    command = [sys.executable, "-m", "neurobento.cli", "parcellate", str(scan)]
    subprocess.run(
        [*command, "-o", str(tmp_path / "out"), *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    written = (tmp_path / "out" / "sub_dseg.nii.gz").read_bytes()
    assert written == server.predict(scan_of(52)).content


def test_the_client_script_keeps_the_answer(server: Server, scan_of: Any, tmp_path: Path) -> None:
    (tmp_path / "in put.nii.gz").write_bytes(scan_of(53))
    command = [str(ROOT / "scripts/predict.sh"), "-i", "in put.nii.gz", "-o", "out.nii.gz"]
    env = {**os.environ, "NEUROBENTO_URL": server.url}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.nii.gz").read_bytes() == server.predict(scan_of(53)).content


def test_the_client_script_passes_a_refusal_on_and_writes_nothing(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "text.nii").write_text("no scan\n" * 100)
    command = [str(ROOT / "scripts/predict.sh"), "-i", "text.nii", "-o", "out.nii.gz"]
    env = {**os.environ, "NEUROBENTO_URL": server.url}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60)
    assert done.returncode == 1
    assert json.loads(done.stderr)["error"]["type"] == "UnknownFormat"
    assert [path.name for path in tmp_path.iterdir()] == ["text.nii"]


def test_models_are_listed(server: Server) -> None:
    (model,) = server.client.get("/v1/models").json()["models"]
    assert (model["name"], model["version"]) == ("compact", "0.0.1")


def test_callers_at_the_same_time_each_get_their_own_answer(
    server: Server, scan_of: Any, known_labels: Any
) -> None:
    scans = {seed: scan_of(seed) for seed in range(60, 68)}
    with ThreadPoolExecutor(8) as callers:
        answers = dict(zip(scans, callers.map(server.predict, scans.values()), strict=True))
    for seed, answer in answers.items():
        assert np.array_equal(np.asarray(labels_in(answer.content).dataobj), known_labels(seed))
    metrics = server.client.get("/metrics").text
    limits = [
        float(line.split('le="')[1].split('"')[0])
        for line in metrics.splitlines()
        if line.startswith("bentoml_service_adaptive_batch_size_bucket") and "segment" in line
    ]
    assert max(limits) > 1


def claiming_18_gb() -> bytes:
    """377 bytes: a header for 1320 voxels along each axis in float64, and 25 bytes behind it."""
    header = nib.Nifti1Header()
    header["dim"] = [3, 1320, 1320, 1320, 1, 1, 1, 1]
    header["datatype"], header["bitpix"], header["vox_offset"] = 64, 64, 352
    header.set_sform(TILTED, code=1)
    return bytes(header.binaryblock) + bytes(377 - 348)


BAD = {
    "text": (b"this is no scan\n" * 50, "UnknownFormat"),
    "empty": (b"", None),
    "gzip cut short": (nifti(np.ones((9, 9, 9), np.float32))[:-20], None),
    "all zero": (nifti(np.zeros((40, 40, 40), np.float32)), "EmptyScan"),
    "another grid": (
        nifti(np.random.default_rng(1).random((40, 40, 40)).astype(np.float32)),
        "NotOnNetworkGrid",
    ),
    "18 GB claimed": (claiming_18_gb(), None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_the_callers_fault_on_both_routes(server: Server, name: str) -> None:
    content, kind = BAD[name]
    for answer in (server.predict(content), server.parcellation(content, **NONE)):
        error = refused(answer, 400, 413, 422)
        assert kind in (None, error["type"])


def test_bad_options_are_the_callers_fault(server: Server, scan_of: Any) -> None:
    scan = scan_of(51)
    assert "compact" in refused(server.predict(scan, "model=grand"), 404)["message"]
    assert "stripped" in refused(server.predict(scan, "preprocessing=some"), 400)["message"]
    assert "network" in refused(server.parcellation(scan, space="outer"), 400)["message"]
    assert refused(server.parcellation(scan, model="grand", **NONE), 404)["type"] == "ModelNotFound"


def test_a_missing_file_is_the_callers_fault(server: Server) -> None:
    for path in ("/predict/", "/v1/parcellation"):
        other = server.client.post(path, files={"other": ("scan", b"x")})
        assert "file" in refused(other, 400)["message"]
        refused(server.client.post(path), 400, 415, 422)


def test_other_paths_and_methods_are_refused(server: Server) -> None:
    assert refused(server.client.get("/nothing"), 404)["type"] == "NotFound"
    refused(server.client.get("/predict/"), 404, 405)


def test_a_body_over_the_limit_is_refused(server: Server) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="scan"\r\n\r\n'
        for _ in range(40):
            yield bytes(1 << 20)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = server.client.post("/predict/", content=chunks(), headers=headers)
    assert refused(answer, 413)["type"] == "RequestTooLarge"


@pytest.mark.parametrize("path", ["/predict/", "/v1/parcellation"])
def test_an_address_in_the_file_field_is_not_fetched(server: Server, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        address = f"http://127.0.0.1:{bait.getsockname()[1]}/scan.nii.gz"
        answer = server.client.post(path, files={"file": (None, address)})
        refused(answer, 400)
        answer = server.client.post(path, json={"file": address})
        refused(answer, 400, 415, 422)
        bait.settimeout(0.5)
        with pytest.raises(TimeoutError):
            bait.accept()


def test_the_log_knows_neither_file_names_nor_headers(server: Server, known_labels: Any) -> None:
    image = (known_labels(54) / np.float32(116)).astype(np.float32)
    for array in (image, image[:40]):
        scan = nifti(array, descrip=b"PATIENT_MARKER", db_name=b"OTHER_MARKER")
        files = {"file": ("JANE_DOE_1970.nii.gz", scan)}
        for path in ("/predict/?preprocessing=false", "/v1/parcellation"):
            server.client.post(path, files=files, data=NONE, headers={"x-request-id": "seen-1"})
    log = server.log.read_text()
    assert "POST" in log
    assert not [w for w in ("JANE_DOE", "PATIENT_MARKER", "OTHER_MARKER") if w in log]


def test_a_request_id_is_given_back(server: Server) -> None:
    answer = server.client.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
