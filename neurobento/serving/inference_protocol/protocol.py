"""Answer requests of the Open Inference Protocol, version 2, whatever transport brought them.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from anyio import to_thread

from neurobento.errors import ConfigError, ModelNotFound
from neurobento.serving.inference_protocol.tensors import TaskTensors, Tensor, TensorSpecs
from neurobento.serving.known_names import require_known_names
from neurobento.serving.request import RequestContext
from neurobento.serving.telemetry.metrics import time_stage
from neurobento.serving.telemetry.tracing import span
from neurobento.spec import ModelSpec

__all__ = ["EXTENSIONS", "SERVER_NAME", "InferRequest", "OpenInference", "server_version"]

SERVER_NAME = "neurobento"
EXTENSIONS = ("binary_tensor_data",)


@dataclass(frozen=True)
class InferRequest:
    model: str
    version: str
    """An empty string stands for the only version."""
    inputs: Sequence[Tensor]
    outputs: Sequence[str] = ()
    """Names of the outputs that the client wants; none for all."""
    parameters: Mapping[str, Any] = field(default_factory=dict)


class OpenInference:
    """The protocol's operations on the models that are served."""

    def __init__(self, specs: Sequence[ModelSpec], tasks: Mapping[str, TaskTensors]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._tasks = dict(tasks)

    @property
    def specs(self) -> list[ModelSpec]:
        return list(self._specs.values())

    def spec(self, model: str, version: str = "") -> ModelSpec:
        """Return the spec of a model; raise ModelNotFound for another name or version."""
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
        spec = self.spec(model, version)
        task = self._tasks[spec.task]
        return {
            "name": spec.name,
            "versions": [spec.version],
            "platform": "onnx_onnxv1",
            "inputs": _spec_list(task.inputs),
            "outputs": _spec_list(task.outputs),
        }

    async def infer(self, request: InferRequest, context: RequestContext) -> list[Tensor]:
        """Return the outputs that a request wants; raise as the handler of its task does."""
        spec = self.spec(request.model, request.version)
        task = self._tasks[spec.task]
        tensor = _only_input(request.inputs, list(task.outputs_of_input))
        _check_outputs(task.outputs_of_input[tensor.name], request.outputs)
        parameters = task.parameters_of_input[tensor.name]
        require_known_names(
            f"parameter of a request for `{tensor.name}`", request.parameters, parameters
        )
        makers = await task.infer(spec.name, tensor, request.parameters, context)
        wanted = request.outputs or list(makers)
        return await context.run(_make_outputs([makers[name] for name in wanted], spec.name))


def server_version() -> str:
    """Return the version of the installed package; a bento holds the code without one."""
    try:
        return metadata.version(SERVER_NAME)
    except metadata.PackageNotFoundError:
        return "unknown"


async def _make_outputs(makers: Sequence[Callable[[], Tensor]], model: str) -> list[Tensor]:
    with time_stage("encode", model), span("encode"):
        return await to_thread.run_sync(lambda: [make() for make in makers])


def _only_input(inputs: Sequence[Tensor], known: Sequence[str]) -> Tensor:
    if len(inputs) != 1 or inputs[0].name not in known:
        raise ConfigError(
            subject="inputs",
            expected=f"one input, {' or '.join(f'`{name}`' for name in known)}",
            found="another name" if len(inputs) == 1 else f"{len(inputs)} inputs",
            remedy=f"Send a file as `{known[0]}`, BYTES [1].",
        )
    return inputs[0]


def _check_outputs(known: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise ConfigError for an output that is unknown or named twice, before any work is done."""
    if repeated := len(wanted) - len(set(wanted)):
        raise ConfigError(
            subject="outputs",
            expected="each output to be named once",
            found=f"{repeated} more than once",
            remedy="Name an output once, or none to get all.",
        )
    if unknown := len(set(wanted) - set(known)):
        raise ConfigError(
            subject="outputs",
            expected=f"outputs among {', '.join(known)}",
            found=f"{unknown} others",
            remedy="Name some of these, or none to get all.",
        )


def _spec_list(tensors: TensorSpecs) -> list[dict[str, Any]]:
    return [
        {"name": name, "datatype": datatype, "shape": shape}
        for name, (datatype, shape) in tensors.items()
    ]
