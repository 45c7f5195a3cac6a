"""The gRPC server on a port of its own, asked by NVIDIA's client and by bare stubs."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc
from tritonclient.utils import InferenceServerException

from neurobento.errors import ConfigError, EmptyScan, ServiceUnavailable
from neurobento.serving.admission import Admission
from neurobento.serving.inference_protocol.grpc.server import GrpcServer
from neurobento.serving.process.run_folder import RunFolder
from neurobento.serving.request import RequestLimits
from neurobento.serving.settings import RUN_VARIABLE
from neurobento.serving.token import Token
from tests.neurobento.serving.fakes import (
    CONTENT,
    NATIVE,
    FakeHandler,
    inference_of,
    known_labels_of,
)
from tests.neurobento.serving.waiting import wait_for, wait_for_async

GRID = (91, 122, 123)
SERVICE = "inference.GRPCInferenceService"
SLOTS = 2
SECRET = "0123456789abcdef"


@dataclass
class Served:
    """A server in an event loop of its own, and its clients."""

    handler: FakeHandler
    run: RunFolder
    limits: RequestLimits
    token: str | None = None
    ready: bool | None = True
    port: int = 0

    def begin(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        try:
            self.port = self._do(self._start("127.0.0.1"))
        except BaseException:
            self._end_loop()
            raise
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = pb_grpc.GRPCInferenceServiceStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)
        self.triton = triton.InferenceServerClient(f"127.0.0.1:{self.port}")

    def end(self) -> None:
        self.triton.close()
        self.channel.close()
        self._do(self._server.stop())
        self._end_loop()

    def serving(self, name: str = "") -> bool:
        """What grpc.health.v1 says."""
        found = self.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        return bool(found.status == health_pb2.HealthCheckResponse.SERVING)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self, host: str) -> int:
        async def ready() -> bool:
            await wait_for_async(lambda: self.ready is not None, "the test to decide", 60.0)
            return bool(self.ready)

        admission = Admission(SLOTS, SLOTS, 60.0)
        admission.open()
        inference = inference_of(self.handler)
        parts = (inference, admission, self.limits, Token(self.token), ready)
        self._server = GrpcServer(*parts)
        return await self._server.start(host, self.port)


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(47)


@pytest.fixture
def serve(labels: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a server; options as `FakeHandler`, `RequestLimits` and `Served` have them."""
    monkeypatch.setenv(RUN_VARIABLE, str(tmp_path))
    running: list[Served] = []

    def serve(
        *,
        error: Any = None,
        endless: bool = False,
        size: int = 64 << 20,
        limit_s: float = 60.0,
        upload_s: float = 60.0,
        **options: Any,
    ) -> Served:
        handler = FakeHandler(labels, error, endless)
        served = Served(
            handler, RunFolder(tmp_path), RequestLimits(size, limit_s, upload_s), **options
        )
        served.begin()
        running.append(served)
        return served

    yield serve
    for served in running:
        served.end()


@pytest.fixture
def served(serve: Callable[..., Served]) -> Served:
    return serve()


def outcomes(records: list[logging.LogRecord]) -> list[Any]:
    return [vars(r)["status"] for r in records if r.getMessage().endswith(" ended")]


def scan_input() -> Any:
    scan = triton.InferInput("scan", [1], "BYTES")
    scan.set_data_from_numpy(np.array([CONTENT], object))
    return scan


