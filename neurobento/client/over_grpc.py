"""To a service over gRPC, by the Open Inference Protocol (v2)."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
from tritonclient.grpc import (  # type: ignore[import-untyped]
    InferResult,
    service_pb2,
    service_pb2_grpc,
)
from tritonclient.utils import InferenceServerException  # type: ignore[import-untyped]

from neurobento import errors as e
from neurobento.client.exchange import (
    MAX_ANSWER_BYTES,
    AnomalyAnswer,
    Answer,
    Ask,
    AskAnomaly,
    Progress,
)
from neurobento.client.refusals import error_of, is_retry_after
from neurobento.client.retries import Deadline
from neurobento.registry import DEFAULT_ANOMALY_MODEL, DEFAULT_MODEL

__all__ = ["GrpcTransport"]

Code = grpc.StatusCode

KINDS: dict[Any, type[e.ServiceError]] = {
    Code.RESOURCE_EXHAUSTED: e.ServiceBusy,
    Code.UNAVAILABLE: e.ServiceUnavailable,
    Code.DEADLINE_EXCEEDED: e.DeadlineExceeded,
    Code.CANCELLED: e.ClientGone,
    Code.UNAUTHENTICATED: e.NotAuthorised,
    Code.INVALID_ARGUMENT: e.RequestRefused,
    Code.NOT_FOUND: e.RequestRefused,
    Code.PERMISSION_DENIED: e.RequestRefused,
    Code.FAILED_PRECONDITION: e.RequestRefused,
    Code.OUT_OF_RANGE: e.RequestRefused,
    Code.UNIMPLEMENTED: e.RequestRefused,
}
"""Any other code is a `ServiceError`."""

OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
    ("grpc.enable_http_proxy", 0),
    # the waits between tries are ours: a channel that is still sulking would fail them unasked
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

OUTPUTS = {"dseg": "dseg.nii.gz", "run": "run.json"}
"""Outputs that are asked for and the files they are; the others can be had from these two."""

ANOMALY_OUTPUTS = {"run": "anomaly.json", "overlay": "overlay.png"}
HEAT_MAP, HEAT_MAP_FILE = "heat_map", "heatmap.png"
"""An array, and the file that is made of it here."""


class GrpcTransport:
    """A service's gRPC API over one channel.

    Parameters
    ----------
    target
        `HOST:PORT`.
    token
        Sent as `authorization: Bearer` in the metadata.
    tls
        Whether the channel is encrypted and the service has to prove its name.
    """

    def __init__(self, target: str, token: str | None, *, tls: bool) -> None:
        if tls:
            credentials = grpc.ssl_channel_credentials(_system_certificates())
            self._channel = grpc.secure_channel(target, credentials, OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, OPTIONS)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def parcellate(self, ask: Ask, deadline: Deadline, progress: Progress) -> Answer:
        """The service's answer to one request; gRPC does not tell how far it is."""
        parameters = {"preprocessing": ask.preprocessing, "space": ask.space}
        request = _request(ask, DEFAULT_MODEL, "scan", OUTPUTS, parameters)
        result = self._infer(request, ask.request_id, deadline, progress)
        files = {file: _only_element(result, name) for name, file in OUTPUTS.items()}
        return Answer(files, ask.request_id)

    def anomaly(self, ask: AskAnomaly, deadline: Deadline, progress: Progress) -> AnomalyAnswer:
        """The service's answer to one request about a slice."""
        wanted = (*ANOMALY_OUTPUTS, HEAT_MAP)
        request = _request(ask, DEFAULT_ANOMALY_MODEL, "slice", wanted)
        result = self._infer(request, ask.request_id, deadline, progress)
        files = {file: _only_element(result, name) for name, file in ANOMALY_OUTPUTS.items()}
        files[HEAT_MAP_FILE] = _heat_map(result)
        return AnomalyAnswer(files, ask.request_id)

    def models(self, deadline: Deadline) -> list[dict[str, Any]]:
        """Name and version of each model in the service's repository index, if it keeps one.

        That call is an extension of the protocol, which lists no models itself.
        """
        request = service_pb2.RepositoryIndexRequest(ready=True)
        try:
            response = self._call("RepositoryIndex", request, deadline)
        except e.RequestRefused:
            raise e.RequestRefused(
                expected="a service that lists its models over gRPC",
                found="one that does not",
                remedy="Ask it over HTTP.",
            ) from None
        return [{"name": model.name, "version": model.version} for model in response.models]

    def ready(self, deadline: Deadline) -> bool:
        """What ServerReady says."""
        return bool(self._call("ServerReady", service_pb2.ServerReadyRequest(), deadline).ready)

    def close(self) -> None:
        """End the channel."""
        self._channel.close()

    def _infer(self, request: Any, request_id: str, deadline: Deadline, progress: Progress) -> Any:
        progress("uploading", None)
        response = self._call("ModelInfer", request, deadline, ("x-request-id", request_id))
        return InferResult(response)

    def _call(
        self, method: str, request: Any, deadline: Deadline, *metadata: tuple[str, str]
    ) -> Any:
        try:
            return getattr(self._stub, method)(
                request, timeout=deadline.left_s, metadata=[*self._metadata, *metadata]
            )
        except grpc.RpcError as error:
            if error.code() is Code.DEADLINE_EXCEEDED and deadline.is_over:
                raise deadline.exceeded() from error
            raise _refusal(error) from error


