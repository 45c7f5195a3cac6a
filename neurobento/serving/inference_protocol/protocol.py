"""The Open Inference Protocol, version 2, without its transports.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

A request names a model, and the model's task says what it may bring and what comes back.
`neurobento.serving.inference_protocol.grpc.server` and `neurobento.serving.inference_protocol.rest` bring requests here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from anyio import to_thread

from neurobento.errors import ConfigError, ModelNotFound
from neurobento.serving.inference_protocol.tensors import TaskTensors, Tensor, TensorSpecs
from neurobento.serving.request import RequestContext
from neurobento.serving.telemetry.metrics import time_stage
from neurobento.serving.telemetry.tracing import span
from neurobento.spec import ModelSpec

__all__ = ["EXTENSIONS", "SERVER_NAME", "InferRequest", "OpenInference", "server_version"]

SERVER_NAME = "neurobento"
EXTENSIONS = ("binary_tensor_data",)


@dataclass(frozen=True)
class InferRequest:
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
        As the model's task knows them.
    """

    model: str
    version: str
    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


class OpenInference:
    """What the protocol offers, by the fronts that do the work.

    Parameters
    ----------
    specs
        Of the models served.
    tasks
        What there is of the models for each task.
    """

    def __init__(self, specs: Sequence[ModelSpec], tasks: Mapping[str, TaskTensors]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._tasks = dict(tasks)

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
        task = self._tasks[spec.task]
        return {
            "name": spec.name,
            "versions": [spec.version],
            "platform": "onnx_onnxv1",
            "inputs": _described(task.inputs),
            "outputs": _described(task.outputs),
        }

    async def infer(self, asked: InferRequest, call: RequestContext) -> list[Tensor]:
        """The tensors that are wanted.

        Raises
        ------
        ConfigError
            Inputs, outputs or parameters that there are not, or an output named twice.
        NeuroBentoError
            As the front of the model's task raises.
        """
        spec = self.spec(asked.model, asked.version)
        task = self._tasks[spec.task]
        tensor = _the_input(asked.inputs, list(task.gives))
        _require_outputs(task.gives[tensor.name], asked.outputs)
        makers = await task.infer(spec.name, tensor, asked.parameters, call)
        wanted = asked.outputs or list(makers)
        return await call.run(_packed([makers[name] for name in wanted], spec.name))


def server_version() -> str:
    """Of the package as it is installed; a bento holds the code alone, and has a version itself."""
    try:
        return metadata.version(SERVER_NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


async def _packed(makers: Sequence[Callable[[], Tensor]], model: str) -> list[Tensor]:
    with time_stage("encode", model), span("encode"):
        return await to_thread.run_sync(lambda: [make() for make in makers])


def _the_input(inputs: Sequence[Tensor], known: Sequence[str]) -> Tensor:
    """The one input of a request."""
    if len(inputs) != 1 or inputs[0].name not in known:
        raise ConfigError(
            subject="inputs",
            expected=f"one input, {' or '.join(f'`{name}`' for name in known)}",
            found=f"{len(inputs)}, or of another name",
            remedy=f"Send a file as `{known[0]}`, BYTES [1].",
        )
    return inputs[0]


def _require_outputs(known: Sequence[str], wanted: Sequence[str]) -> None:
    """Check that an input gives these outputs, each wanted once, before any work is done."""
    if repeated := len(wanted) - len(set(wanted)):
        raise ConfigError(
            subject="outputs",
            expected="each output to be asked for once",
            found=f"{repeated} more than once",
            remedy="Name an output once, or none to get all.",
        )
    if unknown := len(set(wanted) - set(known)):
        raise ConfigError(
            subject="outputs",
            expected=f"outputs among {', '.join(known)}",
            found=f"{unknown} others",
            remedy="Ask for these, or for none by name to get all.",
        )


def _described(tensors: TensorSpecs) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": datatype, "shape": shape}
        for name, (datatype, shape) in tensors.items()
    ]
