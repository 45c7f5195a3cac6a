"""The Open Inference Protocol over HTTP, spoken by hand and by NVIDIA's client."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any
from unittest.mock import MagicMock

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from neurobento.errors import EmptyScan, ServiceBusy
from neurobento.serving.inference_protocol.rest import rest_app
from neurobento.serving.request import RequestContext
from tests.neurobento.serving.fakes import (
    CONTENT,
    NATIVE,
    NATIVE_SHAPE,
    FakeHandler,
    inference_of,
    known_labels_of,
)

GRID = (91, 122, 123)
INFER = "/v2/models/regions/infer"
LENGTH = "inference-header-content-length"


@pytest.fixture
def labels(known_labels: Callable[[int], Any]) -> Any:
    return known_labels(43)


@dataclass
class Web:
    """The application behind a gate that lets everything through, as BentoML mounts it."""

    handler: FakeHandler
    ready: bool = True
    calls: list[RequestContext] = field(default_factory=list)

    def ask(self, method: str, path: str, **request: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self._gate)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **request)

        return asyncio.run(ask())

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def infer(self, content: Any, length: int | None = None, path: str = INFER) -> httpx.Response:
        """A request to infer, of JSON or of bytes whose first `length` are JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {} if length is None else {LENGTH: str(length)}
        return self.ask("POST", path, content=body, headers=headers)

    async def _gate(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls.append(RequestContext("r-1", "http", 60.0))
        scope["state"] = {"request_id": "r-1", "context": self.calls[-1]}
        await self.app(scope, receive, send)

    @property
    def app(self) -> Any:
        """As the service has it."""
        inference = inference_of(self.handler)

        async def ready() -> bool:
            return self.ready

        return Starlette(routes=[Mount("/v2", rest_app(lambda: inference, ready))])


@pytest.fixture
def web(labels: Any) -> Web:
    return Web(FakeHandler(labels))


@pytest.fixture(scope="module")
def triton() -> Iterator[Any]:
    """NVIDIA's client: how it writes and reads bodies, without what it would send them over."""
    ours = {"rapidjson": json, "gevent": None, "gevent.pool": None}
    ours |= {"geventhttpclient": None, "geventhttpclient.url": None}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in ours.items():
            patch.setitem(sys.modules, name, module or MagicMock())
        yield importlib.import_module("tritonclient.http")
    for name in [name for name in sys.modules if name.startswith("tritonclient.http")]:
        del sys.modules[name]


def scan_json(**changes: Any) -> dict[str, Any]:
    """A scan as JSON, each byte a character."""
    tensor = {"name": "scan", "datatype": "BYTES", "shape": [1], "data": [CONTENT.decode()]}
    return {"inputs": [tensor | changes]}


def images(count: int) -> Any:
    values = np.zeros((count, 1, *GRID), np.float32)
    for i, each in enumerate(values):
        each[0, 3:9, 5:20, i : i + 4] = np.float32((i + 9) / 116)
    return values


def error_of(answer: httpx.Response) -> tuple[int, str]:
    error = answer.json()["error"]
    assert error["request_id"] == "r-1"
    assert error["message"]
    return answer.status_code, error["type"]


def test_the_server_says_what_it_is_and_that_it_is_ready_when_every_part_is(web: Web) -> None:
    assert web.get("/v2/").json() == {
        "name": "neurobento",
        "version": metadata.version("neurobento"),
        "extensions": ["binary_tensor_data"],
    }
    ready = ["/v2/health/ready", "/v2/models/regions/ready"]
    ready.append("/v2/models/regions/versions/1.2.0/ready")
    assert [web.get(path).status_code for path in ready] == [200, 200, 200]
    for path in ("/v2/models/regions", "/v2/models/regions/versions/1.2.0"):
        found = web.get(path).json()
        assert (found["name"], found["versions"]) == ("regions", ["1.2.0"])
        assert found.keys() == {"name", "versions", "platform", "inputs", "outputs"}
    web.ready = False
    assert web.get("/v2/health/live").status_code == 200
    assert [web.get(path).status_code for path in ready] == [503, 503, 503]


@pytest.mark.parametrize("model", ["grand", "regions/versions/9"])
@pytest.mark.parametrize("what", ["", "/ready", "/infer"])
def test_a_model_that_is_not_served_is_404(model: str, what: str, web: Web) -> None:
    path = f"/v2/models/{model}{what}"
    answer = web.infer(scan_json(), path=path) if what == "/infer" else web.get(path)
    assert error_of(answer) == (404, "ModelNotFound")
    assert web.handler.options == []


def test_a_scan_in_json_is_answered_in_json(web: Web) -> None:
    answer = web.infer({"id": "mine", **scan_json()})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert LENGTH not in answer.headers
    found = answer.json()
    assert (found["model_name"], found["model_version"]) == ("regions", "1.2.0")
    assert found["id"] == "mine"
    assert web.handler.contents == [CONTENT]
    outputs = {output["name"]: output for output in found["outputs"]}
    assert outputs["labels"]["shape"] == list(NATIVE_SHAPE)
    assert outputs["labels"]["datatype"] == "UINT8"
    assert outputs["labels"]["data"] == web.handler.parcellation.labels.ravel().tolist()
    assert np.array(outputs["affine"]["data"]).reshape(4, 4) == pytest.approx(NATIVE)
    assert outputs["dseg"]["data"][0].encode("latin-1").startswith(b"\x1f\x8b")


def test_every_byte_of_a_scan_arrives_in_json_and_in_binary(web: Web) -> None:
    """The call of the middleware is the one that is worked on."""
    content = bytes(range(256))
    assert web.infer(scan_json(data=[content.decode("latin-1")])).status_code == 200
    assert web.handler.contexts == web.calls[-1:]
    assert web.infer(*binary(len(STRING), STRING)).status_code == 200
    assert web.handler.contents == [content, CONTENT]


def test_nvidias_client_sends_a_scan_and_reads_the_answer(web: Web, triton: Any) -> None:
    scan = triton.InferInput("scan", [1], "BYTES")
    scan.set_data_from_numpy(np.array([CONTENT], object))
    parameters = {"preprocessing": "stripped", "space": "native"}
    body, length = triton.InferenceServerClient.generate_request_body(
        [scan], request_id="mine", parameters=parameters
    )
    answer = web.infer(body, length)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/octet-stream"
    result = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers[LENGTH])
    )
    assert web.handler.contents == [CONTENT]
    (options,) = web.handler.options
    assert (options.preprocessing, options.space) == ("stripped", "native")
    assert result.get_response()["id"] == "mine"
    assert np.array_equal(result.as_numpy("labels"), web.handler.parcellation.labels)
    assert result.as_numpy("affine") == pytest.approx(NATIVE)
    assert result.as_numpy("volumes_mm3").shape == (116,)
    assert result.as_numpy("dseg")[0].startswith(b"\x1f\x8b")
    assert json.loads(result.as_numpy("run")[0])["backend"] == {"name": "fake"}


