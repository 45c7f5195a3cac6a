"""ONNX Runtime: the portable way to run an ONNX model."""

from __future__ import annotations

from typing import Literal

import numpy as np

from neurobento.backends.base import Images, Labels, check_images
from neurobento.registry import Model

__all__ = ["OnnxRuntimeBackend"]


class OnnxRuntimeBackend:
    """One ONNX model in an ONNX Runtime session.

    Parameters
    ----------
    model
        What to run.
    precision
        The graph's own, fp32.
    threads
        CPU threads; 0 lets ONNX Runtime choose.
    """

    name = "onnxruntime"

    def __init__(
        self, model: Model, precision: Literal["auto", "fp32"] = "auto", threads: int = 0
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.spec = model.spec
        self._session = onnxruntime.InferenceSession(
            str(model.onnx), options, providers=["CPUExecutionProvider"]
        )
        self.details = {
            "library": f"onnxruntime {onnxruntime.__version__}",
            "device": "CPU",
            "precision": "fp32",
            "threads": str(threads or "auto"),
        }

    def infer(self, images: Images) -> Labels:
        """Labels of a batch; see `Backend.infer`."""
        images = check_images(images)
        labels = np.empty((len(images), *self.spec.output_shape), dtype=np.uint8)
        # scan by scan: peak memory grows with the batch, speed on a CPU does not
        for i in range(len(images)):
            labels[i] = self._session.run(["labels"], {"image": images[i : i + 1]})[0][0]
        return labels

    def close(self) -> None:
        """Let go of the session."""
        del self._session
