"""Jobs of the real service: the same labels as a request's, and still there after kill -9."""

from __future__ import annotations

import datetime
import gzip
import io
import os
import signal
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from neurobento.client import Client
from neurobento.errors import JobConflict, JobNotFound
from tests.service.conftest import Server, descendants, process_of, running, serving, wait_until

pytestmark = pytest.mark.slow

ENDED = ("done", "failed", "cancelled")
GZIP = {"accept": "application/gzip"}
KEEP_S = "12"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def database(home: Path) -> Path:
    """The file of the jobs, in a folder that the server has to make."""
    return home / "kept" / "jobs.sqlite"


@pytest.fixture(scope="module")
def server(known_models: Path, home: Path, database: Path) -> Iterator[Server]:
    """A server that keeps ended jobs for seconds only. The last test kills it."""
    settings = {"JOBS": f"sqlite:///{database}", "JOBS_KEEP_S": KEEP_S}
    with serving(known_models, home, **settings) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def first_job(server: Server, scan_of: Callable[[int], bytes]) -> dict[str, Any]:
    """A job that has ended before all others were submitted."""
    return ended(server, submit(server, scan_of(36)).json()["id"])


def submit(server: Server, scan: bytes, key: str | None = None, **fields: str) -> Any:
    headers = {} if key is None else {"idempotency-key": key}
    files, data = {"file": ("scan", scan)}, {"preprocessing": "none", **fields}
    return server.client.post("/v1/jobs", files=files, data=data, headers=headers)


def ended(server: Server, id: str, seconds: float = 120) -> dict[str, Any]:
    told: dict[str, Any] = {}

    def look() -> bool:
        told.update(server.client.get(f"/v1/jobs/{id}").json())
        return told["state"] in ENDED

    assert wait_until(look, seconds), told
    return told


def files_of(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


@pytest.mark.usefixtures("first_job")
def test_a_job_gives_what_a_request_gives(server: Server, scan_of: Callable[[int], bytes]) -> None:
    scan = scan_of(31)
    answer = submit(server, scan)
    assert answer.status_code == 202, answer.text
    told = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{told['id']}"
    assert ended(server, told["id"])["state"] == "done"
    direct = server.parcellation(scan, preprocessing="none")
    result = server.client.get(f"/v1/jobs/{told['id']}/result")
    assert result.status_code == 200
    ours, theirs = files_of(result.content), files_of(direct.content)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"scan_run.json"}:
        assert ours[name] == theirs[name], name
    labels = server.client.get(f"/v1/jobs/{told['id']}/result", headers=GZIP)
    assert labels.content == ours["scan_dseg.nii.gz"]
    assert server.client.delete(f"/v1/jobs/{told['id']}").status_code == 204
    assert server.client.get(f"/v1/jobs/{told['id']}").status_code == 404


def test_a_scan_that_is_none_fails_as_a_request_does(server: Server) -> None:
    id = submit(server, b"no scan").json()["id"]
    told = ended(server, id)
    direct = server.parcellation(b"no scan", preprocessing="none")
    result = server.client.get(f"/v1/jobs/{id}/result")
    assert (told["state"], result.status_code) == ("failed", direct.status_code)
    ours, theirs = (each.json()["error"] for each in (result, direct))
    assert (ours["type"], ours["message"]) == (theirs["type"], theirs["message"])
    assert told["error"] == {"type": ours["type"], "message": ours["message"]}


def test_a_key_is_one_job_and_what_cannot_be_asked_is_refused_at_once(
    server: Server, scan_of: Callable[[int], bytes]
) -> None:
    scan, key = scan_of(32), str(uuid.uuid4())
    first, second = (submit(server, scan, key) for _ in range(2))
    assert first.json()["id"] == second.json()["id"]
    other = submit(server, scan, key, space="network")
    assert (other.status_code, other.json()["error"]["type"]) == (409, "JobConflict")
    bad = submit(server, scan, "two words")
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "ConfigError")
    for field in ({"model": "none-such"}, {"preprocessing": "half"}, {"space": "outer"}):
        answer = submit(server, scan_of(33), **field)
        assert answer.status_code in (400, 404), answer.text
    assert server.client.get("/v1/jobs/none").status_code == 404
    assert server.client.get(f"/v1/jobs/{'0' * 32}").json()["error"]["type"] == "JobNotFound"


def test_the_client_submits_and_fetches(
    server: Server, scan_of: Callable[[int], bytes], known_labels: Callable[[int], Any]
) -> None:
    with Client(server.url, timeout_s=120) as client:
        id = client.submit(scan_of(34), preprocessing="none")
        assert client.job(id)["id"] == id
        image = nib.Nifti1Image.from_bytes(gzip.decompress(client.job_answer(id).dseg))
        assert np.array_equal(np.asarray(image.dataobj), known_labels(34))
        client.delete_job(id)
        with pytest.raises(JobNotFound):
            client.job(id)


def kill(server: Server) -> None:
    """End the first process with -9; all others end with their parent."""
    family = descendants(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    assert wait_until(lambda: not running(family - {server.pid}), 30)


def test_results_go_when_their_time_is_over(
    server: Server, first_job: dict[str, Any], database: Path
) -> None:
    assert first_job["state"] == "done"
    assert database.exists()
    path = f"/v1/jobs/{first_job['id']}"
    assert wait_until(lambda: server.client.get(path).status_code == 404, 40)
    assert time.time() >= _seconds(first_job["expires"])
    assert server.client.get(f"{path}/result").status_code == 404


def _seconds(when: str) -> float:
    return datetime.datetime.fromisoformat(when).timestamp()


def test_jobs_are_done_after_a_kill(
    server: Server,
    known_models: Path,
    home: Path,
    database: Path,
    nifti_bytes: Any,
    phantom: Any,
    scan_of: Callable[[int], bytes],
) -> None:
    """One that runs, one that waits and one that is done, on the same database."""
    slow, quick = nifti_bytes(phantom.image, phantom.affine), scan_of(35)
    done = submit(server, quick, "done").json()["id"]
    assert ended(server, done)["state"] == "done"
    # what it is at cannot come to its end
    os.kill(process_of(server.pid, "preprocessing"), signal.SIGSTOP)
    runs = submit(server, slow, "runs", preprocessing="stripped").json()["id"]
    waits = submit(server, quick, "waits").json()["id"]
    assert wait_until(
        lambda: server.client.get(f"/v1/jobs/{runs}").json()["state"] == "running", 30
    )
    with Client(server.url) as client, pytest.raises(JobConflict):
        client.job_answer(runs, wait=False)
    kill(server)
    assert not running({server.pid})
    with serving(known_models, home, JOBS=f"sqlite:///{database}") as second:
        assert submit(second, quick, "done").json()["id"] == done
        assert submit(second, slow, "runs", preprocessing="stripped").json()["id"] == runs
        for id in (done, runs, waits):
            assert ended(second, id)["state"] == "done"
        assert second.client.get(f"/v1/jobs/{runs}").json()["turns"] == 2
        for id, scan, preprocessing in ((waits, quick, "none"), (runs, slow, "stripped")):
            labels = second.client.get(f"/v1/jobs/{id}/result", headers=GZIP).content
            direct = second.parcellation(scan, "application/gzip", preprocessing=preprocessing)
            assert direct.status_code == 200
            assert labels == direct.content
