"""Slices sent to the running service: each way in gives what the library gives, or says why not."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from PIL import Image
from pydicom.encaps import encapsulate
from tritonclient.utils import InferenceServerException

from neurobento.anomaly.detector import AnomalyDetector, SliceAnomaly
from neurobento.client import Client
from neurobento.imaging.slices.reader import read_slice
from tests.neurobento.anomaly.known_anomaly import THRESHOLD, KnownBackend
from tests.neurobento.imaging.slices.files import RLE, chunk, encoded, grey, grey_png, huge_png
from tests.neurobento.imaging.slices.files import dicom as dicom_bytes
from tests.service.conftest import standing_still
from tests.service.test_refusals import refused
from tests.service.test_service import batches_and_scans

RUNNER = "runner-anomaly"
SHAPE = (150, 120)
MARK = "JANE_DOE_1970"
CLOSE = 1e-5
"""Of sums of 16,384 values in float32, in another order than NumPy's."""

FITTING_S = 1.5
"""Fitting takes a slice milliseconds."""

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def head(seed: int = 0) -> Any:
    """A bright ellipse with a dark part, other ones for each seed, (150, 120) uint8."""
    y, x = np.indices(SHAPE) / np.array(SHAPE)[:, None, None]
    inside = ((y - 0.5) / 0.42) ** 2 + ((x - 0.5) / 0.4) ** 2 < 1
    dark = (y - 0.4) ** 2 + (x - 0.35) ** 2 < (0.05 + 0.02 * seed) ** 2
    return (inside * np.where(dark, 90, 160 + 80 * y)).astype(np.uint8)


def picture(seed: int = 0) -> bytes:
    return grey_png(head(seed))


def nifti(pixels: Any) -> bytes:
    """The slice as one of a scan: rows run up."""
    image = nib.Nifti1Image(pixels[::-1].T[..., None].astype(np.int16), np.diag([1.0, 1, 4, 1]))
    image.header["descrip"] = MARK.encode()
    return bytes(image.to_bytes())


def dicom(pixels: Any, **fields: Any) -> bytes:
    """A DICOM file that names somebody."""
    return dicom_bytes(pixels, PatientName=MARK, **fields)


FILES: dict[str, Callable[[Any], bytes]] = {
    "png": grey_png,
    "jpeg": lambda pixels: encoded(Image.fromarray(pixels), "JPEG"),
    "dicom": dicom,
    "nifti": nifti,
}


@pytest.fixture
def truth(tmp_path: Path) -> Callable[[bytes], SliceAnomaly]:
    """What the library finds in a slice's file."""

    def find(content: bytes) -> SliceAnomaly:
        file = tmp_path / "slice"
        file.write_bytes(content)
        return AnomalyDetector(KnownBackend()).detect(read_slice(file))

    return find


@pytest.fixture
def stock(grpc: Any, http: Any) -> list[tuple[Any, Any]]:
    """NVIDIA's clients of both transports, each with its module."""
    return [(grpc, triton_grpc), (http, triton_http)]


def infer(client: Any, module: Any, name: str, values: Any, **options: Any) -> Any:
    """Ask with one tensor; bytes are a file's."""
    if isinstance(values, bytes):
        values = np.array([values], dtype=np.object_)
    kind = "BYTES" if values.dtype == np.object_ else "FP32"
    tensor = module.InferInput(name, list(values.shape), kind)
    tensor.set_data_from_numpy(values)
    return client.infer(options.pop("model", "anomaly"), [tensor], **options)


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_each_kind_is_scored_as_in_process(server: Any, truth: Any, kind: str) -> None:
    content = FILES[kind](head(3))
    answer = server.anomaly(content)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    facts, expected = answer.json(), truth(content)
    assert facts["score"] == pytest.approx(expected.score, abs=CLOSE)
    assert facts["score"] == pytest.approx(float(expected.fitted.image.mean()), abs=CLOSE)
    assert (facts["threshold"], facts["anomalous"]) == (THRESHOLD, expected.is_anomalous)
    assert facts["native_shape"] == list(SHAPE)
    assert facts["model"]["name"] == "anomaly"
    assert "not a diagnosis" in facts["note"]
    assert {"decode", "fit", "infer", "restore"} <= facts["seconds"].keys()
    assert facts["request_id"] == answer.headers["x-request-id"]


