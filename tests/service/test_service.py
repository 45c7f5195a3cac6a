"""What the running service answers: labels, the same as the command line's, to many at once."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.service.conftest import standing_still, wait_until
from tests.service.test_faults import active_requests, post, processes

ROOT = Path(__file__).resolve().parents[2]
NONE = {"preprocessing": "none"}
RUNNER = "runner-regions"
PREPARING_S = 3

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def labels_in(content: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_report_as_call_gives_the_labels_in_native_space(
    server: Any, scan_of: Any, known_labels: Any
) -> None:
    answer = server.predict(scan_of(51))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/gzip"
    image = labels_in(answer.content)
    assert np.array_equal(np.asarray(image.dataobj), known_labels(51))
    assert np.array_equal(image.affine, labels_in(scan_of(51)).affine)


def test_the_zip_and_the_labels_alone_are_the_same(server: Any, scan_of: Any) -> None:
    zipped = server.parcellation(scan_of(51), **NONE)
    assert zipped.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        assert len(archive.namelist()) == 5
        inside = archive.read("scan_dseg.nii.gz")
        run = json.loads(archive.read("scan_run.json"))
    alone = server.parcellation(scan_of(51), accept="application/gzip", **NONE)
    assert alone.headers["content-type"] == "application/gzip"
    assert inside == alone.content == server.predict(scan_of(51)).content
    assert run["model"]["name"] == "regions"
    assert run["preprocessing"] == "none"


def test_a_scan_without_skull_comes_back_on_its_own_grid_and_network_space_is_the_network_grid(
    server: Any, phantom: Any, nifti_bytes: Any
) -> None:
    scan = nifti_bytes(phantom.image, phantom.affine)
    image = labels_in(server.predict(scan, "preprocessing=stripped").content)
    assert image.shape == phantom.shape
    assert np.array_equal(image.affine, labels_in(scan).affine)
    inside = np.asarray(image.dataobj) > 0
    assert 2 * (inside & (phantom.image > 0)).sum() > 0.9 * (
        inside.sum() + (phantom.image > 0).sum()
    )
    image = labels_in(server.predict(scan, "preprocessing=stripped&space=network").content)
    assert image.shape == (91, 122, 123)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")


def test_service_and_command_line_give_the_same_bytes(
    server: Any, scan_of: Any, known_model: Path, tmp_path: Path
) -> None:
    scan = tmp_path / "sub.nii.gz"
    scan.write_bytes(scan_of(52))
    options = ["--models", str(known_model.parent), "--preprocessing", "none", "--threads", "1"]
    command = [sys.executable, "-m", "neurobento", "parcellate", str(scan)]
    subprocess.run(
        [*command, "-o", str(tmp_path / "out"), *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=120,
    )
    written = (tmp_path / "out" / "sub_dseg.nii.gz").read_bytes()
    assert written == server.predict(scan_of(52)).content


def run_script(server: Any, folder: Path, name: str) -> subprocess.CompletedProcess[bytes]:
    command = [str(ROOT / "scripts/predict.sh"), "-i", name, "-o", "out.nii.gz"]
    env = {**os.environ, "NEUROBENTO_URL": server.url}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=60)


def test_the_client_script_keeps_the_answer_or_passes_a_refusal_on_and_writes_nothing(
    server: Any, scan_of: Any, tmp_path: Path
) -> None:
    (tmp_path / "text.nii").write_text("no scan\n" * 100)
    done = run_script(server, tmp_path, "text.nii")
    assert done.returncode == 1
    answer = done.stderr.splitlines()[-1]
    assert json.loads(answer)["error"]["type"] == "UnknownFormat"
    assert [path.name for path in tmp_path.iterdir()] == ["text.nii"]
    (tmp_path / "in put.nii.gz").write_bytes(scan_of(53))
    done = run_script(server, tmp_path, "in put.nii.gz")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.nii.gz").read_bytes() == server.predict(scan_of(53)).content


def test_models_are_listed_and_a_request_id_is_given_back(server: Any) -> None:
    answer = server.client.get("/v1/models", headers={"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    models = answer.json()["models"]
    found = [(model["name"], model["version"], model["task"]) for model in models]
    assert found == [("anomaly", "0.0.1", "anomaly"), ("regions", "0.0.1", "parcellation")]


def test_jobs_are_kept_in_bentomls_home_by_default(server: Any) -> None:
    assert server.client.get("/v1/jobs/none").status_code == 404
    assert (server.log.parent / "jobs.sqlite").exists()


def batches_and_scans(server: Any, method: str = "segment") -> tuple[float, float]:
    """Inferences of the runner with a method since it began, and the scans in them."""
    families = text_string_to_metric_families(server.client.get("/metrics").text)
    samples = [
        sample
        for family in families
        if family.name == "bentoml_service_adaptive_batch_size"
        for sample in family.samples
        if sample.labels["method_name"] == method
    ]
    return (
        sum(sample.value for sample in samples if sample.name.endswith("_count")),
        sum(sample.value for sample in samples if sample.name.endswith("_sum")),
    )


def test_callers_at_the_same_time_each_get_their_own_answer_in_fewer_inferences(
    server: Any, scan_of: Any, known_labels: Any
) -> None:
    scans = {seed: scan_of(seed) for seed in range(60, 68)}
    batches_before, scans_before = batches_and_scans(server)
    with ThreadPoolExecutor(len(scans)) as callers:
        with standing_still(server.pid, RUNNER):
            asked = {seed: callers.submit(server.predict, scan) for seed, scan in scans.items()}
            # preparing takes each of them milliseconds
            wait(asked.values(), timeout=PREPARING_S)
            assert not any(each.done() for each in asked.values())
        for seed, answer in asked.items():
            labels = np.asarray(labels_in(answer.result().content).dataobj)
            assert np.array_equal(labels, known_labels(seed))
    batches, found = batches_and_scans(server)
    assert found - scans_before == len(scans)
    assert 0 < batches - batches_before < len(scans)


MARK = "JANE_DOE_1970"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/parcellation", {"data": {"name": MARK}, "files": {"other": (None, MARK)}}),
        ("/v1/parcellation", {"files": {"file": (None, MARK)}}),
        ("/v1/parcellation", {"files": {MARK: (MARK, b"scan")}, "data": {"model": MARK}}),
        ("/v1/parcellation", {"data": {MARK: MARK * 200}, "files": {"file": ("scan", b"scan")}}),
        ("/v1/parcellation", {"data": {"preprocessing": MARK}, "files": {"file": (MARK, b"scan")}}),
        ("/v1/parcellation", {"data": {"space": MARK}, "files": {"file": (MARK, b"scan")}}),
        ("/v1/parcellation", {"data": {"model": MARK}, "files": {"file": (MARK, b"scan")}}),
        ("/v1/parcellation", {"json": {"name": MARK}}),
        ("/v1/parcellation", {"data": {"name": MARK}}),
        ("/v1/anomaly", {"data": {"model": MARK}, "files": {"file": (MARK, b"slice")}}),
        ("/v1/anomaly", {"files": {"file": (MARK, MARK.encode() * 40)}}),
        ("/v1/anomaly", {"files": {"file": (None, MARK)}}),
        ("/v2/models/anomaly/infer", {"json": {"inputs": [{"name": MARK}]}}),
        (f"/predict/?preprocessing={MARK}", {"files": {"file": (MARK, b"scan")}}),
        (f"/predict/?model={MARK}", {"files": {"other": (None, MARK)}}),
        (f"/{MARK}?name={MARK}", {"json": {"name": MARK}}),
        ("/v2/models/regions/infer", {"json": {"inputs": [{"name": MARK}]}}),
        (f"/v2/models/{MARK}/infer", {"json": {MARK: MARK}}),
        ("/v2/models/regions/infer", {"content": MARK}),
    ],
)
def test_nothing_that_a_refused_client_sent_is_in_the_log(
    server: Any, path: str, body: dict[str, Any]
) -> None:
    before = server.log.stat().st_size
    answer = server.client.post(path, headers={"x-request-id": "refused-1"}, **body)
    assert 400 <= answer.status_code < 500, answer.text
    written = server.log.read_bytes()[before:].decode()
    assert f"request refused-1: {answer.status_code}" in written
    assert MARK not in written


def answers(server: Any) -> int:
    """Requests that have ended well, as the log tells."""
    lines = [json.loads(x) for x in server.log.read_text().splitlines() if x.startswith("{")]
    return [x["status"] for x in lines if x["message"].endswith("ended")].count(200)


def test_a_server_that_is_told_to_stop_ends_what_it_began(
    server: Any, phantom: Any, nifti_bytes: Any
) -> None:
    """The last test of the server that all files share, which is gone afterwards."""
    scan = nifti_bytes(phantom.image, phantom.affine)
    before = answers(server)
    with ThreadPoolExecutor(2) as clients:
        asked = [clients.submit(post, server, scan, "stripped") for _ in range(2)]
        assert wait_until(lambda: active_requests(server) == 2, 10)
        os.kill(server.pid, signal.SIGTERM)
        assert wait_until(lambda: server.client.get("/readyz").status_code == 503, 5)
        refused = post(server, scan, "stripped")
        assert refused.status_code == 503
        assert "retry-after" in refused.headers
        for each in asked:
            answer = each.result(60)
            assert answer.status_code == 200, answer.text
            assert nib.Nifti1Image.from_bytes(gzip.decompress(answer.content)).shape == (
                phantom.shape
            )
        assert wait_until(
            lambda: not psutil.pid_exists(server.pid) or not processes(server.pid), 20
        )
    assert answers(server) - before == 2