@pytest.mark.parametrize("count", [1, 3])
def test_nvidias_client_sends_images_and_reads_what_it_wants(
    count: int, web: Web, triton: Any
) -> None:
    values = images(count)
    image = triton.InferInput("image", list(values.shape), "FP32")
    image.set_data_from_numpy(values)
    wanted = [
        triton.InferRequestedOutput("labels", binary_data=True),
        triton.InferRequestedOutput("voxels", binary_data=False),
    ]
    body, length = triton.InferenceServerClient.generate_request_body([image], outputs=wanted)
    answer = web.infer(body, length)
    result = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers[LENGTH])
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["labels", "voxels"]
    assert "data" in result.get_output("voxels")
    assert "data" not in result.get_output("labels")
    assert np.array_equal(result.as_numpy("labels"), known_labels_of(values))
    assert result.as_numpy("voxels").reshape(count, 116).sum(axis=1).tolist() == [360] * count


def test_nvidias_client_may_send_and_ask_for_json_alone(web: Web, triton: Any) -> None:
    scan = triton.InferInput("scan", [1], "BYTES")
    scan.set_data_from_numpy(np.array([CONTENT], object), binary_data=False)
    wanted = [triton.InferRequestedOutput("labels", binary_data=False)]
    body, length = triton.InferenceServerClient.generate_request_body([scan], outputs=wanted)
    assert length is None
    answer = web.infer(body)
    assert LENGTH not in answer.headers
    result = triton.InferenceServerClient.parse_response_body(answer.content)
    assert np.array_equal(result.as_numpy("labels"), web.handler.parcellation.labels)
    assert web.handler.contents == [CONTENT]


def test_an_image_in_nested_lists_is_the_same_as_a_flat_one(web: Web) -> None:
    values = images(1)
    tensor = {"name": "image", "datatype": "FP32", "shape": list(values.shape)}
    wanted = {"outputs": [{"name": "voxels"}]}
    flat, nested = (
        web.infer({"inputs": [tensor | {"data": data}], **wanted})
        for data in (values.ravel().tolist(), values.tolist())
    )
    assert flat.status_code == nested.status_code == 200
    assert flat.json() == nested.json()
    assert sum(flat.json()["outputs"][0]["data"]) == 360


def test_an_output_alone_may_be_binary(web: Web) -> None:
    outputs = [{"name": "affine"}, {"name": "run", "parameters": {"binary_data": True}}]
    answer = web.infer({**scan_json(), "outputs": outputs})
    length = int(answer.headers[LENGTH])
    affine, run = json.loads(answer.content[:length])["outputs"]
    assert "data" in affine
    assert run["parameters"] == {"binary_data_size": len(answer.content) - length}


BINARY = {"name": "scan", "datatype": "BYTES", "shape": [1]}


def binary(size: Any, behind: bytes, **changes: Any) -> tuple[bytes, int]:
    """A body of JSON and bytes, and how long the JSON is."""
    tensor = {**BINARY, "parameters": {"binary_data_size": size}, **changes}
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + behind, len(head)


STRING = len(CONTENT).to_bytes(4, "little") + CONTENT


