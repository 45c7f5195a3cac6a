"""Offer anomaly detection through the Open Inference Protocol, for a file or fitted slices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import SLICE_SHAPE
from neurobento.serving.inference_protocol.tensors import (
    OutputMakers,
    Tensor,
    TensorSpecs,
    file_content,
    grid_images,
    json_tensor,
)
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.anomaly.handler import AnomalyHandler
from neurobento.serving.tasks.anomaly.responses import detection_facts, draw_overlay
from neurobento.serving.tasks.uploaded_file import uploaded_file

__all__ = ["AnomalyTensors"]

MAX_IMAGES = 64
"""In one request: 4 MiB, and the error maps in the answer are as large again."""

INPUTS: TensorSpecs = {"slice": ("BYTES", [1]), "image": ("FP32", [-1, 1, *SLICE_SHAPE])}
OUTPUTS: TensorSpecs = {
    "score": ("FP32", [-1]),
    "error_map": ("FP32", [-1, *SLICE_SHAPE]),
    # on the slice's own pixels
    "heat_map": ("FP32", [-1, -1]),
    "overlay": ("BYTES", [1]),
    "run": ("BYTES", [1]),
}
OUTPUTS_OF_INPUT: Mapping[str, tuple[str, ...]] = {
    "slice": ("score", "error_map", "heat_map", "overlay", "run"),
    "image": ("score", "error_map", "run"),
}
PARAMETERS_OF_INPUT: Mapping[str, tuple[str, ...]] = {"slice": (), "image": ()}


class AnomalyTensors:
    """Score the tensors of a request; see `inference_protocol.tensors.TaskTensors`."""

    def __init__(self, handler: AnomalyHandler) -> None:
        self._handler = handler
        self.inputs, self.outputs, self.outputs_of_input = INPUTS, OUTPUTS, OUTPUTS_OF_INPUT
        self.parameters_of_input = PARAMETERS_OF_INPUT

    async def infer(
        self, model: str, tensor: Tensor, parameters: Mapping[str, Any], context: RequestContext
    ) -> OutputMakers:
        """Return a maker of each output; raise as `AnomalyHandler.detect` does."""
        if tensor.name == "slice":
            return await self._infer_slice(file_content(tensor), model, context)
        images = grid_images(tensor, SLICE_SHAPE, MAX_IMAGES, "slice")
        return await self._infer_images(images, model, context)

    async def _infer_slice(
        self, content: bytes, model: str, context: RequestContext
    ) -> OutputMakers:
        async with uploaded_file(content) as file:
            # its pixels outlive the folder: their file stays open
            found = await self._handler.detect(file, model, context)
        score = np.array([found.anomaly.score], np.float32)
        return {
            "score": lambda: Tensor.from_array("score", score),
            "error_map": lambda: Tensor.from_array("error_map", found.error_map[None]),
            "heat_map": lambda: Tensor.from_array("heat_map", found.anomaly.heat_map),
            "overlay": lambda: Tensor.from_bytes("overlay", draw_overlay(found)),
            "run": lambda: json_tensor("run", detection_facts(found)),
        }

    async def _infer_images(
        self, images: NDArray[np.float32], model: str, context: RequestContext
    ) -> OutputMakers:
        scores, maps = await self._handler.score(images, model, context)
        facts = await context.run(self._handler.facts(model))
        return {
            "score": lambda: Tensor.from_array("score", scores),
            "error_map": lambda: Tensor.from_array("error_map", maps),
            "run": lambda: json_tensor("run", facts),
        }
