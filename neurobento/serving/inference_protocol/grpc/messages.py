"""Receive the protocol's protobuf messages and convert them to and from plain requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError

from neurobento.contract import inference_protocol as pb
from neurobento.errors import ConfigError, DeadlineExceeded
from neurobento.serving.inference_protocol.protocol import InferRequest
from neurobento.serving.inference_protocol.tensors import Tensor
from neurobento.serving.known_names import require_known_names

__all__ = ["infer_response", "parse_request", "receive_message"]

TRANSPORT_PARAMETERS = {"input": ("binary_data_size",), "output": ("binary_data",)}
TRANSPORT_PARAMETER = "binary_data_output"
"""Parameters that say how tensors lie in a message over HTTP; KServe's client sends them here too,
where they have no meaning."""

CONTENTS = {
    "BYTES": "bytes_contents",
    "UINT8": "uint_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""Data type -> field of the protobuf message that holds such values one by one."""


async def receive_message(requests: AsyncIterator[Any], limit_s: float) -> Any:
    """Return the one message of a call; DeadlineExceeded if its sender is too slow."""
    messages = []
    try:
        async with asyncio.timeout(limit_s):
            # read to the end: gRPC keeps the last message of an unfinished stream in memory
            async for message in requests:
                messages.append(message)
                if len(messages) > 1:
                    break
    except TimeoutError:
        raise DeadlineExceeded(
            expected=f"the whole message within {limit_s:.3g} s",
            found="only a part of it",
            remedy="Send it over a faster connection, or compress the scan.",
        ) from None
    except DecodeError:
        raise ConfigError(
            subject="ModelInfer",
            expected="a ModelInferRequest in protobuf's binary form",
            found="other bytes",
            remedy="Make the message with the protocol's own definition.",
        ) from None
    if len(messages) != 1:
        raise ConfigError(
            subject="ModelInfer",
            expected="one message",
            found="more" if messages else "none",
            remedy="Send one request in a call.",
        )
    return messages[0]


def parse_request(message: Any) -> InferRequest:
    """Convert a ModelInferRequest; raise ConfigError if its tensors contradict themselves."""
    raw_contents = message.raw_input_contents
    if raw_contents and len(raw_contents) != len(message.inputs):
        raise ConfigError(
            subject="raw_input_contents",
            expected="one for each input, or none",
            found=f"{len(raw_contents)} for {len(message.inputs)}",
            remedy="Send every input's content in the same way.",
        )
    for name, tensors in (("input", message.inputs), ("output", message.outputs)):
        for each in tensors:
            elsewhere = "Send options in the request's own `parameters`."
            known = TRANSPORT_PARAMETERS[name]
            require_known_names(f"parameter of an {name}", each.parameters, known, elsewhere)
    inputs = []
    for i, given in enumerate(message.inputs):
        if raw_contents:
            tensor = Tensor.from_raw(given.name, given.datatype, given.shape, raw_contents[i])
        else:
            values = getattr(given.contents, CONTENTS.get(given.datatype, "bytes_contents"))
            tensor = Tensor.from_values(given.name, given.datatype, given.shape, values)
        inputs.append(tensor)
    return InferRequest(
        model=message.model_name,
        version=message.model_version,
        inputs=inputs,
        outputs=[output.name for output in message.outputs],
        parameters={
            name: getattr(value, value.WhichOneof("parameter_choice") or "string_param")
            for name, value in message.parameters.items()
            if name != TRANSPORT_PARAMETER
        },
    )


def infer_response(message: Any, version: str, tensors: list[Tensor]) -> Any:
    outputs = [
        pb.ModelInferResponse.InferOutputTensor(
            name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
        )
        for tensor in tensors
    ]
    return pb.ModelInferResponse(
        model_name=message.model_name,
        model_version=version,
        id=message.id,
        outputs=outputs,
        raw_output_contents=[tensor.raw for tensor in tensors],
    )
