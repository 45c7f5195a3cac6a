"""Serve the Open Inference Protocol over HTTP, at /v2, with its binary tensor extension.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from neurobento.errors import ClientGone, ConfigError
from neurobento.serving.error_responses import Endpoint, endpoint_error_responses
from neurobento.serving.inference_protocol.protocol import (
    EXTENSIONS,
    SERVER_NAME,
    InferRequest,
    OpenInference,
    server_version,
)
from neurobento.serving.inference_protocol.tensors import Tensor
from neurobento.serving.known_names import require_known_names

__all__ = ["rest_app"]

REQUEST_FIELDS = ("id", "inputs", "outputs", "parameters", "model_name", "model_version")
"""The last two are the protocol's over gRPC; KServe's client sends them over HTTP too."""
INPUT_FIELDS = ("name", "shape", "datatype", "parameters", "data")
OUTPUT_FIELDS = ("name", "parameters", "shape", "datatype")

JSON_LENGTH = "inference-header-content-length"
"""Header with the length of the JSON part; the tensors in binary form follow it."""


def rest_app(
    inference: Callable[[], OpenInference], is_ready: Callable[[], Awaitable[bool]]
) -> Starlette:
    """Return the ASGI application to mount at /v2; `inference` is called with each request."""
    endpoints = _Endpoints(inference, is_ready)
    routes: list[tuple[str, Endpoint, str]] = [
        ("/", endpoints.server, "GET"),
        ("/health/live", endpoints.live, "GET"),
        ("/health/ready", endpoints.ready, "GET"),
    ]
    for model in ("/models/{model}", "/models/{model}/versions/{version}"):
        routes += [
            (model, endpoints.model, "GET"),
            (f"{model}/ready", endpoints.model_ready, "GET"),
            (f"{model}/infer", endpoints.infer, "POST"),
        ]
    return Starlette(
        routes=[
            Route(path, endpoint_error_responses(endpoint), methods=[method])
            for path, endpoint, method in routes
        ]
    )


class _Endpoints:
    """The protocol's endpoints; a path names a model and may name its version."""

    def __init__(
        self, inference: Callable[[], OpenInference], is_ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._inference, self._is_ready = inference, is_ready

    async def server(self, _: Request) -> Response:
        return JSONResponse(
            {"name": SERVER_NAME, "version": server_version(), "extensions": list(EXTENSIONS)}
        )

    async def live(self, _: Request) -> Response:
        return Response(status_code=200)

    async def ready(self, _: Request) -> Response:
        return Response(status_code=200 if await self._is_ready() else 503)

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._inference().metadata(*_model_and_version(request)))

    async def model_ready(self, request: Request) -> Response:
        self._inference().spec(*_model_and_version(request))
        return await self.ready(request)

    async def infer(self, request: Request) -> Response:
        model, version = _model_and_version(request)
        spec = self._inference().spec(model, version)
        body, json_length = await _read_body(request), request.headers.get(JSON_LENGTH)
        # in a thread: parsing a scan that is sent as JSON numbers takes a second
        head, inputs = await to_thread.run_sync(_parse_body, body, json_length)
        _require_model_of_path(head, model, version or spec.version)
        outputs = [str(output.get("name")) for output in _list(head, "outputs")]
        wants_binary = _binary_outputs(head)
        parameters = _dict(head, "parameters")
        parameters.pop("binary_data_output", None)
        wanted = InferRequest(model, version, inputs, outputs, parameters)
        tensors = await self._inference().infer(wanted, request.state.context)
        answer = {"model_name": model, "model_version": spec.version, "id": str(head.get("id", ""))}
        return await to_thread.run_sync(_infer_response, answer, tensors, wants_binary)


async def _read_body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise ClientGone(
            expected="a whole request",
            found="a client that left in the middle of it",
            remedy="Nothing was kept.",
        ) from None


