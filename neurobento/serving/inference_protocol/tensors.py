"""Tensors of the Open Inference Protocol, checked on the way in, and what a task does with them."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from neurobento.errors import ConfigError, NotOnNetworkGrid
from neurobento.serving.request import RequestContext

__all__ = [
    "DTYPES",
    "OutputMakers",
    "TaskTensors",
    "Tensor",
    "TensorSpecs",
    "file_content",
    "grid_images",
    "json_tensor",
    "tensor_error",
]

DTYPES: dict[str, type] = {
    "UINT8": np.uint8,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""The protocol's data types that are used here, beside BYTES."""

MAX_AXES = 8


@dataclass(frozen=True)
class Tensor:
    """A named tensor; its values are an array, or for BYTES a list of bytes."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any

    @classmethod
    def from_array(cls, name: str, array: NDArray[Any]) -> Tensor:
        datatype = next(name for name, dtype in DTYPES.items() if array.dtype == dtype)
        return cls(name, datatype, array.shape, np.ascontiguousarray(array))

    @classmethod
    def from_bytes(cls, name: str, content: bytes) -> Tensor:
        return cls(name, "BYTES", (1,), [content])

    @classmethod
    def from_raw(cls, name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
        """Make a tensor from the protocol's binary form; raise ConfigError if a size is wrong."""
        if datatype == "BYTES":
            return cls.from_values(name, datatype, shape, _byte_strings(raw, _size(shape)))
        dtype = np.dtype(_dtype(datatype))
        if len(raw) % dtype.itemsize:
            raise tensor_error("as many bytes as its shape and data type need", f"{len(raw)}")
        return cls.from_values(name, datatype, shape, np.frombuffer(raw, dtype))

    @classmethod
    def from_values(
        cls, name: str, datatype: str, shape: Sequence[int], values: Sequence[Any] | NDArray[Any]
    ) -> Tensor:
        """Make a tensor from a flat sequence of values; raise ConfigError if they do not fit."""
        if len(values) != _size(shape):
            raise tensor_error("as many values as its shape needs", f"{len(values)}")
        sizes = tuple(int(n) for n in shape)
        if datatype == "BYTES":
            return cls(name, datatype, sizes, [bytes(value) for value in values])
        try:
            array: NDArray[Any] = np.asarray(values, _dtype(datatype)).reshape(sizes)
        except (TypeError, ValueError, OverflowError):
            raise tensor_error("values of its data type", "values that do not fit it") from None
        return cls(name, datatype, sizes, array)

    @property
    def raw(self) -> bytes:
        """The protocol's binary form."""
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(value)) + value for value in self.values)
        return bytes(np.ascontiguousarray(self.values).tobytes())


TensorSpecs = Mapping[str, tuple[str, list[int]]]
"""Name of a tensor -> data type and shape; -1 is any size."""

OutputMakers = Mapping[str, Callable[[], Tensor]]
"""Name of an output -> function that makes it, called only if the client wants the output."""


class TaskTensors(Protocol):
    """The inputs and outputs that the models for one task have in the protocol."""

    inputs: TensorSpecs
    """The first of them is a file."""
    outputs: TensorSpecs
    outputs_of_input: Mapping[str, tuple[str, ...]]
    parameters_of_input: Mapping[str, tuple[str, ...]]

    async def infer(
        self, model: str, tensor: Tensor, parameters: Mapping[str, Any], context: RequestContext
    ) -> OutputMakers:
        """Do the work on an input and return a maker of each of its outputs."""


def file_content(tensor: Tensor) -> bytes:
    """Return the content of the one file in a tensor; raise ConfigError for any other tensor."""
    if tensor.datatype != "BYTES" or len(tensor.values) != 1:
        expected = f"`{tensor.name}` to be BYTES [1], the content of one file"
        raise tensor_error(expected, f"{tensor.datatype} {list(tensor.shape)}")
    return bytes(tensor.values[0])


def grid_images(
    tensor: Tensor, shape: tuple[int, ...], max_images: int, file_input: str
) -> NDArray[np.float32]:
    """Return the images (N, 1, *shape) in a tensor, in [0, 1]; raise NotOnNetworkGrid for another.

    The error's remedy recommends `file_input`, the input that takes a file.
    """
    values = tensor.values
    has_axes = tensor.datatype == "FP32" and values.ndim == 2 + len(shape)
    if not has_axes or values.shape[1:] != (1, *shape):
        raise NotOnNetworkGrid(
            expected=f"`{tensor.name}` to be FP32 [N, 1, {', '.join(map(str, shape))}]",
            found=f"{tensor.datatype} {list(tensor.shape)}",
            remedy=f"Send the file itself as `{file_input}`, and it is prepared here.",
        )
    if len(values) > max_images:
        raise tensor_error(f"at most {max_images} of them in `{tensor.name}`", f"{len(values)}")
    if not len(values):
        raise tensor_error(f"at least one image in `{tensor.name}`", "none")
    if not (np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 1):
        expected = f"`{tensor.name}` to hold finite values from 0 to 1"
        raise tensor_error(expected, "values outside that range")
    return np.ascontiguousarray(values)


def json_tensor(name: str, value: Mapping[str, Any]) -> Tensor:
    return Tensor.from_bytes(name, json.dumps(value).encode())


def tensor_error(expected: str, found: str) -> ConfigError:
    return ConfigError(
        subject="inputs",
        expected=f"a tensor with {expected}" if not expected.startswith("`") else expected,
        found=found,
        remedy="The model's metadata state its inputs.",
    )


def _byte_strings(raw: bytes, count: int) -> list[bytes]:
    """Split the binary form of BYTES: each string follows its length in four bytes."""
    strings: list[bytes] = []
    start = 0
    while start < len(raw):
        length = int.from_bytes(raw[start : start + 4], "little")
        end = start + 4 + length
        if len(raw) < start + 4 or end > len(raw):
            raise tensor_error("each string after its length in four bytes", "fewer bytes")
        if len(strings) == count:
            raise tensor_error("as many values as its shape needs", "more")
        strings.append(raw[start + 4 : end])
        start = end
    return strings


def _dtype(datatype: str) -> type:
    if datatype not in DTYPES:
        raise tensor_error(f"a data type among BYTES, {', '.join(DTYPES)}", "another data type")
    return DTYPES[datatype]


def _size(shape: Sequence[int]) -> int:
    """Return the number of values of a shape; raise ConfigError for an impossible shape."""
    if len(shape) > MAX_AXES or any(int(n) < 0 for n in shape):
        raise tensor_error(f"at most {MAX_AXES} axes, none below 0", "other axes")
    return math.prod(int(n) for n in shape)
