"""The Open Inference Protocol, version 2, without its transports.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

A request names a model and brings either `scan`, the bytes of a scan's file, or
`image`, scans on the network grid already; parameters say the preprocessing and the
space, as the HTTP form does. `serving.grpc_server` and `serving.rest` bring requests here.
"""

from __future__ import annotations

import contextlib
import json
import math
import struct
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from anyio import to_thread
from numpy.typing import NDArray

from neurobento.errors import ConfigError, ModelNotFound, NotOnNetworkGrid
from neurobento.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.report import run_facts
from neurobento.spec import ModelSpec
from serving.calls import Call
from serving.front import UPLOAD_PREFIX, Front, Options, dseg
from serving.metrics import stage
from serving.room import needs_room
from serving.tracing import span

__all__ = [
    "EXTENSIONS",
    "SERVER_NAME",
    "Asked",
    "OpenInference",
    "Tensor",
    "server_version",
]

SERVER_NAME = "neurobento"
EXTENSIONS = ("binary_tensor_data",)

DTYPES: dict[str, type] = {
    "UINT8": np.uint8,
    "INT64": np.int64,
    "FP32": np.float32,
    "FP64": np.float64,
}
"""Data types of the protocol that are used here, beside BYTES."""

OUTPUTS = {
    "scan": ("labels", "affine", "volumes_mm3", "dseg", "run"),
    "image": ("labels", "voxels", "run"),
}
"""Which input gives which outputs."""

REGIONS = CLASS_COUNT - 1
MOST_AXES = 8
MOST_IMAGES = 16
"""In one request: it has one place, like a single scan."""

DEFAULT_LEVEL = "full"


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
            raise _bad_tensor("as many bytes as its shape and data type say", f"{len(raw)}")
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
            raise _bad_tensor("as many values as its shape says", f"{len(values)}")
        sizes = tuple(int(n) for n in shape)
        if datatype == "BYTES":
            return cls(name, datatype, sizes, [bytes(value) for value in values])
        try:
            array: NDArray[Any] = np.asarray(values, _dtype(datatype)).reshape(sizes)
        except (TypeError, ValueError, OverflowError):
            raise _bad_tensor("values of its data type", "others") from None
        return cls(name, datatype, sizes, array)

    @property
    def raw(self) -> bytes:
        """The protocol's binary form."""
        if self.datatype == "BYTES":
            return b"".join(struct.pack("<I", len(value)) + value for value in self.values)
        return bytes(np.ascontiguousarray(self.values).tobytes())


@dataclass(frozen=True)
class Asked:
    """A request for inference.

    Attributes
    ----------
    model, version
        Of the model; an empty version stands for the one there is.
    inputs
        Its tensors.
    outputs
        Names of the tensors that are wanted; none for all.
    parameters
        `preprocessing` and `space`.
    """

    model: str
    version: str
    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


class OpenInference:
    """What the protocol offers, by the front that does the work.

    Parameters
    ----------
    front
        Answers.
    specs
        Of the models served.
    """

    def __init__(self, front: Front, specs: Sequence[ModelSpec]) -> None:
        self._front = front
        self._specs = {spec.name: spec for spec in specs}

    @property
    def specs(self) -> list[ModelSpec]:
        """Of all models served."""
        return list(self._specs.values())

    def spec(self, model: str, version: str = "") -> ModelSpec:
        """The spec of a model.

        Raises
        ------
        ModelNotFound
            There is none of that name and version.
        """
        spec = self._specs.get(model)
        if spec is None or version not in ("", spec.version):
            raise ModelNotFound(
                subject="model",
                expected="one of "
                + ", ".join(f"{s.name} {s.version}" for s in self._specs.values()),
                found="another name or version",
                remedy="Name one of these; the version may be left out.",
            )
        return spec

    def metadata(self, model: str, version: str = "") -> dict[str, Any]:
        """Name, versions, platform, inputs and outputs of a model."""
        spec = self.spec(model, version)
        return {
            "name": spec.name,
            "versions": [spec.version],
            "platform": "onnx_onnxv1",
            "inputs": [
                _described("scan", "BYTES", [1]),
                _described("image", "FP32", [-1, 1, *NETWORK_SHAPE]),
            ],
            "outputs": [
                # of `image` one dimension more, the scans
                _described("labels", "UINT8", [-1, -1, -1]),
                _described("affine", "FP64", [4, 4]),
                _described("volumes_mm3", "FP64", [REGIONS]),
                _described("voxels", "INT64", [-1, REGIONS]),
                _described("dseg", "BYTES", [1]),
                _described("run", "BYTES", [1]),
            ],
        }

    async def infer(self, asked: Asked, call: Call) -> list[Tensor]:
        """The tensors that are wanted.

        Raises
        ------
        ConfigError
            Inputs, outputs or parameters that there are not, or an output named twice.
        NeuroBentoError
            As `Front.parcellate`.
        """
        spec = self.spec(asked.model, asked.version)
        level = str(asked.parameters.get("preprocessing", DEFAULT_LEVEL))
        space = str(asked.parameters.get("space", "native"))
        (tensor,) = asked.inputs if len(asked.inputs) == 1 else (None,)
        if tensor is not None:
            _require_outputs(tensor.name, asked.outputs)
        if tensor is not None and tensor.name == "scan":
            options = Options(spec.name, level, space)
            makers = await self._of_scan(_content(tensor), options, call)
        elif tensor is not None and tensor.name == "image":
            makers = await self._of_image(_image(tensor), Options(spec.name, "none", space), call)
        else:
            raise ConfigError(
                subject="inputs",
                expected="one input, `scan` or `image`",
                found=f"{len(asked.inputs)}, or of another name",
                remedy="Send a scan's file as `scan`, BYTES [1].",
            )
        wanted = asked.outputs or list(makers)
        return await call.run(_packed([makers[name] for name in wanted], spec.name))

    async def _of_scan(
        self, content: bytes, options: Options, call: Call
    ) -> dict[str, Callable[[], Tensor]]:
        with contextlib.ExitStack() as stack:
            with needs_room():
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=UPLOAD_PREFIX))
                file = Path(folder, "scan")
                await to_thread.run_sync(file.write_bytes, content)
            found = await self._front.parcellate(file, options, call)
        facts = await call.run(self._front.facts(options.model))
        native = options.space == "native"
        grid = found.prepared.grid
        labels = found.labels if native else found.network_labels
        affine = found.prepared.space.voxel_to_ras if native else grid.network_voxel_to_ras
        volumes = np.array([v.volume_mm3 for v in found.volumes], np.float64)
        return {
            "labels": lambda: Tensor.of_array("labels", labels),
            "affine": lambda: Tensor.of_array("affine", np.asarray(affine, np.float64)),
            "volumes_mm3": lambda: Tensor.of_array("volumes_mm3", volumes),
            "dseg": lambda: Tensor.of_bytes("dseg", dseg(found, options.space)),
            "run": lambda: Tensor.of_bytes("run", _json(run_facts(found, facts))),
        }

    async def _of_image(
        self, images: NDArray[np.float32], options: Options, call: Call
    ) -> dict[str, Callable[[], Tensor]]:
        labels = await self._front.segment(images, options, call)
        facts = await call.run(self._front.facts(options.model))
        return {
            "labels": lambda: Tensor.of_array("labels", labels),
            "voxels": lambda: Tensor.of_array("voxels", _counts(labels)),
            "run": lambda: Tensor.of_bytes("run", _json(facts)),
        }


