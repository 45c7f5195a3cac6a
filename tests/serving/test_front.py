"""The front with fake services behind it."""

from __future__ import annotations

import gzip
import io
import json
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from bentoml.exceptions import BentoMLException

from neurobento.errors import ConfigError, EmptyScan, ModelNotFound
from neurobento.parcellation import prepare
from neurobento.scan import read_scan
from serving.front import Front, Options, answered
from serving.wire import pack_error, pack_prepared

NETWORK = (91, 122, 123)
MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
ZIPPED = ["scan_dseg.nii.gz", "scan_dseg.tsv", "scan_overlay.png", "scan_run.json"]
FACTS = {"model": {"name": "compact"}, "backend": {"name": "fake"}}


class FakePreprocessing:
    """Prepares in process, or answers with an error."""

    def __init__(self, error: Any = None) -> None:
        self.error = error
        self.asked: list[tuple[str, str]] = []

    def prepare(self, path: str, level: str) -> dict[str, Any]:
        self.asked.append((path, level))
        if self.error is not None:
            return pack_error(self.error)
        return pack_prepared(prepare(read_scan(Path(path)), level))  # type: ignore[arg-type]


class FakeRunner:
    """Knows labels by intensity, as `known_model` does; `offset` tells two of them apart."""

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def segment(self, images: Any) -> Any:
        return ((np.rint(images[:, 0] * 116) + self.offset) % 117).astype(np.uint8)

    def describe(self) -> dict[str, Any]:
        return FACTS


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(21)


@pytest.fixture
def scan(write_nifti: Callable[..., Path], labels: Any) -> Path:
    return write_nifti((labels / np.float32(116)).astype(np.float32), MNI, "JANE_DOE.nii.gz")


@pytest.fixture
def front() -> Front:
    return Front(FakePreprocessing(), {"compact": FakeRunner(), "next": FakeRunner(1)})


def context() -> Any:
    """As much of `bentoml.Context` as the front uses."""
    request = SimpleNamespace(state=SimpleNamespace(request_id="r-1"))
    return SimpleNamespace(request=request, response=SimpleNamespace(status_code=200, metadata={}))


