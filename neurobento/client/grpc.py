"""The transport over gRPC, by the Open Inference Protocol (v2)."""

from __future__ import annotations

import math
import ssl
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import numpy as np

from neurobento import errors as e
from neurobento.anomaly.heat_map_file import heat_map_png
from neurobento.client.answers import MAX_RESPONSE_BYTES, AnomalyAnswer, Answer
from neurobento.client.requests import AnomalyRequest, ParcellationRequest, TransferProgress
from neurobento.client.retries import Deadline
from neurobento.client.service_errors import error_from_message, is_retry_after
from neurobento.contract import inference_protocol as pb
from neurobento.default_models import DEFAULT_ANOMALY_MODEL, DEFAULT_MODEL

__all__ = ["GrpcTransport"]

Code = grpc.StatusCode

ERRORS_BY_CODE: dict[Any, type[e.ServiceError]] = {
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

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # `Retries` waits between attempts; a channel that backs off longer would fail them at once
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
]

MASK = "mask.nii.gz"
OUTPUTS = {"dseg": "dseg.nii.gz", "mask": MASK, "run": "run.json"}
"""Output tensor -> its file; the other files can be made from these."""

ANOMALY_OUTPUTS = {"run": "anomaly.json", "overlay": "overlay.png"}
HEAT_MAP, HEAT_MAP_FILE = "heat_map", "heatmap.png"
"""An array, and the file that is made from it here."""