def test_the_zip_holds_the_same_facts_and_the_picture(server: Any) -> None:
    alone = server.anomaly(picture()).json()
    zipped = server.anomaly(picture(), accept="application/zip")
    assert zipped.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(zipped.content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {"scan_anomaly.json", "scan_heatmap.png", "scan_overlay.png"}
    facts = json.loads(files["scan_anomaly.json"])
    for changing in ("seconds", "request_id"):
        alone.pop(changing)
        facts.pop(changing, None)
    assert facts == alone
    overlay = server.anomaly(picture(), accept="image/png")
    assert overlay.headers["content-type"] == "image/png"
    assert overlay.content == files["scan_overlay.png"]


def test_the_heat_map_is_the_error_map_on_the_slices_own_pixels(
    server: Any, truth: Any, stock: Any
) -> None:
    content = picture(5)
    expected = truth(content)
    # the known model's error map is the image: the head is back where it was
    inside = np.corrcoef(expected.heat_map.ravel(), head(5).ravel())[0, 1]
    assert inside > 0.99
    for client, module in stock:
        answer = infer(client, module, "slice", content)
        heat_map = answer.as_numpy("heat_map")
        assert heat_map.shape == SHAPE
        assert np.allclose(heat_map, expected.heat_map, atol=CLOSE)
        assert np.allclose(answer.as_numpy("error_map")[0], expected.fitted.image, atol=CLOSE)
        assert answer.as_numpy("score") == pytest.approx([expected.score], abs=CLOSE)
        run = json.loads(bytes(answer.as_numpy("run")[0]))
        assert run["score"] == pytest.approx(server.anomaly(content).json()["score"], abs=CLOSE)
        overlay = server.anomaly(content, accept="image/png").content
        assert bytes(answer.as_numpy("overlay")[0]) == overlay


@pytest.mark.parametrize("count", [1, 3, 40])
def test_images_on_the_grid_come_back_in_their_order(stock: Any, count: int) -> None:
    """As many as make more than one batch, too."""
    images = np.random.default_rng(count).random((count, 1, 128, 128), dtype=np.float32)
    images *= np.linspace(0.1, 1, count, dtype=np.float32)[:, None, None, None]
    for client, module in stock:
        # in JSON, forty take seconds
        options = {} if module is triton_grpc else {"outputs": binary("score", "error_map")}
        answer = infer(client, module, "image", images, **options)
        assert answer.as_numpy("score") == pytest.approx(images.mean(axis=(1, 2, 3)), abs=CLOSE)
        assert np.allclose(answer.as_numpy("error_map"), images[:, 0], atol=CLOSE)


def binary(*names: str) -> list[Any]:
    return [triton_http.InferRequestedOutput(name, binary_data=True) for name in names]


def test_the_model_is_described_as_it_answers(grpc: Any, http: Any) -> None:
    described = http.get_model_metadata("anomaly")
    assert {tensor["name"] for tensor in described["inputs"]} == {"slice", "image"}
    names = {tensor["name"] for tensor in described["outputs"]}
    assert names == {tensor.name for tensor in grpc.get_model_metadata("anomaly").outputs}
    assert names == {"score", "error_map", "heat_map", "overlay", "run"}
    assert grpc.is_model_ready("anomaly")


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_our_client_gets_the_same_files_either_way(server: Any, truth: Any, scheme: str) -> None:
    expected = truth(picture(2))
    url = server.url if scheme == "http" else f"grpc://{server.grpc}"
    with Client(url, timeout_s=30) as client:
        found = client.anomaly(picture(2))
    assert found.score == pytest.approx(expected.score, abs=CLOSE)
    assert (found.threshold, found.is_anomalous) == (THRESHOLD, expected.is_anomalous)
    with zipfile.ZipFile(io.BytesIO(server.anomaly(picture(2), "application/zip").content)) as of:
        for name in ("heatmap.png", "overlay.png"):
            assert found.files[name] == of.read(f"scan_{name}")
    assert set(found.files) == {"anomaly.json", "heatmap.png", "overlay.png"}


def test_callers_at_the_same_time_meet_in_a_batch_and_each_gets_its_own(
    server: Any, grpc: Any, truth: Any
) -> None:
    pictures = {seed: picture(seed) for seed in range(8)}
    # the runner closes connections that were idle for five seconds, while it stands still too
    assert server.anomaly(picture()).status_code == 200
    batches_before, before = batches_and_scans(server, "detect")
    with ThreadPoolExecutor(len(pictures) + 1) as callers:
        with standing_still(server.pid, RUNNER):
            asked = {seed: callers.submit(server.anomaly, one) for seed, one in pictures.items()}
            other = callers.submit(infer, grpc, triton_grpc, "slice", picture(9))
            wait([*asked.values(), other], timeout=FITTING_S)
            assert not any(each.done() for each in (*asked.values(), other))
        scores = {seed: answer.result().json()["score"] for seed, answer in asked.items()}
        over_grpc = other.result().as_numpy("score")
    assert len({round(score, 6) for score in scores.values()}) == len(pictures)
    for seed, score in scores.items():
        assert score == pytest.approx(truth(pictures[seed]).score, abs=CLOSE)
    assert over_grpc == pytest.approx([truth(picture(9)).score], abs=CLOSE)
    batches, found = batches_and_scans(server, "detect")
    assert found - before == len(pictures) + 1
    assert 0 < batches - batches_before < len(pictures)


def test_at_a_deadline_the_caller_is_told(server: Any, truth: Any) -> None:
    files = {"file": ("slice", picture())}
    with standing_still(server.pid, RUNNER):
        answer = server.client.post("/v1/anomaly", files=files, headers={"x-request-timeout": "1"})
    assert refused(answer, 504)["type"] == "DeadlineExceeded"
    assert server.anomaly(picture()).json()["score"] == pytest.approx(
        truth(picture()).score, abs=CLOSE
    )


def text_png() -> bytes:
    """A picture with 100 MB of text, packed."""
    return grey_png(grey(), 8, chunk(b"zTXt", b"JANE\0\0" + zlib.compress(bytes(100 << 20))))


def run_length_dicom() -> bytes:
    """20 MB of runs that unpack to 1.3 GB."""
    runs = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\x01" * (10 << 20)
    return dicom(grey(), syntax=RLE, content=encapsulate([runs]))


def whole_scan(depth: int = 5) -> bytes:
    array = np.random.default_rng(0).random((40, 40, depth)).astype(np.float32)
    return bytes(nib.Nifti1Image(array, np.eye(4)).to_bytes())


BAD: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "a huge header": (lambda: huge_png(60_000, 60_000, whole=False), 413, "TooManyVoxels"),
    "many pixels": (lambda: huge_png(12_000, 12_000, whole=True), 413, "TooManyVoxels"),
    "a bomb of text": (text_png, 422, "TruncatedScan"),
    "a bomb of runs": (run_length_dicom, 413, "SuspiciousCompression"),
    "text": (lambda: b"this is no slice\n" * 50, 422, "UnknownFormat"),
    "nothing": (lambda: b"", 422, "UnknownFormat"),
    "half a picture": (lambda: picture()[:400], 422, "TruncatedScan"),
    "a whole scan": (whole_scan, 422, "UnsupportedDimensions"),
    "black": (lambda: grey_png(head() * 0), 422, "EmptyScan"),
    "grey": (lambda: grey_png(head() * 0 + 7), 422, "ConstantScan"),
    "too small": (lambda: grey_png(head()[:20, :20]), 422, "UnsupportedDimensions"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file_is_the_callers_fault_either_way(server: Any, grpc: Any, what: str) -> None:
    make, status, kind = BAD[what]
    content = make()
    assert refused(server.anomaly(content), status)["type"] == kind
    with pytest.raises(InferenceServerException) as caught:
        infer(grpc, triton_grpc, "slice", content)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_body_over_the_limit_is_refused(server: Any) -> None:
    answer = server.anomaly(bytes(33 << 20))
    assert refused(answer, 413)["type"] == "RequestTooLarge"


def test_a_model_for_another_task_is_not_found_and_those_for_this_one_are_named(
    server: Any, scan_of: Any
) -> None:
    for answer, right, wrong in (
        (server.anomaly(picture(), model="regions"), "one of anomaly", "regions"),
        (server.anomaly(picture(), model="grand"), "one of anomaly", "regions"),
        (server.parcellation(scan_of(1), model="anomaly"), "one of regions", "anomaly"),
        (server.predict(scan_of(1), "model=anomaly"), "one of regions", "anomaly"),
    ):
        error = refused(answer, 404)
        assert error["type"] == "ModelNotFound"
        assert right in error["message"]
        assert wrong not in error["message"]


REFUSED: dict[str, tuple[str, str, Any, str]] = {
    "a scan": ("anomaly", "scan", b"a scan", "`slice` or `image`"),
    "a slice for parcellation": ("regions", "slice", b"a slice", "`scan` or `image`"),
    "another grid": ("anomaly", "image", np.zeros((1, 1, 64, 64), np.float32), "128, 128"),
    "a scan's grid": ("anomaly", "image", np.zeros((1, 1, 9, 9, 9), np.float32), "128, 128"),
    "other values": ("anomaly", "image", np.full((1, 1, 128, 128), 2, np.float32), "0 to 1"),
    "too many": ("anomaly", "image", np.zeros((65, 1, 128, 128), np.float32), "at most 64"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_tensors_that_the_model_does_not_take_are_refused(stock: Any, what: str) -> None:
    model, name, values, words = REFUSED[what]
    for client, module in stock:
        with pytest.raises(InferenceServerException, match=words) as caught:
            infer(client, module, name, values, model=model)
        assert caught.value.status() in ("StatusCode.INVALID_ARGUMENT", "400", "422")


def test_every_stage_is_told_and_nobody_named(server: Any) -> None:
    """Of slices that are answered, and of ones that are refused."""
    for content in (dicom(head()), nifti(head()), dicom(head() * 0), nifti(head())[:400]):
        files = {"file": (f"{MARK}.dcm", content)}
        server.client.post("/v1/anomaly", files=files, headers={"x-request-id": "slice-1"})
    lines = server.client.get("/metrics").text.splitlines()
    told = [x for x in lines if x.startswith("neurobento_stage_seconds_count")]
    for stage in ("decode", "fit", "queue", "network", "infer", "restore", "encode"):
        assert any(f'"{stage}"' in line and 'model="anomaly"' in line for line in told), stage
    asked = [x for x in lines if x.startswith("neurobento_request_seconds_count")]
    assert any('model="anomaly"' in line and 'preprocessing="slice"' in line for line in asked)
    log = server.log.read_text(errors="replace")
    assert "request slice-1: 422 EmptyScan" in log
    assert '"preprocessing": "slice"' in log
    assert MARK not in log + "\n".join(lines)
