"""`GET /v1/models`: the models served, with their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from neurobento.spec import MODEL_TASKS, ModelSpec, Tensor

__all__ = ["describe_model", "models_app"]


def describe_model(spec: ModelSpec) -> dict[str, Any]:
    """Return what `/v1/models` says of one model."""
    return {
        "name": spec.name,
        "version": spec.version,
        "task": spec.task,
        "network": spec.network,
        "onnx_sha256": spec.onnx_sha256,
        "input_shape": list(spec.input_shape),
        "output_shape": list(spec.output_shape),
        "inputs": {"image": _describe(MODEL_TASKS[spec.task].image)},
        "outputs": {name: _describe(tensor) for name, tensor in spec.outputs.items()},
        "classes": spec.classes,
        "detection": spec.detection,
        "metrics": spec.metrics,
    }


def _describe(tensor: Tensor) -> dict[str, Any]:
    """Return shape and dtype for one image, without the batch axis."""
    return {"shape": list(tensor.shape), "dtype": tensor.dtype}


def models_app(specs: Sequence[ModelSpec], others: Sequence[Route] = ()) -> Starlette:
    """Make the ASGI application to mount at /v1, with further routes."""
    models = {"models": [describe_model(spec) for spec in specs]}

    async def answer(_: Request) -> JSONResponse:
        return JSONResponse(models)

    return Starlette(routes=[Route("/models", answer, methods=["GET"]), *others])
