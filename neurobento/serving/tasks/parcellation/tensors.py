"""Offer parcellation through the Open Inference Protocol, for a file or images on the grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.parcellation.outputs import mask_bytes, run_facts
from neurobento.serving.inference_protocol.tensors import (
    OutputMakers,
    Tensor,
    TensorSpecs,
    file_content,
    grid_images,
    json_tensor,
)
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.handler import ParcellationHandler
from neurobento.serving.tasks.parcellation.options import ParcellationOptions
from neurobento.serving.tasks.parcellation.responses import encode_labels
from neurobento.serving.tasks.uploaded_file import uploaded_file

__all__ = ["ParcellationTensors"]

REGIONS = CLASS_COUNT - 1
MAX_IMAGES = 16
"""In one request, since it takes one slot, like a single scan."""

DEFAULT_PREPROCESSING = "full"

INPUTS: TensorSpecs = {"scan": ("BYTES", [1]), "image": ("FP32", [-1, 1, *NETWORK_SHAPE])}
OUTPUTS: TensorSpecs = {
    # for `image` there is a first axis more, the scans
    "labels": ("UINT8", [-1, -1, -1]),
    "affine": ("FP64", [4, 4]),
    "volumes_mm3": ("FP64", [REGIONS]),
    "voxels": ("INT64", [-1, REGIONS]),
    "dseg": ("BYTES", [1]),
    # empty where there is none
    "mask": ("BYTES", [1]),
    "run": ("BYTES", [1]),
}
OUTPUTS_OF_INPUT: Mapping[str, tuple[str, ...]] = {
    "scan": ("labels", "affine", "volumes_mm3", "dseg", "mask", "run"),
    "image": ("labels", "voxels", "run"),
}
# an image is on the network's grid and stays there
PARAMETERS_OF_INPUT: Mapping[str, tuple[str, ...]] = {
    "scan": ("preprocessing", "space"),
    "image": (),
}


class ParcellationTensors:
    """Parcellate the tensors of a request; see `inference_protocol.tensors.TaskTensors`."""

    def __init__(self, handler: ParcellationHandler) -> None:
        self._handler = handler
        self.inputs, self.outputs, self.outputs_of_input = INPUTS, OUTPUTS, OUTPUTS_OF_INPUT
        self.parameters_of_input = PARAMETERS_OF_INPUT

    async def infer(
        self, model: str, tensor: Tensor, parameters: Mapping[str, Any], context: RequestContext
    ) -> OutputMakers:
        """Return a maker of each output; raise as `ParcellationHandler.parcellate` does."""
        if tensor.name == "scan":
            preprocessing = str(parameters.get("preprocessing", DEFAULT_PREPROCESSING))
            options = ParcellationOptions(
                model, preprocessing, str(parameters.get("space", "native"))
            )
            return await self._infer_scan(file_content(tensor), options, context)
        images = grid_images(tensor, NETWORK_SHAPE, MAX_IMAGES, "scan")
        options = ParcellationOptions(model, "none", "network")
        return await self._infer_images(images, options, context)

    async def _infer_scan(
        self, content: bytes, options: ParcellationOptions, context: RequestContext
    ) -> OutputMakers:
        async with uploaded_file(content) as file:
            found = await self._handler.parcellate(file, options, context)
        facts = await context.run(self._handler.facts(options.model))
        native = options.space == "native"
        grid = found.prepared.grid
        affine = found.prepared.space.voxel_to_ras if native else grid.network_voxel_to_ras
        volumes = np.array([v.volume_mm3 for v in found.volumes], np.float64)
        return {
            "labels": lambda: Tensor.from_array(
                "labels", found.labels if native else found.network_labels
            ),
            "affine": lambda: Tensor.from_array("affine", np.asarray(affine, np.float64)),
            "volumes_mm3": lambda: Tensor.from_array("volumes_mm3", volumes),
            "dseg": lambda: Tensor.from_bytes("dseg", encode_labels(found, options.space)),
            "mask": lambda: Tensor.from_bytes("mask", mask_bytes(found) or b""),
            "run": lambda: json_tensor("run", run_facts(found, facts)),
        }

    async def _infer_images(
        self, images: NDArray[np.float32], options: ParcellationOptions, context: RequestContext
    ) -> OutputMakers:
        labels = await self._handler.segment(images, options, context)
        facts = await context.run(self._handler.facts(options.model))
        return {
            "labels": lambda: Tensor.from_array("labels", labels),
            "voxels": lambda: Tensor.from_array("voxels", _region_voxels(labels)),
            "run": lambda: json_tensor("run", facts),
        }


def _region_voxels(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the voxels of each region; (N, 116)."""
    return np.stack(
        [np.bincount(each.ravel(), minlength=CLASS_COUNT)[1:CLASS_COUNT] for each in labels]
    ).astype(np.int64)
