"""The peer serves as report A's section 4.2 says: POST /predict/, one request after another."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path
from typing import Any

import httpx
import nibabel as nib
import numpy as np
import pytest

from benchmarks.peers import report_a
from benchmarks.peers.report_a import application, main
from neurobento.spec import REPORT_A_VERSION


@pytest.fixture
def image(known_labels: Any, write_nifti: Any) -> bytes:
    """A scan on the network grid."""
    return write_nifti(known_labels(3) / np.float32(116), np.eye(4)).read_bytes()


def post(content: bytes, **query: str) -> httpx.Response:
    """The answer of the peer whose network rounds to labels."""

    def predict(image: Any) -> Any:
        return np.rint(image * 116).astype(np.uint8)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(application("unet", predict))
        async with httpx.AsyncClient(transport=transport, base_url="http://peer.test") as client:
            return await client.post("/predict/", files={"file": ("scan", content)}, params=query)

    return asyncio.run(ask())


def test_labels_come_back_as_compressed_nifti(image: bytes, known_labels: Any) -> None:
    answer = post(image, preprocessing="false", model="unet")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/gzip")
    labels = nib.Nifti1Image.from_bytes(gzip.decompress(answer.content))
    np.testing.assert_array_equal(np.asarray(labels.dataobj), known_labels(3))
    assert labels.get_data_dtype() == np.uint8


@pytest.mark.parametrize(("asked", "preprocessing"), [("true", "full"), ("false", "none")])
def test_the_flag_means_all_or_no_preprocessing(
    asked: str, preprocessing: str, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = []
    real = report_a.preprocess

    def noted(scan: Any, preprocessing: Any, *, version: int) -> Any:
        assert version == REPORT_A_VERSION
        levels.append(preprocessing)
        return real(scan, "none")

    monkeypatch.setattr(report_a, "preprocess", noted)
    assert post(image, preprocessing=asked).status_code == 200
    assert levels == [preprocessing]


def test_another_model_is_not_there_and_what_is_no_scan_is_refused_without_its_path(
    image: bytes,
) -> None:
    assert post(image, model="highresnet").status_code == 404
    answer = post(b"no scan")
    assert answer.status_code == 422
    assert "report-a-" not in answer.text


def test_nothing_of_a_request_stays_behind(
    image: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_a.tempfile, "tempdir", str(tmp_path))
    for content in (image, b"no scan"):
        post(content)
    assert list(tmp_path.glob("report-a-*")) == []


def test_it_is_bound_to_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bound: dict[str, Any] = {}
    monkeypatch.setattr(report_a, "pytorch_predictor", lambda *_: None)
    monkeypatch.setattr("uvicorn.run", lambda _, **options: bound.update(options))
    main(["--model", "unet", "--port", "8123"])
    assert (bound["host"], bound["port"]) == ("127.0.0.1", 8123)
