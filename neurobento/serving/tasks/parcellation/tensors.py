"""Parcellation by the Open Inference Protocol.

A request brings either `scan`, the bytes of a scan's file, or `image`, scans on the network
grid already; parameters say the preprocessing and the space, as the HTTP form does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurobento.imaging.geometry import NETWORK_SHAPE
from neurobento.labels import CLASS_COUNT
from neurobento.parcellation.outputs import run_facts
from neurobento.serving.inference_protocol.tensors import (
    OutputMakers,
    Tensor,
    TensorSpecs,
    content_of,
    images_of,
    json_tensor,
)
from neurobento.serving.request import RequestContext
from neurobento.serving.tasks.parcellation.handler import Options, ParcellationHandler, dseg
from neurobento.serving.tasks.uploaded_file import uploaded_file

__all__ = ["ParcellationTensors"]

REGIONS = CLASS_COUNT - 1
MOST_IMAGES = 16
"""In one request: it has one place, like a single scan."""

DEFAULT_PREPROCESSING = "full"

INPUTS: TensorSpecs = {"scan": ("BYTES", [1]), "image": ("FP32", [-1, 1, *NETWORK_SHAPE])}
OUTPUTS: TensorSpecs = {
    # of `image` one dimension more, the scans
    "labels": ("UINT8", [-1, -1, -1]),
    "affine": ("FP64", [4, 4]),
    "volumes_mm3": ("FP64", [REGIONS]),
    "voxels": ("INT64", [-1, REGIONS]),
    "dseg": ("BYTES", [1]),
    "run": ("BYTES", [1]),
}
GIVES: Mapping[str, tuple[str, ...]] = {
    "scan": ("labels", "affine", "volumes_mm3", "dseg", "run"),
    "image": ("labels", "voxels", "run"),
}
"""Which input gives which outputs."""


class ParcellationTensors:
    """Scans in, labels out; see `neurobento.serving.inference_protocol.tensors.TaskTensors`.

    Parameters
    ----------
    front
        Answers.
    """

    def __init__(self, front: ParcellationHandler) -> None:
        self._front = front
        self.inputs, self.outputs, self.gives = INPUTS, OUTPUTS, GIVES

    async def infer(
        self, model: str, tensor: Tensor, parameters: Mapping[str, Any], call: RequestContext
    ) -> OutputMakers:
        """What makes each output that an input gives; raises as `ParcellationHandler.parcellate`."""
        preprocessing = str(parameters.get("preprocessing", DEFAULT_PREPROCESSING))
        space = str(parameters.get("space", "native"))
        if tensor.name == "scan":
            return await self._of_scan(
                content_of(tensor), Options(model, preprocessing, space), call
            )
        images = images_of(tensor, NETWORK_SHAPE, MOST_IMAGES, "scan")
        return await self._of_image(images, Options(model, "none", space), call)

    async def _of_scan(
        self, content: bytes, options: Options, call: RequestContext
    ) -> OutputMakers:
        async with uploaded_file(content) as file:
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
            "run": lambda: json_tensor("run", run_facts(found, facts)),
        }

    async def _of_image(
        self, images: NDArray[np.float32], options: Options, call: RequestContext
    ) -> OutputMakers:
        labels = await self._front.segment(images, options, call)
        facts = await call.run(self._front.facts(options.model))
        return {
            "labels": lambda: Tensor.of_array("labels", labels),
            "voxels": lambda: Tensor.of_array("voxels", _counts(labels)),
            "run": lambda: json_tensor("run", facts),
        }


def _counts(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(N, 116) voxels of each region."""
    return np.stack(
        [np.bincount(each.ravel(), minlength=CLASS_COUNT)[1:CLASS_COUNT] for each in labels]
    ).astype(np.int64)
