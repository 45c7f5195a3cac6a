"""Parcellation requests, with fake services behind their handler."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
import zipfile
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import nibabel as nib
import numpy as np
import pytest
from bentoml.exceptions import BentoMLException
from prometheus_client import REGISTRY

from neurobento.errors import (
    ClientGone,
    ConfigError,
    DeadlineExceeded,
    EmptyScan,
    ModelNotFound,
    NeuroBentoError,
    ServiceBusy,
    ServiceUnavailable,
)
from neurobento.imaging.scan import read_scan
from neurobento.parcellation.parcellator import prepare
from neurobento.serving.admission import Admission
from neurobento.serving.error_responses import api_error_responses
from neurobento.serving.http.downloads import GZIP, file_response
from neurobento.serving.pool.serialisation import pack_error, pack_scan
from neurobento.serving.request import RequestContext
from neurobento.serving.settings import RUN_VARIABLE
from neurobento.serving.tasks.parcellation import handler as handler_module
from neurobento.serving.tasks.parcellation.handler import ParcellationHandler
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from tests.neurobento.serving.fakes import FACTS, FakePreprocessing, FakeSegmenter
from tests.neurobento.serving.waiting import wait_for_async

NETWORK = (91, 122, 123)
MNI = nib.affines.from_matvec(np.diag([1.5, 1.25, 1.1]), [-68.0, -90.0, -60.0])
ZIPPED = ["scan_dseg.nii.gz", "scan_dseg.tsv", "scan_overlay.png", "scan_run.json"]
AS_IT_IS = ParcellationOptions("regions", "none", "native")
LONG_S = 30.0

GONE = [
    BentoMLException("secret"),
    aiohttp.ServerDisconnectedError("secret"),
    ConnectionRefusedError("secret"),
    TimeoutError("secret"),
]
"""What BentoML's client raises of a service that is gone, restarting or stuck."""


BATCHES = {"regions": 2, "next": 2}


@pytest.fixture(autouse=True)
def admission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    return Admission(8, 2, LONG_S)


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(21)


@pytest.fixture
def scan(write_nifti: Callable[..., Path], labels: Any) -> Path:
    return write_nifti((labels / np.float32(116)).astype(np.float32), MNI, "JANE_DOE.nii.gz")


@pytest.fixture
def handler(admission: Admission) -> ParcellationHandler:
    runners = {"regions": FakeSegmenter(), "next": FakeSegmenter(1)}
    return ParcellationHandler(FakePreprocessing(), runners, admission, BATCHES)


def handler_with(
    admission: Admission,
    runner: FakeSegmenter | None = None,
    preprocessing: FakePreprocessing | None = None,
) -> ParcellationHandler:
    runners = {"regions": runner or FakeSegmenter()}
    return ParcellationHandler(preprocessing or FakePreprocessing(), runners, admission, BATCHES)


def options(model: str = "regions", space: str = "native") -> ParcellationOptions:
    return ParcellationOptions(model, "none", space)


def test_a_scan_is_prepared_as_the_model_was_trained(admission: Admission, scan: Path) -> None:
    """A model whose version is not known gets report A's steps."""
    preprocessing = FakePreprocessing()
    runners = {name: FakeSegmenter() for name in ("regions", "next", "other")}
    versions = {"regions": 1, "next": 2}
    batches = dict.fromkeys(runners, 1)
    handler = ParcellationHandler(preprocessing, runners, admission, batches, versions)
    for model in ("next", "regions", "other"):
        done(handler.labels(scan, options(model), a_request()))
    assert preprocessing.versions == [2, 1, 1]


@pytest.fixture
def tilted(
    phantom_on: Callable[..., Any], write_nifti: Any, scan: Path, admission: Admission
) -> tuple[Path, ParcellationHandler]:
    """A scan on a grid of its own, and a handler to which it comes prepared: as `labels`."""
    head = phantom_on("LPS", tilt_rad=0.2)
    space = read_scan(write_nifti(head.image, head.affine)).space
    prepared = pack_scan(prepare(read_scan(scan), "none", 1), scan.with_name("scan.image")) | {
        "native_shape": space.shape,
        "native_voxel_to_ras": space.voxel_to_ras,
        "native_header": space.header.binaryblock,
    }
    handler = handler_with(admission, preprocessing=FakePreprocessing(prepared))
    return write_nifti(head.image, head.affine), handler


def a_request(limit_s: float = LONG_S) -> RequestContext:
    return RequestContext("r-1", "http", limit_s)