def request(model: str = "regions", **fields: Any) -> Any:
    tensor = pb.ModelInferRequest.InferInputTensor(name="scan", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(CONTENT)
    return pb.ModelInferRequest(**{"model_name": model, "inputs": [tensor], **fields})


def refused(call: Callable[[], Any]) -> tuple[str, dict[str, str]]:
    """Code and trailing metadata of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    return error.code().name, dict(error.trailing_metadata() or ())


def test_it_lives_and_is_ready_when_every_part_is(served: Served) -> None:
    client = served.triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("regions")
    assert client.is_model_ready("unet", "0.3.0")
    served.ready = False
    assert client.is_server_live()
    assert not client.is_server_ready()
    assert not client.is_model_ready("regions")


def test_metadata_are_those_of_http(served: Served) -> None:
    server = served.triton.get_server_metadata()
    assert (server.name, server.version) == ("neurobento", metadata.version("neurobento"))
    found = served.triton.get_model_metadata("regions", as_json=True)
    expected = inference_of(served.handler).metadata("regions")
    assert found["name"] == expected["name"]
    assert found["versions"] == expected["versions"]
    for side in ("inputs", "outputs"):
        told = [(t["name"], t["datatype"], [int(n) for n in t["shape"]]) for t in found[side]]
        assert told == [(t["name"], t["datatype"], t["shape"]) for t in expected[side]]


def test_a_scan_is_parcellated(served: Served) -> None:
    result = served.triton.infer(
        "regions", [scan_input()], request_id="mine", parameters={"preprocessing": "stripped"}
    )
    assert served.handler.contents == [CONTENT]
    assert [options.preprocessing for options in served.handler.options] == ["stripped"]
    assert np.array_equal(result.as_numpy("labels"), served.handler.parcellation.labels)
    assert result.as_numpy("affine") == pytest.approx(NATIVE)
    assert result.as_numpy("volumes_mm3").shape == (116,)
    assert result.as_numpy("dseg")[0].startswith(b"\x1f\x8b")
    assert json.loads(result.as_numpy("run")[0])["backend"] == {"name": "fake"}
    response = result.get_response()
    assert (response.id, response.model_name, response.model_version) == (
        "mine",
        "regions",
        "1.2.0",
    )


def test_a_scan_or_an_image_by_value_is_answered_too(served: Served) -> None:
    wanted = [pb.ModelInferRequest.InferRequestedOutputTensor(name="labels")]
    response = served.stub.ModelInfer(request(outputs=wanted), timeout=10)
    assert [output.name for output in response.outputs] == ["labels"]
    assert response.raw_output_contents[0] == served.handler.parcellation.labels.tobytes()
    values = np.zeros((1, 1, *GRID), np.float32)
    values[..., 7] = np.float32(5 / 116)
    image = tensor("image", "FP32", [*values.shape], fp32_contents=values.ravel())
    response = served.stub.ModelInfer(request(inputs=[image]), timeout=10)
    assert response.raw_output_contents[0] == known_labels_of(values).tobytes()


@pytest.mark.parametrize("count", [1, 2])
def test_images_are_segmented(count: int, served: Served) -> None:
    values = np.zeros((count, 1, *GRID), np.float32)
    values[:, :, 3:9, 5:20] = np.float32(77 / 116)
    values[-1, 0, 1] = 1
    image = triton.InferInput("image", list(values.shape), "FP32")
    image.set_data_from_numpy(values)
    result = served.triton.infer("regions", [image])
    assert np.array_equal(result.as_numpy("labels"), known_labels_of(values))
    assert result.as_numpy("voxels")[0, 76] == 6 * 15 * 123
    assert result.as_numpy("voxels").shape == (count, 116)


def tensor(name: str, datatype: str, shape: list[int], **contents: Any) -> Any:
    kinds = pb.InferTensorContents(**contents)
    return pb.ModelInferRequest.InferInputTensor(
        name=name, datatype=datatype, shape=shape, contents=kinds
    )


BAD: dict[str, dict[str, Any]] = {
    "no inputs": {"inputs": []},
    "another name": {"inputs": [tensor("scans", "BYTES", [1], bytes_contents=[b"x"])]},
    "another type": {"inputs": [tensor("scan", "FP16", [1], fp32_contents=[1.0])]},
    "contents of another type": {"inputs": [tensor("scan", "BYTES", [1], int64_contents=[1])]},
    "too few values": {"inputs": [tensor("scan", "BYTES", [2], bytes_contents=[b"x"])]},
    "a value out of range": {"inputs": [tensor("scan", "UINT8", [1], uint_contents=[256])]},
    "more raw contents than inputs": {"raw_input_contents": [b"", b""]},
    "a raw string cut off": {"raw_input_contents": [b"\x09\x00\x00\x00abc"]},
    "an output that there is not": {
        "outputs": [pb.ModelInferRequest.InferRequestedOutputTensor(name="x")]
    },
    "an output asked for twice": {
        "outputs": 2 * [pb.ModelInferRequest.InferRequestedOutputTensor(name="dseg")]
    },
    "another preprocessing": {"parameters": {"preprocessing": pb.InferParameter(string_param="x")}},
    "a preprocessing of another type": {
        "parameters": {"preprocessing": pb.InferParameter(int64_param=1)}
    },
    "a misspelt parameter": {
        "parameters": {"preprocesing": pb.InferParameter(string_param="none")}
    },
    "an option of an input": {
        "inputs": [
            pb.ModelInferRequest.InferInputTensor(
                name="scan",
                datatype="BYTES",
                shape=[1],
                parameters={"preprocessing": pb.InferParameter(string_param="none")},
                contents=pb.InferTensorContents(bytes_contents=[b"x"]),
            )
        ]
    },
    "an option of an output": {
        "outputs": [
            pb.ModelInferRequest.InferRequestedOutputTensor(
                name="dseg", parameters={"space": pb.InferParameter(string_param="native")}
            )
        ]
    },
    "an empty parameter": {"parameters": {"space": pb.InferParameter()}},
}


def test_a_bad_request_is_an_invalid_argument(
    served: Served, service_log: list[logging.LogRecord]
) -> None:
    for what, fields in BAD.items():
        code, trailing = refused(partial(served.stub.ModelInfer, request(**fields), timeout=5))
        assert (what, code) == (what, "INVALID_ARGUMENT")
        assert (what, trailing["error-type"]) == (what, "ConfigError")
    assert served.handler.options == []
    wait_for(lambda: len(outcomes(service_log)) == len(BAD), "the log of all requests")
    assert set(outcomes(service_log)) == {"INVALID_ARGUMENT"}
    wait_for(lambda: served.run.active_requests == 0, "all slots to be free")


@pytest.mark.parametrize("content", [b"\xff", b"no protobuf", b"\x0a\x7fcut short"])
def test_bytes_that_are_no_message_are_an_invalid_argument(
    content: bytes, served: Served, service_log: list[logging.LogRecord]
) -> None:
    infer = served.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    code, trailing = refused(lambda: infer(iter([content]), timeout=5))
    assert (code, trailing["error-type"]) == ("INVALID_ARGUMENT", "ConfigError")
    wait_for(lambda: outcomes(service_log) == ["INVALID_ARGUMENT"], "the request in the log")
    assert [record for record in service_log if record.levelno >= logging.WARNING] == []
    wait_for(lambda: served.run.active_requests == 0, "the slot to be free")


def test_a_model_that_is_not_served_is_not_found(served: Served) -> None:
    stub = served.stub
    calls = [
        lambda: stub.ModelReady(pb.ModelReadyRequest(name="grand"), timeout=5),
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name="regions", version="9"), timeout=5),
        lambda: stub.ModelInfer(request("grand"), timeout=5),
    ]
    assert [refused(call)[0] for call in calls] == ["NOT_FOUND"] * 3


def test_a_clients_request_id_comes_back_first_and_is_logged(
    served: Served, service_log: list[logging.LogRecord]
) -> None:
    metadata = (("x-request-id", "scan-7"),)
    call = served.stub.ModelInfer.future(request(), metadata=metadata, timeout=5)
    assert dict(call.initial_metadata())["x-request-id"] == "scan-7"
    call.result()
    assert [call.id for call in served.handler.contexts] == ["scan-7"]
    wait_for(lambda: outcomes(service_log) == ["OK"], "the request in the log")
    assert vars(service_log[-1])["request_id"] == "scan-7"
    assert vars(service_log[-1])["protocol"] == "grpc"


def test_without_a_slot_a_client_learns_when_to_come_back(serve: Any) -> None:
    served = serve(endless=True)
    inside = [served.stub.ModelInfer.future(request()) for _ in range(SLOTS)]
    wait_for(lambda: len(served.handler.options) == SLOTS, "all slots to be taken")
    code, trailing = refused(lambda: served.stub.ModelInfer(request(), timeout=5))
    assert code == "RESOURCE_EXHAUSTED"
    assert int(trailing["retry-after"]) >= 1
    assert trailing["error-type"] == "ServiceBusy"
    assert served.run.active_requests == SLOTS
    for call in inside:
        call.cancel()
    wait_for(lambda: served.run.active_requests == 0, "all slots to be free")


def test_a_client_that_cancels_ends_its_work_and_frees_its_slot(
    serve: Any, service_log: list[logging.LogRecord]
) -> None:
    served = serve(endless=True)
    for i in range(SLOTS + 1):
        call = served.stub.ModelInfer.future(request())
        wait_for(lambda: len(served.handler.options) > served.handler.ended, "the work to begin")
        call.cancel()
        wait_for(lambda: len(served.handler.options) == served.handler.ended, "the work to end")
        assert served.handler.ended == i + 1
    wait_for(lambda: served.run.active_requests == 0, "the slot to be free")
    assert outcomes(service_log) == ["CANCELLED"] * (SLOTS + 1)


def test_at_the_clients_deadline_or_the_services_own_limit_the_work_is_ended(
    serve: Any, service_log: list[logging.LogRecord]
) -> None:
    served = serve(endless=True, limit_s=1.0)
    with pytest.raises(InferenceServerException) as caught:
        served.triton.infer("regions", [scan_input()], client_timeout=0.3)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    wait_for(lambda: served.handler.ended == 1, "the work to end")
    wait_for(lambda: served.run.active_requests == 0, "the slot to be free")
    assert served.handler.contexts[0].deadline - served.handler.contexts[0].started <= 0.3
    logged = len(outcomes(service_log))
    code, trailing = refused(lambda: served.stub.ModelInfer(request(), timeout=20))
    assert (code, trailing["error-type"]) == ("DEADLINE_EXCEEDED", "DeadlineExceeded")
    assert served.handler.ended == 2
    wait_for(lambda: outcomes(service_log)[logged:] == ["DEADLINE_EXCEEDED"], "the log")


def test_the_error_of_a_scan_reaches_the_client(serve: Any) -> None:
    """A part that is missing is unavailable for now."""
    error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE_DOE")
    served = serve(error=error)
    with pytest.raises(InferenceServerException, match=r"expected a head; found zero\. Look") as e:
        served.triton.infer("regions", [scan_input()])
    assert e.value.status() == "StatusCode.INVALID_ARGUMENT"
    code, trailing = refused(lambda: served.stub.ModelInfer(request(), timeout=5))
    assert (code, trailing["error-type"]) == ("INVALID_ARGUMENT", "EmptyScan")
    assert "JANE_DOE" not in repr(trailing)
    missing = ServiceUnavailable(expected="a", found="b", remedy="C.", retry_after_s=4.2)
    served.handler.error = missing
    code, trailing = refused(lambda: served.stub.ModelInfer(request(), timeout=5))
    assert (code, trailing["retry-after"]) == ("UNAVAILABLE", "5")


def test_a_server_that_drains_sends_away_new_calls_and_ends_old_ones(serve: Any) -> None:
    served = serve(endless=True, limit_s=1.0)
    old = served.stub.ModelInfer.future(request())
    wait_for(lambda: len(served.handler.options) == 1, "the work to begin")
    served.run.drain()
    code, trailing = refused(lambda: served.stub.ModelInfer(request(), timeout=5))
    assert (code, trailing["error-type"]) == ("UNAVAILABLE", "ServiceUnavailable")
    assert int(trailing["retry-after"]) >= 1
    assert not served.triton.is_server_ready()
    assert not served.triton.is_model_ready("regions")
    assert served.triton.is_server_live()
    assert not old.done()
    assert refused(old.result)[0] == "DEADLINE_EXCEEDED"
    wait_for(lambda: not served.serving(), "the health service to know")


def test_an_unexpected_error_is_internal_without_its_message(
    serve: Any, service_log: list[logging.LogRecord]
) -> None:
    served = serve(error=RuntimeError("JANE_DOE"))
    with pytest.raises(grpc.RpcError) as caught:
        served.stub.ModelInfer(request(), metadata=(("x-request-id", "mine"),), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INTERNAL  # type: ignore[attr-defined]
    assert "JANE_DOE" not in str(caught.value)
    wait_for(lambda: outcomes(service_log) == ["INTERNAL"], "the request in the log")
    (failed,) = [record for record in service_log if record.levelno == logging.ERROR]
    assert failed.getMessage() == "request mine failed"
    assert failed.exc_info


def test_without_its_token_nothing_but_probes_is_answered(serve: Any) -> None:
    served = serve(token=SECRET)
    stub = served.stub
    calls = [
        partial(stub.ServerMetadata, pb.ServerMetadataRequest()),
        partial(stub.ModelMetadata, pb.ModelMetadataRequest(name="regions")),
        partial(stub.ModelReady, pb.ModelReadyRequest(name="regions")),
        partial(stub.ModelInfer, request()),
    ]
    for shown in ((), (("authorization", "Bearer " + "x" * 16),)):
        told = [refused(partial(call, timeout=5, metadata=shown))[0] for call in calls]
        assert told == ["UNAUTHENTICATED"] * 4
    assert served.handler.contents == []
    assert served.triton.is_server_live()
    assert served.triton.is_server_ready()
    wait_for(served.serving, "the health service to know")
    headers = {"authorization": f"Bearer {SECRET}"}
    assert served.triton.is_model_ready("regions", headers=headers)
    result = served.triton.infer("regions", [scan_input()], headers=headers)
    assert np.array_equal(result.as_numpy("labels"), served.handler.parcellation.labels)


def held_back(served: Served) -> tuple[float, grpc.RpcError]:
    """Seconds until a call is refused whose message never comes, and its error."""
    infer = served.channel.stream_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    never = threading.Event()

    def requests() -> Iterator[Any]:
        never.wait(20)
        yield from ()

    start = time.monotonic()
    try:
        with pytest.raises(grpc.RpcError) as caught:
            infer(requests(), timeout=15)
        return time.monotonic() - start, caught.value
    finally:
        never.set()


def test_a_message_is_not_waited_for_without_the_token_nor_a_slow_one(serve: Any) -> None:
    served = serve(token=SECRET)
    seconds, error = held_back(served)
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED
    assert seconds < 5
    served = serve(upload_s=0.5)
    _, error = held_back(served)
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert dict(error.trailing_metadata())["error-type"] == "DeadlineExceeded"


def test_a_message_is_not_waited_for_without_a_slot(serve: Any) -> None:
    served = serve(endless=True)
    calls = [served.stub.ModelInfer.future(request()) for _ in range(SLOTS)]
    wait_for(lambda: len(served.handler.options) == SLOTS, "all slots to be taken")
    seconds, error = held_back(served)
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(error.trailing_metadata())["retry-after"]
    assert seconds < 5
    for call in calls:
        call.cancel()


@pytest.fixture
def unread() -> Iterator[Callable[[Served], Any]]:
    """Asks for an answer of 1.4 MB, of which a client that has yet to read it takes in 64 kB."""
    channels: list[grpc.Channel] = []

    def ask(served: Served) -> Any:
        narrow = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1 << 16)]
        channels.append(grpc.insecure_channel(f"127.0.0.1:{served.port}", narrow))
        values = np.zeros((1, 1, *GRID), np.float32)
        image = pb.ModelInferRequest.InferInputTensor(
            name="image", datatype="FP32", shape=values.shape
        )
        infer = channels[-1].unary_stream(
            f"/{SERVICE}/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        return infer(request(inputs=[image], raw_input_contents=[values.tobytes()]))

    yield ask
    for channel in channels:
        channel.close()


def test_a_call_keeps_its_slot_until_its_answer_is_sent(
    served: Served, unread: Callable[[Served], Any], service_log: list[logging.LogRecord]
) -> None:
    answers = [unread(served) for _ in range(SLOTS)]
    wait_for(lambda: outcomes(service_log) == ["OK"] * SLOTS, "the work to end")
    # a slot freed before the answer is read would be free by now
    time.sleep(0.3)
    assert served.run.active_requests == SLOTS
    assert refused(lambda: served.stub.ModelInfer(request(), timeout=5))[0] == "RESOURCE_EXHAUSTED"
    assert len(next(answers[0]).outputs) == 3
    wait_for(lambda: served.run.active_requests == SLOTS - 1, "the slot of the one that was read")
    answers[1].cancel()
    wait_for(lambda: served.run.active_requests == 0, "the slot of the one that was left")


def test_an_answer_that_is_not_read_loses_its_slot_at_the_deadline(
    serve: Any, unread: Callable[[Served], Any], service_log: list[logging.LogRecord]
) -> None:
    served = serve(limit_s=2.0)
    answer = unread(served)
    wait_for(lambda: outcomes(service_log) == ["OK"], "the work to end")
    assert served.run.active_requests == 1
    wait_for(lambda: served.run.active_requests == 0, "the slot to be free")
    # it may still be read; its slot is not freed a second time
    assert len(next(answer).outputs) == 3
    wait_for(answer.done, "the answer to end")
    later = unread(served)
    wait_for(lambda: outcomes(service_log) == ["OK", "OK"], "the work to end")
    assert served.run.active_requests == 1
    later.cancel()


def test_slots_are_free_again_after_each_call(served: Served) -> None:
    for _ in range(50):
        served.stub.ModelInfer(request(), timeout=5)
    wait_for(lambda: served.run.active_requests == 0, "all slots to be free")


def test_the_health_service_says_what_is_true(serve: Any) -> None:
    served = serve(ready=None)
    for name in ("", SERVICE):
        assert not served.serving(name), "it was said to serve before it was known"
    served.ready = True
    for name in ("", SERVICE):
        wait_for(partial(served.serving, name), "the health service to know")
    served.ready = False
    wait_for(lambda: not served.serving(SERVICE), "the health service to know")
    code, _ = refused(lambda: served.serving("another"))
    assert code == "NOT_FOUND"


def test_reflection_names_the_services(served: Served) -> None:
    database = ProtoReflectionDescriptorDatabase(served.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    for name in database.get_services():
        file = database.FindFileContainingSymbol(name)
        assert [f"{file.package}.{service.name}" for service in file.service] == [name]


def test_a_message_beyond_the_limit_is_refused_and_one_below_is_not(serve: Any) -> None:
    served = serve(size=2 << 20)
    tensor = pb.ModelInferRequest.InferInputTensor(name="scan", datatype="BYTES", shape=[1])

    def send(size: int) -> Any:
        raw = size.to_bytes(4, "little") + bytes(size)
        return served.stub.ModelInfer(
            request(inputs=[tensor], raw_input_contents=[raw]), timeout=10
        )

    assert refused(lambda: send(2 << 20))[0] == "RESOURCE_EXHAUSTED"
    assert served.handler.contents == []
    send((2 << 20) - 1000)
    assert len(served.handler.contents[0]) == (2 << 20) - 1000


def test_a_port_that_is_taken_is_an_error_that_names_it(serve: Any, served: Served) -> None:
    """Also by another server of ours."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], served.port):
            with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1"):
                serve(port=port)


def test_what_kserves_client_says_about_its_tensors_is_no_option(served: Served) -> None:
    """It says over gRPC too how many bytes a tensor would have behind JSON."""
    size, wants = pb.InferParameter(int64_param=9), pb.InferParameter(bool_param=True)
    message = request()
    message.inputs[0].parameters["binary_data_size"].CopyFrom(size)
    message.parameters["binary_data_output"].CopyFrom(wants)
    output = message.outputs.add(name="dseg")
    output.parameters["binary_data"].CopyFrom(wants)
    answer = served.stub.ModelInfer(message, timeout=5)
    assert [each.name for each in answer.outputs] == ["dseg"]
