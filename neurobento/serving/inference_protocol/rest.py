"""The Open Inference Protocol over HTTP, at /v2, with its binary tensor extension.

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

from neurobento.errors import ClientGone, ConfigError, NeuroBentoError
from neurobento.serving.error_answers import error_body, error_headers, error_status
from neurobento.serving.inference_protocol.protocol import (
    EXTENSIONS,
    SERVER_NAME,
    InferRequest,
    OpenInference,
    server_version,
)
from neurobento.serving.inference_protocol.tensors import Tensor

__all__ = ["rest_app"]

JSON_LENGTH = "inference-header-content-length"

Endpoint = Callable[[Request], Awaitable[Response]]


def rest_app(inference: Callable[[], OpenInference], ready: Callable[[], Awaitable[bool]]) -> Any:
    """The ASGI application to mount at /v2.

    Parameters
    ----------
    inference
        Gives what answers, once it is there.
    ready
        Whether every part of the service is there.
    """

    async def server(_: Request) -> Response:
        return JSONResponse(
            {"name": SERVER_NAME, "version": server_version(), "extensions": list(EXTENSIONS)}
        )

    async def live(_: Request) -> Response:
        return Response(status_code=200)

    async def is_ready(_: Request) -> Response:
        return Response(status_code=200 if await ready() else 503)

    async def model(request: Request) -> Response:
        return JSONResponse(inference().metadata(*_name(request)))

    async def model_ready(request: Request) -> Response:
        inference().spec(*_name(request))
        return await is_ready(request)

    async def infer(request: Request) -> Response:
        name, version = _name(request)
        model_version = inference().spec(name, version).version
        body, length = await _body(request), request.headers.get(JSON_LENGTH)
        # a scan as JSON numbers takes a second to read
        head, inputs = await to_thread.run_sync(_read, body, length)
        outputs = [str(output.get("name")) for output in _list(head, "outputs")]
        wants_binary = _wants_binary(head)
        asked = InferRequest(name, version, inputs, outputs, _dict(head, "parameters"))
        found = await inference().infer(asked, request.state.context)
        answer = {"model_name": name, "model_version": model_version}
        answer["id"] = str(head.get("id", ""))
        return await to_thread.run_sync(_response, answer, found, wants_binary)

    routes: list[tuple[str, Endpoint]] = [
        ("", server),
        ("/health/live", live),
        ("/health/ready", is_ready),
    ]
    for of_model in ("/models/{model}", "/models/{model}/versions/{version}"):
        routes += [(of_model, model), (f"{of_model}/ready", model_ready)]
    posts = ["/models/{model}/infer", "/models/{model}/versions/{version}/infer"]
    return Starlette(
        routes=[
            *(Route(path or "/", _answered(endpoint)) for path, endpoint in routes),
            *(Route(path, _answered(infer), methods=["POST"]) for path in posts),
        ]
    )


def _answered(endpoint: Endpoint) -> Endpoint:
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except NeuroBentoError as error:
            body = error_body(type(error).__name__, error.public_message, request.state.request_id)
            return JSONResponse(body, error_status(error), error_headers(error))

    return answer


async def _body(request: Request) -> bytes:
    try:
        return await request.body()
    except ClientDisconnect:
        raise ClientGone(
            expected="a whole request",
            found="that the client left in the middle of it",
            remedy="Nothing was kept.",
        ) from None


def _name(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _split(body: bytes, json_length: str | None) -> tuple[dict[str, Any], bytes]:
    """The JSON part of a body, and the tensors behind it."""
    length = len(body) if json_length is None else _integer(json_length)
    if not 0 <= length <= len(body):
        raise _bad("a JSON part of the length that the header says", "a shorter body")
    try:
        head = json.loads(body[:length])
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise _bad("a JSON object", "something else")
    return head, body[length:]


def _read(body: bytes, json_length: str | None) -> tuple[dict[str, Any], list[Tensor]]:
    """What a body says, and its tensors."""
    head, rest = _split(body, json_length)
    return head, _inputs(head, rest)


def _inputs(head: dict[str, Any], rest: bytes) -> list[Tensor]:
    made = []
    for tensor in _list(head, "inputs"):
        name, kind = str(tensor.get("name")), str(tensor.get("datatype"))
        shape = [_integer(n) for n in _list(tensor, "shape", of=object)]
        size = _dict(tensor, "parameters").get("binary_data_size")
        if size is not None:
            length = _integer(size)
            if not 0 <= length <= len(rest):
                raise _bad("as many bytes behind the JSON as its tensors say", "fewer")
            made.append(Tensor.of_raw(name, kind, shape, rest[:length]))
            rest = rest[length:]
        else:
            values = _flat(_list(tensor, "data", of=object))
            if kind == "BYTES":
                values = [str(value).encode("latin-1", "replace") for value in values]
            made.append(Tensor.of_values(name, kind, shape, values))
    return made


def _flat(values: list[Any]) -> list[Any]:
    while values and all(isinstance(each, list) for each in values):
        values = [value for each in values for value in each]
    return values


def _wants_binary(head: dict[str, Any]) -> Callable[[str], bool]:
    """Which outputs are wanted in binary form: each says so, or all at once."""
    default = bool(_dict(head, "parameters").get("binary_data_output", False))
    own = {
        str(output.get("name")): bool(_dict(output, "parameters").get("binary_data", default))
        for output in _list(head, "outputs")
    }
    return lambda name: own.get(name, default)


def _response(
    answer: dict[str, Any], tensors: list[Tensor], wants_binary: Callable[[str], bool]
) -> Response:
    outputs, behind = [], []
    for tensor in tensors:
        described: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.shape),
        }
        if wants_binary(tensor.name):
            behind.append(tensor.raw)
            described["parameters"] = {"binary_data_size": len(behind[-1])}
        elif tensor.datatype == "BYTES":
            described["data"] = [value.decode("latin-1") for value in tensor.values]
        else:
            described["data"] = tensor.values.ravel().tolist()
        outputs.append(described)
    head = json.dumps({**answer, "outputs": outputs}).encode()
    if not behind:
        return Response(head, media_type="application/json")
    headers = {JSON_LENGTH: str(len(head))}
    body = b"".join((head, *behind))
    return Response(body, media_type="application/octet-stream", headers=headers)


def _list(value: dict[str, Any], name: str, of: type = dict) -> list[Any]:
    found = value.get(name, [])
    if not isinstance(found, list) or not all(isinstance(each, of) for each in found):
        raise _bad(f"`{name}` to be a list", "something else")
    return found


def _dict(value: dict[str, Any], name: str) -> dict[str, Any]:
    found = value.get(name, {})
    if not isinstance(found, dict):
        raise _bad(f"`{name}` to be an object", "something else")
    return found


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not (
        isinstance(value, int) or (isinstance(value, str) and value.isdecimal() and len(value) < 12)
    ):
        raise _bad("whole numbers for lengths and shapes", "something else")
    return int(value)


def _bad(expected: str, found: str) -> ConfigError:
    return ConfigError(
        subject="request",
        expected=expected,
        found=found,
        remedy="The Open Inference Protocol says how a request looks.",
    )