def server_version() -> str:
    """Of the package as it is installed; a bento holds the code alone, and has a version itself."""
    try:
        return metadata.version(SERVER_NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


async def _packed(makers: Sequence[Callable[[], Tensor]], model: str) -> list[Tensor]:
    with stage("encode", model), span("encode"):
        return await to_thread.run_sync(lambda: [make() for make in makers])


def _require_outputs(tensor: str, wanted: Sequence[str]) -> None:
    """Check that an input gives these outputs, each wanted once, before any work is done."""
    if repeated := len(wanted) - len(set(wanted)):
        raise ConfigError(
            subject="outputs",
            expected="each output to be asked for once",
            found=f"{repeated} more than once",
            remedy="Name an output once, or none to get all.",
        )
    known = OUTPUTS.get(tensor, ())
    if known and (unknown := len(set(wanted) - set(known))):
        raise ConfigError(
            subject="outputs",
            expected=f"outputs among {', '.join(known)}",
            found=f"{unknown} others",
            remedy="Ask for these, or for none by name to get all.",
        )


def _counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, 116) voxels of each region."""
    return np.stack(
        [np.bincount(each.ravel(), minlength=CLASS_COUNT)[1:CLASS_COUNT] for each in labels]
    ).astype(np.int64)


def _content(tensor: Tensor) -> bytes:
    if tensor.datatype != "BYTES" or len(tensor.values) != 1:
        raise _bad_tensor("`scan` to be BYTES [1], the content of one file", tensor.datatype)
    return bytes(tensor.values[0])


def _image(tensor: Tensor) -> NDArray[np.float32]:
    values = tensor.values
    if tensor.datatype != "FP32" or values.ndim != 5 or values.shape[1:] != (1, *NETWORK_SHAPE):
        raise NotOnNetworkGrid(
            expected=f"`image` to be FP32 [N, 1, {', '.join(map(str, NETWORK_SHAPE))}]",
            found=f"{len(tensor.shape)} dimensions, or others",
            remedy="Send the file itself as `scan`, and it is prepared here.",
        )
    if len(values) > MOST_IMAGES:
        raise _bad_tensor(f"at most {MOST_IMAGES} scans in `image`", f"{len(values)}")
    if not (len(values) and np.isfinite(values).all() and 0 <= values.min() <= values.max() <= 1):
        raise _bad_tensor("`image` to hold finite values from 0 to 1", "others, or no scan")
    return np.ascontiguousarray(values)


def _strings(raw: bytes, count: int) -> list[bytes]:
    found: list[bytes] = []
    place = 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "little")
        end = place + 4 + size
        if len(raw) < place + 4 or end > len(raw):
            raise _bad_tensor("each of its strings behind its length in four bytes", "fewer bytes")
        if len(found) == count:
            raise _bad_tensor("as many values as its shape says", "more")
        found.append(raw[place + 4 : end])
        place = end
    return found


def _dtype(datatype: str) -> type:
    if datatype not in DTYPES:
        raise _bad_tensor(f"a data type among BYTES, {', '.join(DTYPES)}", "another")
    return DTYPES[datatype]


def _count(shape: Sequence[int]) -> int:
    """How many values a shape speaks of.

    Raises
    ------
    ConfigError
        It is no shape that anything here has.
    """
    if len(shape) > MOST_AXES or any(int(n) < 0 for n in shape):
        raise _bad_tensor(f"at most {MOST_AXES} axes, none below 0", "other axes")
    return math.prod(int(n) for n in shape)


def _bad_tensor(expected: str, found: str) -> ConfigError:
    return ConfigError(
        subject="inputs",
        expected=f"a tensor with {expected}" if not expected.startswith("`") else expected,
        found=found,
        remedy="The model's metadata say what it takes.",
    )


def _described(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()
