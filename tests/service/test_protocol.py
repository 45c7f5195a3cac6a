"""Stock clients of the Open Inference Protocol get what the form gets."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException

from tests.service.conftest import standing_still
from tests.service.test_service import PREPARING_S, RUNNER, batches_and_scans

pytestmark = [pytest.mark.slow, pytest.mark.alone]

MEETINGS = 5
"""The first of two may be let in before the other is read."""
HTTP_STATUS = {"INVALID_ARGUMENT": ("400", "422"), "NOT_FOUND": ("404",)}


def scan_input(module: Any, content: bytes) -> Any:
    tensor = module.InferInput("scan", [1], "BYTES")
    tensor.set_data_from_numpy(np.array([content], dtype=np.object_))
    return tensor


def none(client: Any, module: Any, content: bytes, **options: Any) -> Any:
    parameters = {"preprocessing": "none"}
    return client.infer("regions", [scan_input(module, content)], parameters=parameters, **options)


def test_the_server_and_its_model_are_ready_and_described(grpc: Any, http: Any) -> None:
    for client in (grpc, http):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("regions")
    listed = grpc.get_model_repository_index().models
    assert [model.name for model in listed] == ["anomaly", "regions"]
    assert {(model.version, model.state) for model in listed} == {("0.0.1", "READY")}
    described = http.get_model_metadata("regions")
    assert {tensor["name"] for tensor in described["inputs"]} == {"scan", "image"}
    assert {tensor.name for tensor in grpc.get_model_metadata("regions").outputs} == {
        tensor["name"] for tensor in described["outputs"]
    }


def test_both_transports_give_the_forms_labels(
    server: Any, grpc: Any, http: Any, scan_of: Any, known_labels: Any
) -> None:
    scan = scan_of(71)
    form = server.predict(scan).content
    for client, module in ((grpc, triton_grpc), (http, triton_http)):
        answer = none(client, module, scan)
        assert np.array_equal(answer.as_numpy("labels"), known_labels(71))
        assert bytes(answer.as_numpy("dseg")[0]) == form
        affine = nib.Nifti1Image.from_bytes(gzip.decompress(scan)).affine
        assert np.array_equal(answer.as_numpy("affine"), affine)
        run = json.loads(bytes(answer.as_numpy("run")[0]))
        assert run["model"]["name"] == "regions"
        voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
        counts = np.bincount(known_labels(71).ravel(), minlength=117)[1:]
        np.testing.assert_allclose(answer.as_numpy("volumes_mm3"), counts * voxel_mm3, rtol=1e-6)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_request_that_the_client_compressed_is_answered_as_the_bare_one(
    grpc: Any, http: Any, scan_of: Any, known_labels: Any, algorithm: str
) -> None:
    for client, module, option in (
        (grpc, triton_grpc, "compression_algorithm"),
        (http, triton_http, "request_compression_algorithm"),
    ):
        answer = none(client, module, scan_of(71), **{option: algorithm})
        assert np.array_equal(answer.as_numpy("labels"), known_labels(71))


def test_a_misspelt_parameter_is_refused_over_both_transports(
    grpc: Any, http: Any, scan_of: Any
) -> None:
    for client, module in ((grpc, triton_grpc), (http, triton_http)):
        tensor, parameters = scan_input(module, scan_of(71)), {"preprocesing": "none"}
        with pytest.raises(InferenceServerException, match="Did you mean `preprocessing`"):
            client.infer("regions", [tensor], parameters=parameters)


def test_images_on_the_network_grid_come_back_in_their_order(
    grpc: Any, http: Any, known_labels: Any
) -> None:
    labels = np.stack([known_labels(72), known_labels(73)])
    image = (labels / np.float32(116)).astype(np.float32)[:, None]
    for client, module in ((grpc, triton_grpc), (http, triton_http)):
        tensor = module.InferInput("image", list(image.shape), "FP32")
        tensor.set_data_from_numpy(image)
        answer = client.infer("regions", [tensor])
        assert np.array_equal(answer.as_numpy("labels"), labels)
        counted = answer.as_numpy("voxels")
        assert counted.shape == (2, 116)
        assert counted[1, 4] == (labels[1] == 5).sum()


def test_only_what_is_asked_for_comes_back(grpc: Any, scan_of: Any) -> None:
    asked = [triton_grpc.InferRequestedOutput("volumes_mm3")]
    answer = none(grpc, triton_grpc, scan_of(74), outputs=asked).get_response()
    assert [output.name for output in answer.outputs] == ["volumes_mm3"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"content": b"no scan at all" * 40}, "INVALID_ARGUMENT"),
        ({"model": "grand"}, "NOT_FOUND"),
        ({"version": "9"}, "NOT_FOUND"),
        ({"parameters": {"preprocessing": "some"}}, "INVALID_ARGUMENT"),
    ],
)
def test_errors_have_the_code_of_their_kind(
    grpc: Any, http: Any, scan_of: Any, change: dict[str, Any], status: str
) -> None:
    for client, module, code in (
        (grpc, triton_grpc, (f"StatusCode.{status}",)),
        (http, triton_http, HTTP_STATUS[status]),
    ):
        with pytest.raises(InferenceServerException) as caught:
            client.infer(
                change.get("model", "regions"),
                [scan_input(module, change.get("content", scan_of(75)))],
                model_version=change.get("version", ""),
                parameters=change.get("parameters", {"preprocessing": "none"}),
            )
        assert caught.value.status() in code
        assert "expected" in caught.value.message()


def test_grpc_and_http_meet_in_one_batch(
    server: Any, grpc: Any, scan_of: Any, known_labels: Any
) -> None:
    """One of each waits for a network that takes nothing in: one inference answers both."""
    scans = {"grpc": scan_of(80), "http": scan_of(81)}
    meetings = []
    for _ in range(MEETINGS):
        batches_before, scans_before = batches_and_scans(server)
        with ThreadPoolExecutor(2) as callers:
            with standing_still(server.pid, RUNNER):
                over_grpc = callers.submit(none, grpc, triton_grpc, scans["grpc"])
                over_http = callers.submit(server.predict, scans["http"])
                wait([over_grpc, over_http], timeout=PREPARING_S)
                assert not over_grpc.done()
                assert not over_http.done()
            assert np.array_equal(over_grpc.result().as_numpy("labels"), known_labels(80))
            content = gzip.decompress(over_http.result().content)
        labels = np.asarray(nib.Nifti1Image.from_bytes(content).dataobj)
        assert np.array_equal(labels, known_labels(81))
        batches, found = batches_and_scans(server)
        meetings.append((batches - batches_before, found - scans_before))
        if meetings[-1] == (1, 2):
            break
    assert meetings[-1] == (1, 2), meetings