def done(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def context() -> Any:
    """As much of `bentoml.Context` as the handler uses."""
    request = SimpleNamespace(state=SimpleNamespace(request_id="r-1"))
    return SimpleNamespace(request=request, response=SimpleNamespace(status_code=200, metadata={}))


def read(content: bytes) -> Any:
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def label_values() -> set[str]:
    samples = (sample for metric in REGISTRY.collect() for sample in metric.samples)
    return {value for sample in samples for value in sample.labels.values()}


PREPROCESSINGS = {"true": "full", "false": "none", "True": "full", "FALSE": "none"}
PREPROCESSINGS |= {"stripped": "stripped", "full": "full", "report_a": "report_a"}


def test_booleans_of_report_a_are_preprocessings_and_the_query_names_model_and_space() -> None:
    read_query = ParcellationOptions.from_report_query
    found = read_query({}, "regions")
    assert (found.preprocessing, found.model, found.space) == ("none", "regions", "native")
    for given, preprocessing in PREPROCESSINGS.items():
        found = read_query({"preprocessing": given}, "regions")
        assert (found.preprocessing, found.model, found.space) == (
            preprocessing,
            "regions",
            "native",
        )
    found = read_query({"model": "unet", "space": "network"}, "regions")
    assert (found.model, found.space) == ("unet", "network")


def test_other_options_are_refused_and_the_known_ones_named() -> None:
    for query in ({"preprocessing": "yes"}, {"preprocessing": ""}, {"space": "x"}):
        with pytest.raises(ConfigError, match=r"full, stripped, none|native, network"):
            ParcellationOptions.from_report_query(query, "regions")
    for value in ("0", "1", "yes"):
        with pytest.raises(ConfigError, match="true, false, full, stripped"):
            ParcellationOptions.from_report_query({"preprocessing": value}, "regions")
    with pytest.raises(ConfigError) as caught:
        ParcellationOptions("regions", "JANE_DOE" * 10, "native")
    assert "JANE_DOE" not in str(caught.value)
    assert "80" in caught.value.found


def test_labels_are_in_native_space_by_the_runner_of_the_named_model(
    handler: ParcellationHandler, scan: Path, labels: Any
) -> None:
    image = read(done(handler.labels(scan, AS_IT_IS, a_request())))
    assert np.array_equal(np.asarray(image.dataobj), labels)
    assert image.affine == pytest.approx(MNI, abs=1e-5)
    answer = done(handler.labels(scan, options("next"), a_request()))
    assert np.array_equal(np.asarray(read(answer).dataobj), (labels + 1) % 117)
    found = done(handler.parcellate(scan, AS_IT_IS, a_request()))
    assert np.array_equal(found.labels, labels)
    assert len(found.volumes) == 116


def test_preprocessing_and_ticket_reach_the_service(scan: Path, admission: Admission) -> None:
    """A starting service ends abandoned work."""
    preprocessing, call = FakePreprocessing(), a_request()
    handler = handler_with(admission, preprocessing=preprocessing)
    done(handler.labels(scan, AS_IT_IS, call))
    assert preprocessing.requests == [(str(scan), "none", call.ticket)]
    assert preprocessing.ended == []
    done(handler.end_abandoned_work())
    assert preprocessing.ended == ["end_all"]


def test_the_service_starts_without_its_preprocessing_service(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (*GONE, BentoMLException("x", error_code=HTTPStatus.INTERNAL_SERVER_ERROR)):

        async def fails(method: str, error: Exception = error) -> Any:
            raise error

        preprocessing = FakePreprocessing()
        monkeypatch.setattr(preprocessing, "call", fails)
        handler = ParcellationHandler(preprocessing, {}, admission, {})
        assert done(handler.end_abandoned_work()) is None


def test_network_space_is_the_grid_the_network_saw(
    tilted: tuple[Path, ParcellationHandler], labels: Any
) -> None:
    scan, handler = tilted
    network = read(done(handler.labels(scan, options(space="network"), a_request())))
    assert np.array_equal(np.asarray(network.dataobj), labels)
    assert network.affine == pytest.approx(MNI, abs=1e-5)
    native = read(done(handler.labels(scan, AS_IT_IS, a_request())))
    assert native.shape == nib.load(scan).shape
    assert native.affine == pytest.approx(nib.load(scan).affine, abs=1e-5)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [2]), (5, [2, 2, 1])])