def _request(
    ask: Ask | AskAnomaly,
    default_model: str,
    tensor: str,
    outputs: Iterable[str],
    parameters: Mapping[str, str] | None = None,
) -> Any:
    """The message that asks a model about a file, the content of a tensor of that name."""
    request = service_pb2.ModelInferRequest(
        model_name=ask.model or default_model, id=ask.request_id
    )
    request.inputs.add(name=tensor, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(ask.content)) + ask.content)
    for name, value in (parameters or {}).items():
        request.parameters[name].string_param = value
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _system_certificates() -> bytes | None:
    """The certificates that HTTPS trusts here; None leaves it to gRPC's own."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file else None


def _refusal(error: Any) -> e.NeuroBentoError:
    """The error that a status stands for."""
    code, details = error.code(), error.details() or ""
    kind = KINDS.get(code, e.ServiceError)
    # gRPC's own limit on messages has the code of a full queue, but waiting does not help
    if code is Code.RESOURCE_EXHAUSTED and "larger than max" in details:
        kind = e.RequestRefused
    # a certificate is as wrong the next time
    if "CERTIFICATE" in details:
        kind = e.ServiceError
    trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
    after = trailing.get("retry-after", "")
    return error_of(
        kind,
        details,
        answered=f"gRPC {code.name}",
        type_name=trailing.get("error-type", ""),
        retry_after_s=float(after) if is_retry_after(after) else None,
    )


def _only_element(result: Any, name: str) -> bytes:
    """The one element of a BYTES output."""
    try:
        (content,) = result.as_numpy(name).ravel()
        if isinstance(content, bytes):
            return content
    # missing; not as long as it says; of another shape or type
    except (AttributeError, struct.error, ValueError, TypeError, InferenceServerException):
        pass
    raise _no_output(f"an output {name} of one BYTES element")


def _heat_map(result: Any) -> bytes:
    """The PNG of a heat map, as the service's zip over HTTP holds it."""
    import numpy as np

    from neurobento.anomaly.outputs import heat_map_png

    try:
        values = result.as_numpy(HEAT_MAP)
        if values.dtype == np.float32 and values.ndim == 2 and np.isfinite(values).all():
            return heat_map_png(values)
    # missing; not as long as it says; empty
    except (AttributeError, struct.error, ValueError, TypeError, InferenceServerException):
        pass
    raise _no_output(f"an output {HEAT_MAP} of finite FP32 values in rows and columns")


def _no_output(expected: str) -> e.ServiceError:
    return e.ServiceError(
        expected=expected,
        found="none",
        remedy="Check that a neurobento service answers there.",
    )
