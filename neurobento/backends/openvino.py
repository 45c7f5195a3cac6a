"""OpenVINO on CPUs: the fastest way to run these networks there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurobento.backends.base import Images, Labels, check_images
from neurobento.errors import BackendUnavailable
from neurobento.geometry import NETWORK_SHAPE
from neurobento.registry import Model

__all__ = ["OpenVINOBackend"]

Precision = Literal["auto", "fp32", "bf16", "int8"]

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What OpenVINO calls them; int8 is in the graph, and what is not int8 there is fp32."""


class OpenVINOBackend:
    """One ONNX model compiled by OpenVINO.

    Parameters
    ----------
    model
        What to run.
    precision
        "auto" computes in bf16 where the CPU has AMX (plain AVX-512 bf16 is
        left to a request by name) and the model was verified in it, else in fp32.
        "int8" runs the model's int8 form, if there is one.
    threads
        CPU threads; 0 lets OpenVINO choose.
    """

    name = "openvino"

    def __init__(self, model: Model, precision: Precision = "auto", threads: int = 0) -> None:
        import openvino

        core = openvino.Core()
        if precision == "auto":
            verified = model.spec.verification.get("openvino bf16", {}).get("passed", False)
            precision = "bf16" if verified and _has_amx() else "fp32"
        config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": str(threads),
        }
        self.spec = model.spec
        graph = core.read_model(model.graph(precision))
        # layouts that need no copies are found only for a batch that is known
        graph.reshape([1, 1, *NETWORK_SHAPE])
        self._compiled = core.compile_model(graph, "CPU", config)
        self._request = self._compiled.create_infer_request()
        _require_precision(self._compiled, precision)
        self.details = {
            "library": f"openvino {openvino.__version__}",
            "device": "CPU",
            "precision": precision,
            "threads": str(self._compiled.get_property("INFERENCE_NUM_THREADS")),
        }

    def infer(self, images: Images) -> Labels:
        """Labels of a batch; see `Backend.infer`."""
        images = check_images(images)
        labels = np.empty((len(images), *self.spec.output_shape), dtype=np.uint8)
        # one scan fills every core; a larger batch would only take more memory
        for i in range(len(images)):
            labels[i] = self._request.infer({"image": images[i : i + 1]})["labels"][0]
        return labels

    def close(self) -> None:
        """Let go of the compiled model."""
        del self._request, self._compiled


def _require_precision(compiled: Any, precision: str) -> None:
    """OpenVINO takes another precision without a word where the CPU lacks one."""
    found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if found != HINTS[precision]:
        raise BackendUnavailable(
            subject="precision",
            expected=f"a CPU that computes in {precision}",
            found=f"OpenVINO computing in {found}",
            remedy="Choose --precision fp32.",
        )


def _has_amx() -> bool:
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
