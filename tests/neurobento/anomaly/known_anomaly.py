"""Anomaly models with known answers: the error map is the image, the score its mean."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurobento.backends.base import Backend, ImageBatch, OutputBatch, check_images
from neurobento.files import file_sha256
from neurobento.spec import ModelSpec

THRESHOLD, SCAN_THRESHOLD = 0.3, 0.8
DETECTION = {"threshold": THRESHOLD, "false_positive_rate": 0.1, "scan_threshold": SCAN_THRESHOLD}

SCORES = [0.1, 0.2, 0.9, 0.8, 0.2, 0.1, 0.1, 0.5, 0.1, 0.1, 0.4, 0.1, 0.05, 0.1, 0.1]
"""Of a scan's slices, the lowest first: the highest two are neighbours."""


def known_spec(task: str = "anomaly", **values: Any) -> ModelSpec:
    """Return the spec of a model without a network."""
    facts = {"name": "anomaly", "version": "0.0.1", "network": "anomaly_unet", "opset": 18}
    facts |= {"onnx_sha256": "1" * 64, "checkpoint_sha256": "2" * 64}
    facts["detection"] = DETECTION
    return ModelSpec.of_task(task, **(facts | values))


class KnownBackend(Backend):
    """Computes without a model, and keeps what it was given.

    Parameters
    ----------
    scores
        Of the images in their order, instead of their means.
    """

    def __init__(self, scores: Sequence[float] | None = None, **values: Any) -> None:
        self.name, self.details = "known", {"device": "CPU"}
        self.spec = known_spec(**values)
        self.batches: list[ImageBatch] = []
        self._scores = scores

    def run(self, images: ImageBatch) -> OutputBatch:
        images = check_images(images, self.spec)
        before = sum(len(batch) for batch in self.batches)
        self.batches.append(images)
        scores = images.mean(axis=(1, 2, 3))
        if self._scores is not None:
            scores = np.array(self._scores[before : before + len(images)], np.float32)
        return {"score": scores, "error_map": images[:, 0].copy()}

    def close(self) -> None:
        pass


def write_known_model(root: Path, **values: Any) -> Path:
    """Write the model as ONNX into the folder root/anomaly, and return the folder."""
    import onnx
    from onnx import TensorProto, helper

    folder = root / "anomaly"
    folder.mkdir(parents=True)
    tensor = helper.make_tensor_value_info
    image = tensor("image", TensorProto.FLOAT, ["N", 1, 128, 128])
    score = tensor("score", TensorProto.FLOAT, ["N"])
    error_map = tensor("error_map", TensorProto.FLOAT, ["N", 128, 128])
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["score"], keepdims=0),
        helper.make_node("Squeeze", ["image", "channel"], ["error_map"]),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3]),
        helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
    ]
    graph = helper.make_graph(nodes, "known", [image], [score, error_map], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, folder / "model.onnx")
    known_spec(onnx_sha256=file_sha256(folder / "model.onnx"), **values).write(folder / "spec.json")
    return folder