BAD: dict[str, tuple[Any, Any]] = {
    "nothing": (b"", None),
    "no JSON": (b"\xff\xfe", None),
    "half of the JSON": (b'{"inputs": [', None),
    "a list": (b"[]", None),
    "a number": (b"7", None),
    "JSON without end": (b"[" * 100_000, None),
    "no inputs": ({}, None),
    "inputs that are no list": ({"inputs": {"name": "scan"}}, None),
    "inputs that are no objects": ({"inputs": ["scan"]}, None),
    "outputs that are no list": ({**scan_json(), "outputs": "labels"}, None),
    "parameters that are no object": ({**scan_json(), "parameters": ["full"]}, None),
    "a tensor's parameters": (scan_json(parameters=[]), None),
    "an output's parameters": (
        {**scan_json(), "outputs": [{"name": "labels", "parameters": 1}]},
        None,
    ),
    "an output that there is not": ({**scan_json(), "outputs": [{"name": "x"}]}, None),
    "an output without a name": ({**scan_json(), "outputs": [{}]}, None),
    "no name": ({"inputs": [{"datatype": "BYTES", "shape": [1], "data": ["x"]}]}, None),
    "another type": (scan_json(datatype="FP16"), None),
    "no type": (scan_json(datatype=None), None),
    "no shape": (scan_json(shape=None), None),
    "a shape of halves": (scan_json(shape=[1.0]), None),
    "a shape of words": (scan_json(shape=["one"]), None),
    "a shape of truths": (scan_json(shape=[True]), None),
    "a negative shape": (scan_json(shape=[-1]), None),
    "a huge shape": (scan_json(shape=[10**40, 0], data=[]), None),
    "no data": (scan_json(data=[]), None),
    "two strings": (scan_json(data=["a", "b"]), None),
    "data that are no list": (scan_json(data="x"), None),
    "ragged data": (scan_json(datatype="FP32", shape=[1], data=[[1.0], 2.0]), None),
    "a preprocessing": ({**scan_json(), "parameters": {"preprocessing": "some"}}, None),
    "an option beside the inputs": ({**scan_json(), "preprocessing": "none"}, None),
    "a misspelt parameter": ({**scan_json(), "parameters": {"preprocesing": "none"}}, None),
    "a misspelt field": ({**scan_json(), "parameter": {"preprocessing": "none"}}, None),
    "an option of an input": (scan_json(parameters={"preprocessing": "none"}), None),
    "a misspelt field of an input": (scan_json(dtype="BYTES"), None),
    "an option of an output": (
        {**scan_json(), "outputs": [{"name": "labels", "parameters": {"space": "native"}}]},
        None,
    ),
    "shared memory": (scan_json(parameters={"shared_memory_region": "a"}), None),
    "another model than the path's": ({**scan_json(), "model_name": "compact"}, None),
    "another version": ({**scan_json(), "model_version": "9"}, None),
    "a JSON part beyond the end": (b"{}", 3),
    "a JSON part cut off": (binary(len(STRING), STRING)[0], 10),
    "bytes beyond the end": binary(len(STRING) + 1, STRING),
    "fewer bytes than the string": binary(len(STRING) - 1, STRING),
    "a negative size": binary(-1, STRING),
    "a size of halves": binary(1.5, STRING),
    "a size of words": binary("all", STRING),
    "binary numbers of another size": binary(7, bytes(7), datatype="FP32"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_request_that_is_not_of_the_protocol_is_400(what: str, web: Web) -> None:
    body, length = BAD[what]
    assert error_of(web.infer(body, length)) == (400, "ConfigError")
    assert web.handler.options == []


@pytest.mark.parametrize("length", ["", "-1", "1.5", "x", "9" * 30, "²"])
def test_a_length_of_the_json_that_is_none_is_400(length: str, web: Web) -> None:
    headers = [(LENGTH.encode(), length.encode("latin-1"))]
    answer = web.ask("POST", INFER, content=json.dumps(scan_json()), headers=headers)
    assert error_of(answer) == (400, "ConfigError")


def test_a_scan_that_cannot_be_used_is_422_and_a_busy_service_says_when_to_come_back(
    web: Web,
) -> None:
    web.handler.error = EmptyScan(expected="a head", found="zero", remedy="Look.", subject="JANE")
    answer = web.infer(scan_json())
    assert error_of(answer) == (422, "EmptyScan")
    assert answer.json()["error"]["message"] == "expected a head; found zero. Look."
    web.handler.error = ServiceBusy(expected="a", found="b", remedy="C.", retry_after_s=6.5)
    answer = web.infer(scan_json())
    assert error_of(answer) == (429, "ServiceBusy")
    assert answer.headers["retry-after"] == "7"


def test_a_client_that_leaves_in_the_middle_is_not_a_failure_of_ours(web: Web) -> None:
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]
    messages.append({"type": "http.disconnect"})
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "headers": [], "query_string": b""}
    asyncio.run(web._gate(scope, receive, send))
    assert sent[0]["status"] == 499


@pytest.mark.parametrize(("method", "path"), [("GET", INFER), ("POST", "/v2/models/regions")])
def test_another_method_is_405(method: str, path: str, web: Web) -> None:
    assert web.ask(method, path).status_code == 405