def read(content: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


@pytest.mark.parametrize(
    ("query", "level"),
    [
        ({}, "none"),
        ({"preprocessing": "true"}, "full"),
        ({"preprocessing": "false"}, "none"),
        ({"preprocessing": "True"}, "full"),
        ({"preprocessing": "FALSE"}, "none"),
        ({"preprocessing": "stripped"}, "stripped"),
        ({"preprocessing": "full"}, "full"),
    ],
)
def test_report_as_booleans_are_levels(query: dict[str, str], level: str) -> None:
    options = Options.of_report(query, "compact")
    assert (options.level, options.model, options.space) == (level, "compact", "native")


def test_report_as_model_and_our_space_are_taken() -> None:
    options = Options.of_report({"model": "unet", "space": "network"}, "compact")
    assert (options.model, options.space) == ("unet", "network")


@pytest.mark.parametrize("query", [{"preprocessing": "yes"}, {"preprocessing": ""}, {"space": "x"}])
def test_other_options_are_refused_and_the_known_ones_named(query: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Options.of_report(query, "compact")
    assert "full, stripped, none" in str(caught.value) or "native, network" in str(caught.value)


def test_a_long_option_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        Options("compact", "JANE_DOE" * 10, "native")
    assert "JANE_DOE" not in str(caught.value)
    assert "80" in caught.value.found


def test_labels_are_a_download_in_native_space(front: Front, scan: Path, labels: Any) -> None:
    answer = front.labels(scan, Options("compact", "none", "native"))
    assert answer.media_type == "application/gzip"
    assert answer.headers["content-disposition"] == 'attachment; filename="scan_dseg.nii.gz"'
    image = read(bytes(answer.body))
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert image.affine == pytest.approx(MNI, abs=1e-5)


def test_the_runner_asked_for_answers(front: Front, scan: Path, labels: Any) -> None:
    answer = front.labels(scan, Options("next", "none", "native"))
    assert np.array_equal(np.asarray(read(bytes(answer.body)).dataobj), (labels + 1) % 117)


def test_the_level_reaches_preprocessing(scan: Path) -> None:
    preprocessing = FakePreprocessing()
    Front(preprocessing, {"compact": FakeRunner()}).labels(
        scan, Options("compact", "none", "native")
    )
    assert preprocessing.asked == [(str(scan), "none")]


def test_network_space_is_the_grid_the_network_saw(phantom: Any, write_nifti: Any) -> None:
    scan = write_nifti(phantom.image, phantom.affine)
    runner = FakeRunner()
    front = Front(FakePreprocessing(), {"compact": runner})
    answer = front.labels(scan, Options("compact", "stripped", "network"))
    image = read(bytes(answer.body))
    assert image.shape == NETWORK
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    inside = np.argwhere(np.asarray(image.dataobj) > 0)
    centre = nib.affines.apply_affine(image.affine, inside.mean(axis=0))
    assert np.linalg.norm(centre) < 5  # the phantom's brain is an ellipsoid about the origin


def test_a_zip_holds_what_the_command_writes(front: Front, scan: Path, labels: Any) -> None:
    answer = front.outputs(scan, Options("compact", "none", "native"))
    assert answer.media_type == "application/zip"
    with zipfile.ZipFile(io.BytesIO(bytes(answer.body))) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [*ZIPPED, "scan_volumes.tsv"]
        assert np.array_equal(np.asarray(read(archive.read(ZIPPED[0])).dataobj), labels)
        run = json.loads(archive.read("scan_run.json"))
    assert run["backend"] == FACTS["backend"]
    assert {"check", "infer", "restore", "measure"} <= run["seconds"].keys()


def test_zip_and_labels_are_the_same_bytes(front: Front, scan: Path) -> None:
    options = Options("compact", "none", "native")
    zipped = zipfile.ZipFile(io.BytesIO(bytes(front.outputs(scan, options).body)))
    assert zipped.read("scan_dseg.nii.gz") == front.labels(scan, options).body


def test_an_unknown_model_is_refused_before_the_scan_is_touched() -> None:
    preprocessing = FakePreprocessing()
    front = Front(preprocessing, {"compact": FakeRunner()})
    with pytest.raises(ModelNotFound, match="one of compact"):
        front.labels(Path("none"), Options("grand", "none", "native"))
    assert preprocessing.asked == []


def test_an_error_of_preprocessing_is_raised_in_front(scan: Path) -> None:
    error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE_DOE")
    front = Front(FakePreprocessing(error), {"compact": FakeRunner()})
    with pytest.raises(EmptyScan) as caught:
        front.labels(scan, Options("compact", "none", "native"))
    assert caught.value.subject is None


def raising(error: Exception) -> Any:
    @answered
    def method(self: Any, *, ctx: Any) -> Any:
        raise error

    return method


def test_an_error_becomes_an_answer_whose_status_the_context_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE_DOE.nii")
    ctx = context()
    with caplog.at_level(logging.INFO, logger="neurobento.serving"):
        answer = raising(error)(None, ctx=ctx)
    assert answer.status_code == ctx.response.status_code == 422
    assert json.loads(answer.body) == {
        "error": {
            "type": "EmptyScan",
            "message": "expected a head; found zero. Look.",
            "request_id": "r-1",
        }
    }
    assert "JANE_DOE" not in caplog.text


@pytest.mark.parametrize("error", [BentoMLException("secret"), ConnectionError("secret")])
def test_a_dependency_that_is_gone_is_503_with_a_time_to_come_back(error: Exception) -> None:
    ctx = context()
    answer = raising(error)(None, ctx=ctx)
    assert answer.status_code == ctx.response.status_code == 503
    assert ctx.response.metadata == {"retry-after": "5"}
    assert b"secret" not in answer.body


def test_what_nobody_expected_is_left_to_the_gate() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())(None, ctx=context())


def test_an_answer_passes_as_it_is() -> None:
    @answered
    def method(self: Any, value: str, *, ctx: Any) -> Any:
        return (value, ctx)

    ctx = context()
    assert method(None, "x", ctx=ctx) == ("x", ctx)
    assert ctx.response.status_code == 200
