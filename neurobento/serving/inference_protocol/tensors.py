"""Tensors of the Open Inference Protocol, and what a task makes of them."""

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
    "bad_tensor",
    "content_of",
    "images_of",
    "json_tensor",
]

DTYPES: dict[str, type] = {
    "UINT8": np.uint8,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""Data types of the protocol that are used here, beside BYTES."""

MOST_AXES = 8


@dataclass(frozen=True)
class Tensor:
    """A named tensor on its way in or out.

    Attributes
    ----------
    name
        As the metadata have it.
    datatype
        BYTES, or one of `DTYPES`.
    shape
        As many numbers as its values say.
    values
        An array, or for BYTES a list of bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Any

    @classmethod
    def of_array(cls, name: str, array: NDArray[Any]) -> Tensor:
        """An array as a tensor."""
        kind = next(name for name, dtype in DTYPES.items() if array.dtype == dtype)
        return cls(name, kind, array.shape, np.ascontiguousarray(array))

    @classmethod
    def of_bytes(cls, name: str, content: bytes) -> Tensor:
        """One string of bytes as a tensor."""
        return cls(name, "BYTES", (1,), [content])

    @classmethod
    def of_raw(cls, name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Tensor:
        """A tensor from the protocol's binary form.

        Raises
        ------
        ConfigError
            Another data type, or not as many bytes as the shape says.
        """
        if datatype == "BYTES":
            return cls.of_values(name, datatype, shape, _strings(raw, _count(shape)))
        dtype = np.dtype(_dtype(datatype))
        if len(raw) % dtype.itemsize:
            raise bad_tensor("as many bytes as its shape and data type say", f"{len(raw)}")
        return cls.of_values(name, datatype, shape, np.frombuffer(raw, dtype))

    @classmethod
    def of_values(
        cls,
        name: str,
        datatype: str,
        shape: Sequence[int],
        values: Sequence[Any] | NDArray[Any],
    ) -> Tensor:
        """A tensor from its values one by one.

        Raises
        ------
        ConfigError
            Another data type, not as many values as the shape says, or other ones.
        """
        if len(values) != _count(shape):
            raise bad_tensor("as many values as its shape says", f"{len(values)}")
        sizes = tuple(int(n) for n in shape)
        if datatype == "BYTES":
            return cls(name, datatype, sizes, [bytes(value) for value in values])
        try:
            array: NDArray[Any] = np.asarray(values, _dtype(datatype)).reshape(sizes)
        except (TypeError, ValueError, OverflowError):
            raise bad_tensor("values of its data type", "others") from None
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
"""Name of an output -> what makes it, once it is known that it is wanted."""


class TaskTensors(Protocol):
    """What the protocol offers of the models for one task.

    Attributes
    ----------
    inputs, outputs
        What it takes and gives.
    gives
        Which input gives which outputs. The first input is a file.
    """

    inputs: TensorSpecs
    outputs: TensorSpecs
    gives: Mapping[str, tuple[str, ...]]

    async def infer(
        self, model: str, tensor: Tensor, parameters: Mapping[str, Any], call: RequestContext
    ) -> OutputMakers:
        """What makes each output that an input gives."""


def content_of(tensor: Tensor) -> bytes:
    """The content of one file.

    Raises
    ------
    ConfigError
        The tensor holds something else.
    """
    if tensor.datatype != "BYTES" or len(tensor.values) != 1:
        expected = f"`{tensor.name}` to be BYTES [1], the content of one file"
        raise bad_tensor(expected, tensor.datatype)
    return bytes(tensor.values[0])


def images_of(tensor: Tensor, shape: tuple[int, ...], most: int, file: str) -> NDArray[np.float32]:
    """Images (N, 1, *shape) on a network's grid.

    Parameters
    ----------
    tensor
        As it came.
    shape
        Of the grid.
    most
        Images in one request.
    file
        Name of the input to be used instead for what is not on the grid.

    Raises
    ------
    NotOnNetworkGrid
        Another shape or type.
    ConfigError
        Too many of them, none, or other values than 0 to 1.
    """
    values = tensor.values
    of_shape = tensor.datatype == "FP32" and values.ndim == 2 + len(shape)
    if not of_shape or values.shape[1:] != (1, *shape):
        raise NotOnNetworkGrid(
            expected=f"`{tensor.name}` to be FP32 [N, 1, {', '.join(map(str, shape))}]",
            found=f"{len(tensor.shape)} dimensions, or others",
            remedy=f"Send the file itself as `{file}`, and it is prepared here.",
        )
    if len(values) > most:
        raise bad_tensor(f"at most {most} of them in `{tensor.name}`", f"{len(values)}")
    if not (len(values) and np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 1):
        expected = f"`{tensor.name}` to hold finite values from 0 to 1"
        raise bad_tensor(expected, "others, or no image")
    return np.ascontiguousarray(values)


def json_tensor(name: str, value: Mapping[str, Any]) -> Tensor:
    """Facts as a tensor of one string of JSON."""
    return Tensor.of_bytes(name, json.dumps(value).encode())


def _strings(raw: bytes, count: int) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        end = place + 4 + size
        if len(raw) < place + 4 or end > len(raw):
            raise bad_tensor("each of its strings behind its length in four bytes", "fewer bytes")
        if len(found) == count:
            raise bad_tensor("as many values as its shape says", "more")
        found.append(raw[place + 4 : end])
        place = end
    return found


def _dtype(datatype: str) -> type:
    if datatype not in DTYPES:
        raise bad_tensor(f"a data type among BYTES, {', '.join(DTYPES)}", "another")
    return DTYPES[datatype]


def _count(shape: Sequence[int]) -> int:
    """How many values a shape speaks of.

    Raises
    ------
    ConfigError
        It is no shape that anything here has.
    """
    if len(shape) > MOST_AXES or any(int(n) < 0 for n in shape):
        raise bad_tensor(f"at most {MOST_AXES} axes, none below 0", "other axes")
    return math.prod(int(n) for n in shape)


def bad_tensor(expected: str, found: str) -> ConfigError:
    """The error of a tensor that is not what it should be."""
    return ConfigError(
        subject="inputs",
        expected=f"a tensor with {expected}" if not expected.startswith("`") else expected,
        found=found,
        remedy="The model's metadata say what it takes.",
    )