class GrpcTransport:
    """A service's gRPC API over one channel to `HOST:PORT`."""

    def __init__(self, target: str, token: str | None, *, tls: bool) -> None:
        if tls:
            credentials = grpc.ssl_channel_credentials(_system_certificates())
            self._channel = grpc.secure_channel(target, credentials, CHANNEL_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, CHANNEL_OPTIONS)
        self._methods = {
            name: self._channel.unary_unary(
                f"/{pb.SERVICE}/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (request, response) in pb.METHODS.items()
        }
        self._metadata = [("authorization", f"Bearer {token}")] if token else []

    def parcellate(
        self, request: ParcellationRequest, deadline: Deadline, progress: TransferProgress
    ) -> Answer:
        """Send a scan and return the parcellation; gRPC reports no bytes meanwhile."""
        parameters = {"preprocessing": request.preprocessing, "space": request.space}
        message = _infer_request(request, DEFAULT_MODEL, "scan", OUTPUTS, parameters)
        response = self._infer(message, deadline, progress)
        files = {file: _bytes_output(response, name) for name, file in OUTPUTS.items()}
        # only preprocessing of version 2 gives a mask
        if not files[MASK]:
            del files[MASK]
        return Answer(files, request.request_id)

    def anomaly(
        self, request: AnomalyRequest, deadline: Deadline, progress: TransferProgress
    ) -> AnomalyAnswer:
        """Send a slice and return its anomaly score and pictures."""
        outputs = (*ANOMALY_OUTPUTS, HEAT_MAP)
        message = _infer_request(request, DEFAULT_ANOMALY_MODEL, "slice", outputs)
        response = self._infer(message, deadline, progress)
        files = {file: _bytes_output(response, name) for name, file in ANOMALY_OUTPUTS.items()}
        files[HEAT_MAP_FILE] = _heat_map_png(response)
        return AnomalyAnswer(files, request.request_id)

    def models(self, deadline: Deadline) -> list[dict[str, Any]]:
        """Return name and version of each model, by the protocol's extension RepositoryIndex."""
        try:
            response = self._call(
                "RepositoryIndex", pb.RepositoryIndexRequest(ready=True), deadline
            )
        except e.RequestRefused:
            raise e.RequestRefused(
                expected="a service that lists its models over gRPC",
                found="one that does not",
                remedy="Ask it over HTTP.",
            ) from None
        return [{"name": model.name, "version": model.version} for model in response.models]

    def ready(self, deadline: Deadline) -> bool:
        """Return the answer of ServerReady."""
        return bool(self._call("ServerReady", pb.ServerReadyRequest(), deadline).ready)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _infer(self, message: Any, deadline: Deadline, progress: TransferProgress) -> Any:
        progress("uploading", None)
        return self._call("ModelInfer", message, deadline, ("x-request-id", message.id))

    def _call(
        self, method: str, message: Any, deadline: Deadline, *metadata: tuple[str, str]
    ) -> Any:
        try:
            return self._methods[method](
                message, timeout=deadline.remaining_s, metadata=[*self._metadata, *metadata]
            )
        except grpc.RpcError as error:
            if error.code() is Code.DEADLINE_EXCEEDED and deadline.is_over:
                raise deadline.error() from error
            raise _error_from_status(error) from error


def _infer_request(
    request: ParcellationRequest | AnomalyRequest,
    default_model: str,
    tensor: str,
    outputs: Iterable[str],
    parameters: Mapping[str, str] | None = None,
) -> Any:
    """Return the message that sends a file as the one element of an input tensor."""
    message = pb.ModelInferRequest(model_name=request.model or default_model, id=request.request_id)
    message.inputs.add(name=tensor, datatype="BYTES", shape=[1])
    message.raw_input_contents.append(struct.pack("<I", len(request.content)) + request.content)
    for name, value in (parameters or {}).items():
        message.parameters[name].string_param = value
    for name in outputs:
        message.outputs.add(name=name)
    return message


def _system_certificates() -> bytes | None:
    """Return the certificates that HTTPS trusts here; None leaves it to gRPC's own."""
    file = ssl.get_default_verify_paths().cafile
    return Path(file).read_bytes() if file else None


def _error_from_status(error: Any) -> e.NeuroBentoError:
    code, details = error.code(), error.details() or ""
    kind = ERRORS_BY_CODE.get(code, e.ServiceError)
    # gRPC's own limit on messages has the code of a full queue, but waiting does not help
    if code is Code.RESOURCE_EXHAUSTED and "larger than max" in details:
        kind = e.RequestRefused
    # a bad certificate will be as bad the next time
    if "CERTIFICATE" in details:
        kind = e.ServiceError
    trailing = {key: str(value) for key, value in error.trailing_metadata() or ()}
    after = trailing.get("retry-after", "")
    return error_from_message(
        kind,
        details,
        status=f"gRPC {code.name}",
        type_name=trailing.get("error-type", ""),
        retry_after_s=float(after) if is_retry_after(after) else None,
    )


def _raw_output(response: Any, name: str, datatype: str) -> tuple[tuple[int, ...], bytes] | None:
    """Return shape and bytes of an output; None if it is missing or of another type."""
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=False):
        if output.name == name and output.datatype == datatype:
            return tuple(output.shape), raw
    return None


def _bytes_output(response: Any, name: str) -> bytes:
    """Return the one element of a BYTES output, which its length precedes."""
    match _raw_output(response, name, "BYTES"):
        case (shape, raw) if math.prod(shape) == 1 and raw[:4] == struct.pack("<I", len(raw) - 4):
            return raw[4:]
    raise _missing_output(f"an output {name} of one BYTES element")


def _heat_map_png(response: Any) -> bytes:
    """Return the heat map as the PNG that the service's zip over HTTP holds."""
    match _raw_output(response, HEAT_MAP, "FP32"):
        case ((rows, columns), raw) if rows > 0 and 0 < 4 * rows * columns == len(raw):
            values = np.frombuffer(raw, "<f4").reshape(rows, columns)
            if np.isfinite(values).all():
                return heat_map_png(values)
    raise _missing_output(f"an output {HEAT_MAP} of finite FP32 values in rows and columns")


def _missing_output(expected: str) -> e.ServiceError:
    return e.ServiceError(
        expected=expected,
        found="an answer without it",
        remedy="Check that a neurobento service answers there.",
    )
