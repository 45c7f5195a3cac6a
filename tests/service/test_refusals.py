"""What the running service refuses, and what its log keeps to itself."""

from __future__ import annotations

import gzip
import socket
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import nibabel as nib
import numpy as np
import pytest

from tests.malformed_files.process import memory_bytes, reset_peak
from tests.service.conftest import process_of

NONE = {"preprocessing": "none"}

pytestmark = [pytest.mark.slow, pytest.mark.alone]


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


def claiming_18_gb() -> bytes:
    """377 bytes: a header for 1320 voxels along each axis in float64, and 25 bytes behind it."""
    header = nib.Nifti1Header()
    header["dim"] = [3, 1320, 1320, 1320, 1, 1, 1, 1]
    header["datatype"], header["bitpix"], header["vox_offset"] = 64, 64, 352
    header.set_sform(np.eye(4), code=1)
    return bytes(header.binaryblock) + bytes(377 - 348)


NOISE = np.random.default_rng(1).random((40, 40, 40)).astype(np.float32)

BAD: dict[str, tuple[Any, str | None]] = {
    "text": (lambda _: b"this is no scan\n" * 50, "UnknownFormat"),
    "empty": (lambda _: b"", None),
    "gzip cut short": (lambda nifti: nifti(NOISE)[:-20], "CorruptCompression"),
    "all zero": (lambda nifti: nifti(NOISE * 0), "EmptyScan"),
    "another grid": (lambda nifti: nifti(NOISE), "NotOnNetworkGrid"),
    "18 GB claimed": (lambda _: claiming_18_gb(), None),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_the_callers_fault_on_both_routes(
    server: Any, nifti_bytes: Any, name: str
) -> None:
    make, kind = BAD[name]
    content = make(nifti_bytes)
    for answer in (server.predict(content), server.parcellation(content, **NONE)):
        error = refused(answer, 400, 413, 422)
        assert kind in (None, error["type"])


def test_bad_options_a_missing_file_and_other_paths_and_methods_are_refused(
    server: Any, scan_of: Any
) -> None:
    scan = scan_of(51)
    assert "regions" in refused(server.predict(scan, "model=grand"), 404)["message"]
    assert "stripped" in refused(server.predict(scan, "preprocessing=some"), 400)["message"]
    assert "network" in refused(server.parcellation(scan, space="outer"), 400)["message"]
    assert refused(server.parcellation(scan, model="grand", **NONE), 404)["type"] == "ModelNotFound"
    for path in ("/predict/", "/v1/parcellation"):
        other = server.client.post(path, files={"other": ("scan", b"x")})
        assert "file" in refused(other, 400)["message"]
        refused(server.client.post(path), 400, 415, 422)
    assert refused(server.client.get("/nothing"), 404)["type"] == "NotFound"
    refused(server.client.get("/predict/"), 404, 405)


def test_options_in_the_wrong_place_or_misspelt_are_refused(server: Any, scan_of: Any) -> None:
    """Each of them was dropped once, and the default ran."""
    scan = {"file": ("scan", scan_of(51))}
    cases: list[tuple[str, dict[str, str]]] = [
        ("/v1/parcellation?preprocessing=none", {}),
        ("/v1/parcellation", {"preprocesing": "none"}),
        ("/v1/jobs", {"modle": "compact"}),
        ("/v1/anomaly", {"preprocessing": "none"}),
        ("/predict/?preproccessing=true", {}),
        ("/predict/", {"preprocessing": "true"}),
    ]
    for path, fields in cases:
        message = refused(server.client.post(path, files=scan, data=fields), 400)["message"]
        assert "expected no " in message
    message = refused(server.parcellation(scan_of(51), preprocessing="true"), 400)["message"]
    assert "stripped" in message


def test_predict_without_its_slash_is_sent_on(server: Any, scan_of: Any) -> None:
    scan = {"file": ("scan", scan_of(51))}
    path = "/predict?preprocessing=false&model=regions"
    assert server.client.post(path, files=scan).status_code == 308
    answer = server.client.post(path, files=scan, follow_redirects=True)
    assert answer.content == server.predict(scan_of(51)).content


@pytest.mark.parametrize(
    ("coding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_compressed_form_is_answered_as_the_bare_one(
    server: Any, scan_of: Any, coding: str, compress: Any
) -> None:
    path = "/predict/?preprocessing=false&model=regions"
    bare = server.client.build_request("POST", path, files={"file": ("scan", scan_of(51))})
    content = bare.read()

    def post(body: bytes, coding: str) -> Any:
        headers = {"content-type": bare.headers["content-type"], "content-encoding": coding}
        return server.client.post(path, content=body, headers=headers)

    assert post(compress(content), coding).content == server.predict(scan_of(51)).content
    error = refused(post(compress(content)[:-9], coding), 400)
    assert error["type"] == "CorruptContentEncoding"
    assert refused(post(content, "br"), 415)["type"] == "UnsupportedContentEncoding"
    bomb = content.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" + bytes(64 << 20)
    error = refused(post(compress(bomb), coding), 413)
    assert error["type"] == "RequestTooLarge"


def test_a_body_over_the_limit_is_refused(server: Any) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="scan"\r\n\r\n'
        for _ in range(40):
            yield bytes(1 << 20)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = server.client.post("/predict/", content=chunks(), headers=headers)
    assert refused(answer, 413)["type"] == "RequestTooLarge"


def test_a_message_that_grows_is_refused_and_never_whole(server: Any) -> None:
    """300 MB of zeros are 300 kB on their way."""
    front = process_of(server.pid, "neurobento")
    reset_peak(front)
    before = memory_bytes("VmHWM", front)
    with grpc.insecure_channel(server.grpc) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            infer(bytes(300 << 20), compression=grpc.Compression.Gzip, timeout=60)
    code = caught.value.code()  # type: ignore[attr-defined]
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert memory_bytes("VmHWM", front) - before < 96 << 20


@pytest.mark.parametrize("path", ["/predict/", "/v1/parcellation", "/v1/anomaly"])
def test_an_address_in_the_file_field_is_not_fetched(server: Any, path: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bait:
        address = f"http://127.0.0.1:{bait.getsockname()[1]}/scan.nii.gz"
        answer = server.client.post(path, files={"file": (None, address)})
        refused(answer, 400)
        answer = server.client.post(path, json={"file": address})
        refused(answer, 400, 415, 422)
        bait.settimeout(0.5)
        with pytest.raises(TimeoutError):
            bait.accept()


@pytest.mark.parametrize("path", ["/predict/", "/v1/parcellation", "/v1/models", "/v2"])
def test_pages_of_other_sites_are_not_let_in(server: Any, path: str) -> None:
    """Neither what they may ask nor what they may read is answered; see CORS."""
    origin = {"origin": "https://elsewhere.example"}
    asked = {**origin, "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "content-type"
    for answer in (
        server.client.options(path, headers=asked),
        server.client.get(path, headers=origin),
        server.client.post(path, headers=origin, files={"file": ("scan", b"no scan")}),
    ):
        assert [name for name in answer.headers if name.startswith("access-control-")] == []


def test_an_answer_with_labels_is_not_for_pages_of_other_sites(server: Any, scan_of: Any) -> None:
    files = {"file": ("scan", scan_of(55))}
    origin = {"origin": "https://elsewhere.example"}
    answer = server.client.post("/predict/?preprocessing=false", files=files, headers=origin)
    assert answer.status_code == 200, answer.text
    assert [name for name in answer.headers if name.startswith("access-control-")] == []


def test_the_log_knows_requests_by_their_id_alone(
    server: Any, known_labels: Any, nifti_bytes: Any
) -> None:
    """An answered scan, one that preprocessing refuses, and one that the middleware refuses."""
    image = (known_labels(54) / np.float32(116)).astype(np.float32)
    for array in (image, image[:40], image * 0):
        scan = nifti_bytes(array, descrip=b"PATIENT_MARKER", db_name=b"OTHER_MARKER")
        files = {"file": ("JANE_DOE_1970.nii.gz", scan)}
        for path in ("/predict/?preprocessing=false", "/v1/parcellation"):
            server.client.post(path, files=files, data=NONE, headers={"x-request-id": "seen-1"})
    log = server.log.read_text()
    assert '"protocol": "http"' in log
    assert not [w for w in ("JANE_DOE", "PATIENT_MARKER", "OTHER_MARKER") if w in log]
    assert "request seen-1: 422 EmptyScan" in log