def test_images_come_to_a_runner_a_batch_at_a_time_and_leave_in_order(
    admission: Admission, known_labels: Callable[[int], Any], count: int, sizes: list[int]
) -> None:
    runner = FakeSegmenter()
    handler = handler_with(admission, runner)
    truth = np.stack([known_labels(i) for i in range(count)])
    images = (truth[:, None] / np.float32(116)).astype(np.float32)
    assert np.array_equal(done(handler.segment(images, AS_IT_IS, a_request())), truth)
    assert runner.sizes == sizes


def test_a_zip_holds_what_the_command_writes(
    handler: ParcellationHandler, scan: Path, labels: Any
) -> None:
    answer = done(handler.outputs(scan, AS_IT_IS, a_request()))
    with zipfile.ZipFile(io.BytesIO(answer)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == [*ZIPPED, "scan_volumes.tsv"]
        assert np.array_equal(np.asarray(read(archive.read(ZIPPED[0])).dataobj), labels)
        run = json.loads(archive.read("scan_run.json"))
    assert run["backend"] == FACTS["backend"]
    assert {"check", "infer", "restore", "measure"} <= run["seconds"].keys()


@pytest.mark.parametrize("space", ["native", "network"])
def test_zip_and_labels_are_the_same_bytes(
    tilted: tuple[Path, ParcellationHandler], space: str
) -> None:
    scan, handler = tilted
    how = options(space=space)
    zipped = zipfile.ZipFile(io.BytesIO(done(handler.outputs(scan, how, a_request()))))
    assert zipped.read("scan_dseg.nii.gz") == done(handler.labels(scan, how, a_request()))
    assert sorted(zipped.namelist()) == [*ZIPPED, "scan_volumes.tsv"]


def test_an_answer_is_a_download_of_our_name() -> None:
    answer = file_response(b"labels", "dseg.nii.gz", GZIP)
    assert (answer.media_type, answer.body) == ("application/gzip", b"labels")
    assert answer.headers["content-disposition"] == 'attachment; filename="scan_dseg.nii.gz"'


def test_an_unknown_model_is_refused_before_the_scan_is_touched(admission: Admission) -> None:
    preprocessing = FakePreprocessing()
    handler = handler_with(admission, preprocessing=preprocessing)
    with pytest.raises(ModelNotFound, match="one of regions"):
        done(handler.labels(Path("none"), options("grand"), a_request()))
    assert preprocessing.requests == []


def test_metrics_know_models_that_there_are_and_no_others(
    handler: ParcellationHandler, scan: Path
) -> None:
    unknown, known = a_request(), a_request()
    with pytest.raises(ModelNotFound):
        done(handler.labels(scan, options("made-up-by-a-client"), unknown))
    done(handler.labels(scan, options("next"), known))
    assert unknown.model == unknown.preprocessing == "none asked for"
    assert (known.model, known.preprocessing) == ("next", "none")
    assert "next" in label_values()
    assert "made-up-by-a-client" not in label_values()


def test_an_error_of_preprocessing_is_raised_again(scan: Path, admission: Admission) -> None:
    error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE_DOE")
    handler = handler_with(admission, preprocessing=FakePreprocessing(pack_error(error)))
    with pytest.raises(EmptyScan) as caught:
        done(handler.labels(scan, AS_IT_IS, a_request()))
    assert caught.value.subject is None


def test_the_facts_of_a_runner_are_cached_but_no_failure(scan: Path, admission: Admission) -> None:
    runner = FakeSegmenter()
    handler = handler_with(admission, runner)
    runner.error = ConnectionResetError()
    with pytest.raises(ServiceUnavailable):
        done(handler.facts("regions"))
    runner.error, runner.described = None, 0
    done(handler.outputs(scan, AS_IT_IS, a_request()))
    assert done(handler.facts("regions")) == FACTS
    assert runner.described == 1


@pytest.mark.parametrize(("how", "error"), [("leaves", ClientGone), ("too late", DeadlineExceeded)])
@pytest.mark.parametrize("gone", [None, *GONE])
def test_preprocessing_is_ended_by_its_ticket_with_the_call(
    admission: Admission, how: str, error: type[NeuroBentoError], gone: Exception | None
) -> None:
    async def scenario() -> None:
        preprocessing = FakePreprocessing(error=gone, endless=True)
        handler = handler_with(admission, preprocessing=preprocessing)
        call = a_request(0.1 if how == "too late" else LONG_S)
        waiting = asyncio.ensure_future(handler.labels(Path("none"), AS_IT_IS, call))
        await preprocessing.begun.wait()
        if how == "leaves":
            call.abandon()
        with pytest.raises(error):
            await waiting
        assert preprocessing.ended == [call.ticket]

    done(scenario())


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("part", ["preprocessing", "runner", "facts"])
def test_a_service_that_is_gone_is_unavailable_for_a_while(
    scan: Path, admission: Admission, gone: Exception, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    preprocessing = FakePreprocessing(error=gone if part == "preprocessing" else None)
    runner = FakeSegmenter(error=None if part == "preprocessing" else gone)
    handler = handler_with(admission, runner, preprocessing)
    work = (
        handler.facts("regions") if part == "facts" else handler.labels(scan, AS_IT_IS, a_request())
    )
    with caplog.at_level(logging.INFO), pytest.raises(ServiceUnavailable) as caught:
        done(work)
    assert caught.value.retry_after_s == 5
    assert "secret" not in str(caught.value) + caplog.text
    # what is not there has nothing to end
    assert preprocessing.ended == []


def test_a_service_that_fails_is_not_reported_as_unavailable(
    scan: Path, admission: Admission
) -> None:
    """And an unexpected error is raised."""
    runner = FakeSegmenter()
    runner.error = BentoMLException("secret", error_code=HTTPStatus.INTERNAL_SERVER_ERROR)
    with pytest.raises(RuntimeError, match=r"^a service failed$"):
        done(handler_with(admission, runner).labels(scan, AS_IT_IS, a_request()))
    handler = handler_with(admission, preprocessing=FakePreprocessing(error=KeyError()))
    with pytest.raises(KeyError):
        done(handler.labels(scan, AS_IT_IS, a_request()))


class SlowRunner(FakeSegmenter):
    """A runner that is busy until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.running, self.most, self.released = 0, 0, asyncio.Event()

    async def segment(self, files: Any) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        await self.released.wait()
        self.running -= 1
        return await super().segment(files)


def test_calls_that_nobody_waits_for_do_not_pile_up_in_a_runner(admission: Admission) -> None:
    images = np.zeros((1, 1, *NETWORK), np.float32)
    slots = 2 * BATCHES["regions"]

    async def scenario() -> None:
        runner = SlowRunner()
        handler = handler_with(admission, runner)
        for count in range(1, slots + 1):
            request = a_request()
            abandoned = asyncio.ensure_future(handler.segment(images, AS_IT_IS, request))
            await wait_for_async(lambda: runner.running == count, "a call to run")  # noqa: B023
            request.abandon()
            with pytest.raises(ClientGone):
                await abandoned
        waiting = asyncio.ensure_future(handler.segment(images, AS_IT_IS, a_request()))
        await wait_for_async(lambda: handler._slots["regions"]._waiters, "the call to wait")
        assert runner.running == slots
        runner.released.set()
        await waiting
        assert runner.most == slots

    asyncio.run(scenario())


def test_a_call_that_cannot_be_sent_keeps_no_slot(
    handler: ParcellationHandler, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_long(files: Any) -> Any:
        raise ValueError

    images = np.zeros((1, 1, *NETWORK), np.float32)
    with monkeypatch.context() as broken:
        broken.setattr(handler_module, "pack_paths", too_long)
        for _ in range(2 * BATCHES["regions"]):
            with pytest.raises(ValueError):
                done(handler.segment(images, AS_IT_IS, a_request()))
    assert not done(handler.segment(images, AS_IT_IS, a_request(5.0))).any()


class LosingRunner(FakeSegmenter):
    """Finds other files than it was sent: gone, or cut short."""

    def __init__(self, content: bytes | None) -> None:
        super().__init__()
        self.content = content

    async def segment(self, files: Any) -> Any:
        last = Path(files[-1].tobytes().rstrip(b"\0").decode())
        if self.content is None:
            last.unlink()
        else:
            last.write_bytes(self.content)
        return await super().segment(files)


@pytest.mark.parametrize("content", [None, b"", b"short"])
def test_a_lost_image_gives_no_labels(
    scan: Path, admission: Admission, content: bytes | None
) -> None:
    handler = handler_with(admission, LosingRunner(content))
    images = np.zeros((2, 1, *NETWORK), np.float32)
    for work in (
        handler.labels(scan, AS_IT_IS, a_request()),
        handler.segment(images, AS_IT_IS, a_request()),
    ):
        with pytest.raises(ServiceUnavailable, match="a file that is gone") as caught:
            done(work)
        assert caught.value.retry_after_s


def test_every_batch_of_a_call_waits_for_a_slot_of_its_own(admission: Admission) -> None:
    """One call with many images cannot fill a runner that others want."""
    images = np.zeros((4 * BATCHES["regions"], 1, *NETWORK), np.float32)

    async def scenario() -> tuple[int, int]:
        runner = SlowRunner()
        handler = handler_with(admission, runner)
        many = asyncio.ensure_future(handler.segment(images, AS_IT_IS, a_request()))
        one = asyncio.ensure_future(handler.segment(images[:1], AS_IT_IS, a_request()))
        await wait_for_async(lambda: runner.running == 2, "both calls to run")
        await asyncio.sleep(0.05)
        held = runner.running
        runner.released.set()
        await asyncio.gather(many, one)
        return held, runner.most

    assert done(scenario()) == (2, 2)


def test_the_forecast_of_images_knows_how_many_there_are() -> None:
    admission = Admission(8, 1, 0.0)
    handler = handler_with(admission)
    two = np.zeros((2, 1, *NETWORK), np.float32)
    done(handler.segment(two, AS_IT_IS, a_request()))
    with admission.join_queue(a_request(), ("regions", "none", 1), "quick"):
        done(handler.segment(two, AS_IT_IS, a_request()))
    ahead = admission.join_queue(a_request(), ("regions", "none", 2), "quick")
    with ahead, pytest.raises(ServiceBusy):
        done(handler.segment(two, AS_IT_IS, a_request()))


def test_a_call_that_would_wait_too_long_is_refused_before_any_work(
    scan: Path, tmp_path: Path
) -> None:
    preprocessing, admission = FakePreprocessing(), Admission(8, 1, 0.0)
    handler = handler_with(admission, preprocessing=preprocessing)
    done(handler.labels(scan, AS_IT_IS, a_request()))
    before = admission.join_queue(a_request(), ("regions", "none"), "quick")
    with before, pytest.raises(ServiceBusy):
        done(handler.labels(scan, AS_IT_IS, a_request()))
    assert len(preprocessing.requests) == 1


def test_without_memory_the_service_says_so(
    handler: ParcellationHandler, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(handler_module, "restore_and_measure", full)
    with pytest.raises(ServiceUnavailable, match="memory"):
        done(handler.labels(scan, AS_IT_IS, a_request()))


def test_every_stage_of_a_scan_is_counted(handler: ParcellationHandler, scan: Path) -> None:
    def counted(stage: str) -> float:
        labels = {"stage": stage, "model": "regions"}
        return REGISTRY.get_sample_value("neurobento_stage_seconds_count", labels) or 0.0

    stages = ("check", "infer", "restore", "measure", "encode")
    before = [counted(stage) for stage in stages]
    done(handler.labels(scan, AS_IT_IS, a_request()))
    assert [counted(stage) for stage in stages] == [count + 1 for count in before]


def raising(error: Exception) -> Any:
    @api_error_responses
    async def method(self: Any, *, ctx: Any) -> Any:
        raise error

    return method


def test_an_error_becomes_an_answer_whose_status_the_context_knows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE_DOE.nii")
    ctx = context()
    with caplog.at_level(logging.INFO, logger="neurobento.serving"):
        answer = done(raising(error)(None, ctx=ctx))
    assert answer.status_code == ctx.response.status_code == 422
    assert json.loads(answer.body) == {
        "error": {
            "type": "EmptyScan",
            "message": "expected a head; found zero. Look.",
            "request_id": "r-1",
        }
    }
    assert "JANE_DOE" not in caplog.text


@pytest.mark.parametrize(("kind", "status"), [(ServiceBusy, 429), (ServiceUnavailable, 503)])
def test_an_error_that_passes_says_when_to_come_back(kind: Any, status: int) -> None:
    ctx = context()
    error = kind(expected="a", found="b", remedy="C.", retry_after_s=6.5)
    assert done(raising(error)(None, ctx=ctx)).status_code == ctx.response.status_code == status
    assert ctx.response.metadata == {"retry-after": "7"}


def test_an_answer_passes_as_it_is_and_an_unexpected_error_is_left_to_the_middleware() -> None:
    @api_error_responses
    async def method(self: Any, value: str, *, ctx: Any) -> Any:
        return (value, ctx)

    ctx = context()
    assert done(method(None, "x", ctx=ctx)) == ("x", ctx)
    assert ctx.response.status_code == 200
    with pytest.raises(ZeroDivisionError):
        done(raising(ZeroDivisionError())(None, ctx=context()))
