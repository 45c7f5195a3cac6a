"""Anomaly requests, with fake services behind their handler."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

from neurobento.anomaly.detector import AnomalyDetector
from neurobento.anomaly.outputs import slice_output_files
from neurobento.errors import (
    ClientGone,
    DeadlineExceeded,
    EmptyScan,
    ModelNotFound,
    NeuroBentoError,
    ServiceBusy,
    ServiceUnavailable,
    SpecMismatch,
)
from neurobento.imaging.slices.reader import read_slice
from neurobento.serving.admission import Admission
from neurobento.serving.http.downloads import JSON, PNG, ZIP
from neurobento.serving.pool.serialisation import pack_error
from neurobento.serving.request import RequestContext
from neurobento.serving.settings import RUN_VARIABLE
from neurobento.serving.tasks.anomaly import handler as handler_module
from neurobento.serving.tasks.anomaly.handler import AnomalyHandler, model_thresholds
from neurobento.serving.tasks.anomaly.responses import choose_media_type
from tests.neurobento.anomaly.known_anomaly import THRESHOLD, KnownBackend, known_spec
from tests.neurobento.imaging.slices.files import grey, grey_png
from tests.neurobento.serving.fakes import FACTS, FakeDetector, FakePreprocessing

LONG_S = 30.0
BATCH = 4


@pytest.fixture(autouse=True)
def admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    return Admission(8, 2, LONG_S)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "JANE_DOE.png"
    path.write_bytes(grey_png(grey()))
    return path


@pytest.fixture
def runner() -> FakeDetector:
    return FakeDetector()


def handler_with(
    admission: Admission, runner: FakeDetector, preprocessing: FakePreprocessing | None = None
) -> AnomalyHandler:
    return AnomalyHandler(
        preprocessing or FakePreprocessing(),
        {"anomaly": runner},
        admission,
        {"anomaly": BATCH},
        {"anomaly": THRESHOLD},
    )


@pytest.fixture
def handler(admission: Admission, runner: FakeDetector) -> AnomalyHandler:
    return handler_with(admission, runner)


def a_request(limit_s: float = LONG_S) -> RequestContext:
    return RequestContext("r-1", "http", limit_s)


def done(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def test_a_slice_is_scored_as_the_library_scores_it(handler: AnomalyHandler, image: Path) -> None:
    expected = AnomalyDetector(KnownBackend()).detect(read_slice(image))
    found = done(handler.detect(image, "anomaly", a_request()))
    assert found.anomaly.score == expected.score
    assert found.anomaly.threshold == expected.threshold == THRESHOLD
    assert np.array_equal(found.anomaly.heat_map, expected.heat_map)
    assert np.array_equal(found.pixels, read_slice(image))
    assert found.facts == FACTS
    assert found.seconds.keys() == {"decode", "fit", "infer", "restore"}


def test_json_and_zip_and_picture_are_what_the_command_writes(
    handler: AnomalyHandler, image: Path
) -> None:
    pixels = read_slice(image)
    expected = AnomalyDetector(KnownBackend()).detect(pixels)
    files = slice_output_files("scan", pixels, expected, FACTS, {"decode": 0.2, "fit": 0.1})
    facts = json.loads(done(handler.response_body(image, "anomaly", JSON, a_request())))
    written = json.loads(files["scan_anomaly.json"])
    assert facts.pop("request_id") == "r-1"
    assert facts.pop("seconds").items() >= written.pop("seconds").items()
    assert facts == written
    assert (
        done(handler.response_body(image, "anomaly", PNG, a_request())) == files["scan_overlay.png"]
    )
    zipped = done(handler.response_body(image, "anomaly", ZIP, a_request()))
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        assert set(archive.namelist()) == set(files)
        assert archive.read("scan_heatmap.png") == files["scan_heatmap.png"]


def test_a_slice_is_sent_to_preprocessing(
    admission: Admission, runner: FakeDetector, image: Path
) -> None:
    preprocessing, call = FakePreprocessing(), a_request()
    done(handler_with(admission, runner, preprocessing).detect(image, "anomaly", call))
    assert preprocessing.requests == [(str(image), "slice", call.ticket)]
    assert (call.model, call.preprocessing) == ("anomaly", "slice")


def test_an_error_of_preprocessing_is_raised_again(
    admission: Admission, runner: FakeDetector, image: Path
) -> None:
    error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE_DOE")
    handler = handler_with(admission, runner, FakePreprocessing(pack_error(error)))
    with pytest.raises(EmptyScan) as caught:
        done(handler.detect(image, "anomaly", a_request()))
    assert caught.value.subject is None
    assert runner.sizes == []


def test_another_model_is_refused_before_the_slice_is_touched(
    admission: Admission, runner: FakeDetector
) -> None:
    preprocessing = FakePreprocessing()
    handler = handler_with(admission, runner, preprocessing)
    for model in ("regions", "", "JANE_DOE"):
        call = a_request()
        with pytest.raises(ModelNotFound, match="for anomaly, one of anomaly;"):
            done(handler.detect(Path("none"), model, call))
        assert call.model == "none asked for"
    assert preprocessing.requests == []
    handler = AnomalyHandler(FakePreprocessing(), {}, admission, {}, {})
    with pytest.raises(ModelNotFound, match="none is served"):
        done(handler.detect(Path("none"), "anomaly", a_request()))


@pytest.mark.parametrize(("how", "error"), [("leaves", ClientGone), ("too late", DeadlineExceeded)])
def test_reading_is_ended_by_its_ticket_with_the_call(
    admission: Admission, runner: FakeDetector, how: str, error: type[NeuroBentoError]
) -> None:
    async def scenario() -> None:
        preprocessing = FakePreprocessing(endless=True)
        handler = handler_with(admission, runner, preprocessing)
        call = a_request(0.1 if how == "too late" else LONG_S)
        waiting = asyncio.ensure_future(handler.detect(Path("none"), "anomaly", call))
        await preprocessing.begun.wait()
        if how == "leaves":
            call.abandon()
        with pytest.raises(error):
            await waiting
        assert preprocessing.ended == [call.ticket]

    done(scenario())


@pytest.mark.parametrize("gone", [ConnectionRefusedError("secret"), TimeoutError("secret")])
def test_a_runner_that_is_gone_is_unavailable_for_a_while(
    handler: AnomalyHandler, runner: FakeDetector, image: Path, gone: Exception
) -> None:
    runner.error = gone
    with pytest.raises(ServiceUnavailable) as caught:
        done(handler.detect(image, "anomaly", a_request()))
    assert caught.value.retry_after_s == 5
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (10, [4, 4, 2])])
def test_images_come_to_a_runner_a_batch_at_a_time_and_leave_in_order(
    handler: AnomalyHandler, runner: FakeDetector, count: int, sizes: list[int]
) -> None:
    images = np.random.default_rng(1).random((count, 1, 128, 128), dtype=np.float32)
    scores, maps = done(handler.score(images, "anomaly", a_request()))
    assert np.array_equal(scores, images.mean(axis=(1, 2, 3)))
    assert np.array_equal(maps, images[:, 0])
    assert runner.sizes == sizes


def test_a_slice_waits_for_slices_and_not_for_heads(
    admission: Admission, runner: FakeDetector, image: Path
) -> None:
    admission = Admission(8, 1, 0.0)
    handler = handler_with(admission, runner)
    done(handler.detect(image, "anomaly", a_request()))
    with admission.join_queue(a_request(), ("regions", "full"), "slow"):
        done(handler.detect(image, "anomaly", a_request()))
    ahead = admission.join_queue(a_request(), ("anomaly", "slice"), "quick")
    with ahead, pytest.raises(ServiceBusy):
        done(handler.detect(image, "anomaly", a_request()))


def test_without_memory_the_service_says_so(
    handler: AnomalyHandler, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(handler_module, "slice_anomaly", full)
    with pytest.raises(ServiceUnavailable, match="memory"):
        done(handler.detect(image, "anomaly", a_request()))


def test_every_stage_of_a_slice_is_counted_once(handler: AnomalyHandler, image: Path) -> None:
    def counted(stage: str) -> float:
        labels = {"stage": stage, "model": "anomaly"}
        return REGISTRY.get_sample_value("neurobento_stage_seconds_count", labels) or 0.0

    stages = ("decode", "fit", "queue", "infer", "restore", "encode")
    before = [counted(stage) for stage in stages]
    done(handler.response_body(image, "anomaly", JSON, a_request()))
    assert [counted(stage) for stage in stages] == [count + 1 for count in before]


def test_thresholds_are_those_of_the_models_for_the_task() -> None:
    scans = known_spec("parcellation", name="regions", detection={})
    assert model_thresholds([known_spec(), scans]) == {"anomaly": THRESHOLD}
    with pytest.raises(SpecMismatch, match="threshold"):
        model_thresholds([known_spec(detection={})])


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("image/png", PNG),
        ("IMAGE/PNG; q=1", PNG),
        ("application/zip", ZIP),
        ("application/zip, image/png", ZIP),
        ("text/plain, image/png, */*", PNG),
        ("text/csv", JSON),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/png,*/*;q=0.8", JSON),
    ],
)
def test_the_answer_is_json_unless_something_else_is_named(accept: str, chosen: str) -> None:
    assert choose_media_type(accept) == chosen