def _model_and_version(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _parse_body(body: bytes, json_length: str | None) -> tuple[dict[str, Any], list[Tensor]]:
    length = len(body) if json_length is None else _integer(json_length)
    if not 0 <= length <= len(body):
        raise _request_error("a JSON part of the length in the header", "a shorter body")
    try:
        head = json.loads(body[:length])
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise _request_error("a JSON object", "something else")
    _require_known_fields(head)
    return head, _parse_inputs(head, body[length:])


def _require_known_fields(head: dict[str, Any]) -> None:
    elsewhere = 'Send options in `parameters`, as {"parameters": {"preprocessing": "none"}}.'
    require_known_names("field of a request", head, REQUEST_FIELDS, elsewhere)
    for name, fields, parameter in (
        ("input", INPUT_FIELDS, "binary_data_size"),
        ("output", OUTPUT_FIELDS, "binary_data"),
    ):
        for given in _list(head, f"{name}s"):
            require_known_names(f"field of an {name}", given, fields)
            parameters = _dict(given, "parameters")
            what = f"parameter of an {name}"
            require_known_names(what, parameters, (parameter,), elsewhere)


def _require_model_of_path(head: dict[str, Any], model: str, version: str) -> None:
    """Raise ConfigError for a request that names another model than its path."""
    named = str(head.get("model_name") or model), str(head.get("model_version") or version)
    if named != (model, version):
        raise _request_error(f"model {model} {version}, as in the path", "another")


def _parse_inputs(head: dict[str, Any], binary: bytes) -> list[Tensor]:
    """Return the tensors of the inputs; `binary` holds those in binary form, one after another."""
    tensors = []
    for given in _list(head, "inputs"):
        name, datatype = str(given.get("name")), str(given.get("datatype"))
        shape = [_integer(n) for n in _list(given, "shape", of=object)]
        size = _dict(given, "parameters").get("binary_data_size")
        if size is not None:
            length = _integer(size)
            if not 0 <= length <= len(binary):
                raise _request_error("as many bytes after the JSON as its tensors need", "fewer")
            tensors.append(Tensor.from_raw(name, datatype, shape, binary[:length]))
            binary = binary[length:]
        else:
            values = _flatten(_list(given, "data", of=object))
            if datatype == "BYTES":
                values = [str(value).encode("latin-1", "replace") for value in values]
            tensors.append(Tensor.from_values(name, datatype, shape, values))
    return tensors


def _flatten(values: list[Any]) -> list[Any]:
    while values and all(isinstance(each, list) for each in values):
        values = [value for each in values for value in each]
    return values


def _binary_outputs(head: dict[str, Any]) -> Callable[[str], bool]:
    """Return a function that says for an output's name if the client wants it in binary form."""
    default = bool(_dict(head, "parameters").get("binary_data_output", False))
    own = {
        str(output.get("name")): bool(_dict(output, "parameters").get("binary_data", default))
        for output in _list(head, "outputs")
    }
    return lambda name: own.get(name, default)


def _infer_response(
    answer: dict[str, Any], tensors: list[Tensor], wants_binary: Callable[[str], bool]
) -> Response:
    outputs, binary = [], []
    for tensor in tensors:
        output: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if wants_binary(tensor.name):
            binary.append(tensor.raw)
            output["parameters"] = {"binary_data_size": len(binary[-1])}
        elif tensor.datatype == "BYTES":
            output["data"] = [value.decode("latin-1") for value in tensor.values]
        else:
            output["data"] = tensor.values.ravel().tolist()
        outputs.append(output)
    head = json.dumps({**answer, "outputs": outputs}).encode()
    if not binary:
        return Response(head, media_type="application/json")
    headers = {JSON_LENGTH: str(len(head))}
    body = b"".join((head, *binary))
    return Response(body, media_type="application/octet-stream", headers=headers)


def _list(value: dict[str, Any], name: str, of: type = dict) -> list[Any]:
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, of) for each in found):
        raise _request_error(f"`{name}` to be a list", "something else")
    return found


def _dict(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name, {})
    if not isinstance(found, dict):
        raise _request_error(f"`{name}` to be an object", "something else")
    return found


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not (
        isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and len(value) < 12)
    ):
        raise _request_error("whole numbers for lengths and shapes", "something else")
    return int(value)


def _request_error(expected: str, found: str) -> ConfigError:
    return ConfigError(
        subject="request",
        expected=expected,
        found=found,
        remedy="The Open Inference Protocol defines the request.",
    )
