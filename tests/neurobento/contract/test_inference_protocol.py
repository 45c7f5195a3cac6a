"""The messages are those of the published protocol, as another implementation has them."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

from neurobento.contract import inference_protocol as own


def described(file: Any) -> Any:
    description = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(description)
    return description


OWN = described(own.POOL.FindFileContainingSymbol(own.SERVICE))
PUBLISHED = described(service_pb2.DESCRIPTOR)


def without_json_names(message: Any) -> Any:
    """The message without what protoc fills in and no wire format sees."""
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        without_json_names(nested)
    ordered = sorted(message.nested_type, key=lambda nested: nested.name)
    del message.nested_type[:]
    message.nested_type.extend(ordered)
    return message


@pytest.mark.parametrize("name", [message.name for message in OWN.message_type])
def test_a_message_has_the_published_fields(name: str) -> None:
    own_message, published = (
        without_json_names(next(m for m in file.message_type if m.name == name))
        for file in (OWN, PUBLISHED)
    )
    assert own_message == published


@pytest.mark.parametrize("name", own.METHODS)
def test_a_call_is_the_published_one(name: str) -> None:
    own_call, published = (
        next(call for call in file.service[0].method if call.name == name)
        for file in (OWN, PUBLISHED)
    )
    assert (own_call.input_type, own_call.output_type) == (
        published.input_type,
        published.output_type,
    )


def test_the_service_has_the_published_name() -> None:
    published = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert published.full_name == own.SERVICE


def test_what_one_implementation_writes_the_other_reads() -> None:
    request = own.ModelInferRequest(model_name="regions", id="1", raw_input_contents=[b"scan"])
    request.inputs.add(name="scan", datatype="BYTES", shape=[1])
    request.parameters["preprocessing"].string_param = "full"
    theirs = service_pb2.ModelInferRequest.FromString(request.SerializeToString())
    assert theirs.parameters["preprocessing"].string_param == "full"
    assert own.ModelInferRequest.FromString(theirs.SerializeToString()) == request
