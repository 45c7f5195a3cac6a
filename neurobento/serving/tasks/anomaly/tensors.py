"""Anomalies by the Open Inference Protocol.

A request brings either `slice`, the bytes of a slice's file, or `image`, slices on the
network's grid already.
"""

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
    content_of,
    images_of,
    json_tensor,
)
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.anomaly.handler import AnomalyHandler
from neurobento.serving.tasks.anomaly.responses import detection_facts, draw_overlay
from neurobento.serving.tasks.uploaded_file import uploaded_file

__all__ = ["AnomalyTensors"]

MOST_IMAGES = 64
"""In one request: 4 MiB of them, which come back as as many of error maps."""

INPUTS: TensorSpecs = {"slice": ("BYTES", [1]), "image": ("FP32", [-1, 1, *SLICE_SHAPE])}
OUTPUTS: TensorSpecs = {
    "score": ("FP32", [-1]),
    "error_map": ("FP32", [-1, *SLICE_SHAPE]),
    # on the slice's own pixels
    "heat_map": ("FP32", [-1, -1]),
    "overlay": ("BYTES", [1]),
    "run": ("BYTES", [1]),
}
GIVES: Mapping[str, tuple[str, ...]] = {
    "slice": ("score", "error_map", "heat_map", "overlay", "run"),
    "image": ("score", "error_map", "run"),
}
"""Which input gives which outputs."""


class AnomalyTensors:
    """Slices in, scores and maps out; see `neurobento.serving.inference_protocol.tensors.TaskTensors`.

    Parameters
    ----------
    front
        Answers.
    """

    def __init__(self, front: AnomalyHandler) -> None:
        self._front = front
        self.inputs, self.outputs, self.gives = INPUTS, OUTPUTS, GIVES

    async def infer(
        self, model: str, tensor: Tensor, parameters: Mapping[str, Any], call: RequestContext
    ) -> OutputMakers:
        """What makes each output that an input gives; raises as `AnomalyHandler.detect`."""
        if tensor.name == "slice":
            return await self._of_slice(content_of(tensor), model, call)
        images = images_of(tensor, SLICE_SHAPE, MOST_IMAGES, "slice")
        return await self._of_image(images, model, call)

    async def _of_slice(self, content: bytes, model: str, call: RequestContext) -> OutputMakers:
        async with uploaded_file(content) as file:
            # its pixels stay to be read: the file that they are in is open
            found = await self._front.detect(file, model, call)
        score = np.array([found.anomaly.score], np.float32)
        return {
            "score": lambda: Tensor.of_array("score", score),
            "error_map": lambda: Tensor.of_array("error_map", found.error_map[None]),
            "heat_map": lambda: Tensor.of_array("heat_map", found.anomaly.heat_map),
            "overlay": lambda: Tensor.of_bytes("overlay", draw_overlay(found)),
            "run": lambda: json_tensor("run", detection_facts(found)),
        }

    async def _of_image(
        self, images: NDArray[np.float32], model: str, call: RequestContext
    ) -> OutputMakers:
        scores, maps = await self._front.score(images, model, call)
        facts = await call.run(self._front.facts(model))
        return {
            "score": lambda: Tensor.of_array("score", scores),
            "error_map": lambda: Tensor.of_array("error_map", maps),
            "run": lambda: json_tensor("run", facts),
        }
