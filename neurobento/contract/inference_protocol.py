"""The gRPC messages of the Open Inference Protocol (v2), and of its call RepositoryIndex.

The classes are made on import: protoc's code fits few versions of protobuf. They have their own
descriptor pool, because a library such as tritonclient may define the same names.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "METHODS",
    "POOL",
    "SERVICE",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelMetadataResponse",
    "ModelReadyResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "ServerLiveResponse",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
]

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

CALLS = (
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "RepositoryIndex",
    "ModelInfer",
)

PARAMETERS = "map<string, InferParameter> parameters"
TENSOR = ("string name = 1", "string datatype = 2", "repeated int64 shape = 3")

MESSAGES: dict[str, tuple[str, ...]] = {
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("bool live = 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("bool ready = 1",),
    "ModelReadyRequest": ("string name = 1", "string version = 2"),
    "ModelReadyResponse": ("bool ready = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": (
        "string name = 1",
        "string version = 2",
        "repeated string extensions = 3",
    ),
    "ModelMetadataRequest": ("string name = 1", "string version = 2"),
    "ModelMetadataResponse": (
        "string name = 1",
        "repeated string versions = 2",
        "string platform = 3",
        "repeated ModelMetadataResponse.TensorMetadata inputs = 4",
        "repeated ModelMetadataResponse.TensorMetadata outputs = 5",
    ),
    "ModelMetadataResponse.TensorMetadata": TENSOR,
    "RepositoryIndexRequest": ("string repository_name = 1", "bool ready = 2"),
    "RepositoryIndexResponse": ("repeated RepositoryIndexResponse.ModelIndex models = 1",),
    "RepositoryIndexResponse.ModelIndex": (
        "string name = 1",
        "string version = 2",
        "string state = 3",
        "string reason = 4",
    ),
    "InferParameter": (
        "bool bool_param = 1",
        "int64 int64_param = 2",
        "string string_param = 3",
        "double double_param = 4",
        "uint64 uint64_param = 5",
    ),
    "InferTensorContents": (
        "repeated bool bool_contents = 1",
        "repeated int32 int_contents = 2",
        "repeated int64 int64_contents = 3",
        "repeated uint32 uint_contents = 4",
        "repeated uint64 uint64_contents = 5",
        "repeated float fp32_contents = 6",
        "repeated double fp64_contents = 7",
        "repeated bytes bytes_contents = 8",
    ),
    "ModelInferRequest": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        f"{PARAMETERS} = 4",
        "repeated ModelInferRequest.InferInputTensor inputs = 5",
        "repeated ModelInferRequest.InferRequestedOutputTensor outputs = 6",
        "repeated bytes raw_input_contents = 7",
    ),
    "ModelInferRequest.InferInputTensor": (
        *TENSOR,
        f"{PARAMETERS} = 4",
        "InferTensorContents contents = 5",
    ),
    "ModelInferRequest.InferRequestedOutputTensor": ("string name = 1", f"{PARAMETERS} = 2"),
    "ModelInferResponse": (
        "string model_name = 1",
        "string model_version = 2",
        "string id = 3",
        f"{PARAMETERS} = 4",
        "repeated ModelInferResponse.InferOutputTensor outputs = 5",
        "repeated bytes raw_output_contents = 6",
    ),
    "ModelInferResponse.InferOutputTensor": (
        *TENSOR,
        f"{PARAMETERS} = 4",
        "InferTensorContents contents = 5",
    ),
}
"""Message -> its fields, as the published protocol has them; a nested message follows its outer."""

ONEOFS = {"InferParameter": "parameter_choice"}
"""Messages of which one field at a time can be set, and what the protocol calls that choice."""

FIELD = re.compile(
    r"(?P<repeated>repeated )?(?P<type>[\w.]+|map<string, (?P<value>\w+)>)"
    r" (?P<name>\w+) = (?P<number>\d+)"
)


def _file() -> Any:
    """Return the description of the file that the messages and the service make up."""
    file = descriptor_pb2.FileDescriptorProto(
        name="neurobento/inference_protocol.proto", package=PACKAGE, syntax="proto3"
    )
    messages: dict[str, Any] = {}
    for name, fields in MESSAGES.items():
        outer, _, own_name = name.rpartition(".")
        message = messages[outer].nested_type.add() if outer else file.message_type.add()
        messages[name] = message
        message.name = own_name
        if name in ONEOFS:
            message.oneof_decl.add(name=ONEOFS[name])
        for field in fields:
            _add_field(message, name, field)
    service = file.service.add(name=SERVICE.removeprefix(f"{PACKAGE}."))
    for call in CALLS:
        service.method.add(
            name=call,
            input_type=f".{PACKAGE}.{call}Request",
            output_type=f".{PACKAGE}.{call}Response",
        )
    return file


def _add_field(message: Any, full_name: str, text: str) -> None:
    parts = FIELD.fullmatch(text)
    assert parts, text
    kinds = descriptor_pb2.FieldDescriptorProto
    repeated = bool(parts["repeated"] or parts["value"])
    field = message.field.add(
        name=parts["name"],
        number=int(parts["number"]),
        label=kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL,
    )
    type_name = parts["type"]
    if parts["value"]:
        # a map is a repeated message of a key and a value
        type_name = f"{full_name}.ParametersEntry"
        entry = message.nested_type.add(name="ParametersEntry", options={"map_entry": True})
        _add_field(entry, type_name, "string key = 1")
        _add_field(entry, type_name, f"{parts['value']} value = 2")
    scalar = f"TYPE_{type_name.upper()}"
    if scalar in kinds.Type.keys():  # noqa: SIM118  an enum's wrapper, not a mapping
        field.type = kinds.Type.Value(scalar)
    else:
        field.type, field.type_name = kinds.TYPE_MESSAGE, f".{PACKAGE}.{type_name}"
    if full_name in ONEOFS:
        field.oneof_index = 0


POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(_file().SerializeToString())


def _message_class(name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))


METHODS = {
    call: (_message_class(f"{call}Request"), _message_class(f"{call}Response")) for call in CALLS
}
"""Call -> the classes of its request and of its response."""

ServerLiveResponse = METHODS["ServerLive"][1]
ServerReadyRequest, ServerReadyResponse = METHODS["ServerReady"]
ModelReadyResponse = METHODS["ModelReady"][1]
ServerMetadataResponse = METHODS["ServerMetadata"][1]
ModelMetadataResponse = METHODS["ModelMetadata"][1]
RepositoryIndexRequest, RepositoryIndexResponse = METHODS["RepositoryIndex"]
ModelInferRequest, ModelInferResponse = METHODS["ModelInfer"]
