"""OpenVINO on CPUs: the fastest way to run these networks there."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from neurobento.backends.base import Backend, ImageBatch, OutputBatch, check_images, empty_outputs
from neurobento.errors import BackendUnavailable
from neurobento.registry import Model

__all__ = ["OpenVINOBackend", "import_openvino"]

Precision = Literal["auto", "fp32", "bf16", "int8"]

HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What OpenVINO calls them; int8 is in the graph, and what is not int8 there is fp32."""

PAIR = 2
"""Scans that are computed beside each other, each with half of the threads."""

logger = logging.getLogger(__name__)


def import_openvino() -> Any:
    """OpenVINO, which tells nobody that it is used here.

    Left to itself, each import sends an event to Google Analytics unless the user's home says no;
    without the package that sends it OpenVINO takes a stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVINOBackend(Backend):
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
        openvino = import_openvino()
        core = openvino.Core()
        if precision == "auto":
            verified = model.spec.verification.get("openvino bf16", {}).get("passed", False)
            precision = "bf16" if verified and _has_amx() else "fp32"
        self._config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": str(threads),
        }
        self.spec = model.spec
        self._core, self._graph = core, core.read_model(model.graph(precision))
        # layouts that need no copies are found only for a batch that is known
        self._graph.reshape([1, *self.spec.input_shape])
        # bf16 would round the sums
        in_one_order = precision != "bf16" and _sum_in_one_order(self._graph)
        self._compiled = self._compile(PERFORMANCE_HINT="LATENCY")
        self._request = self._compiled.create_infer_request()
        self._pair: list[Any] = []
        found = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        self._pairs = in_one_order and found >= PAIR
        _require_precision(self._compiled, precision)
        self.details = {
            "library": f"openvino {openvino.__version__}",
            "device": "CPU",
            "precision": precision,
            "threads": str(found),
        }

    def run(self, images: ImageBatch) -> OutputBatch:
        """See `Backend.run`."""
        images = check_images(images, self.spec)
        found = empty_outputs(self.spec, len(images))
        paired = len(images) - len(images) % PAIR if self._can_pair(len(images)) else 0
        for first in range(0, paired, PAIR):
            pair = slice(first, first + PAIR)
            self._infer_pair(images[pair], {name: each[pair] for name, each in found.items()})
        for i in range(paired, len(images)):
            answer = self._request.infer({"image": images[i : i + 1]})
            for name, each in found.items():
                each[i] = answer[name][0]
        return found

    def _can_pair(self, count: int) -> bool:
        """Whether there is something to compute pairs of so many scans with."""
        if count >= PAIR and self._pairs and not self._pair:
            # not before it is needed: it takes the memory of two more scans
            try:
                compiled = self._compile(NUM_STREAMS=str(PAIR), ENABLE_CPU_PINNING="NO")
                self._pair = [compiled.create_infer_request() for _ in range(PAIR)]
            except RuntimeError as error:
                logger.warning("no pairs of scans, %s: one after the other", type(error).__name__)
                self._pairs = False
        return bool(self._pair)

    def _infer_pair(self, images: ImageBatch, found: OutputBatch) -> None:
        """Two scans on half of the threads each, which wait for each other less than with one."""
        try:
            for request, image in zip(self._pair, images, strict=True):
                request.start_async({"image": image[None]})
            for i, request in enumerate(self._pair):
                request.wait()
                for name, each in found.items():
                    each[i] = request.get_tensor(name).data[0]
        except BaseException:
            # one that is still under way would take no other image
            self._pair = []
            raise

    def _compile(self, **how: str) -> Any:
        return self._core.compile_model(self._graph, "CPU", {**self._config, **how})

    def close(self) -> None:
        """Let go of the compiled model."""
        del self._pair, self._request, self._compiled, self._graph, self._core


def _sum_in_one_order(graph: Any) -> bool:
    """Have instance norms sum in an order that does not hang on the number of threads.

    OpenVINO's own norm sums by thread, so that a scan's labels would hang on what else
    is computed; a pooling gives each of its sums to one thread.

    Returns
    -------
    Whether all of the graph's norms could be written so.
    """
    for norm in graph.get_ordered_ops():
        if norm.get_type_name() != "MVN":
            continue
        facts, axes = norm.get_attributes(), norm.input_value(1).get_node()
        image = norm.input_value(0)
        rank = len(image.get_partial_shape())
        spatial = axes.get_type_name() == "Constant" and {
            int(axis) % rank for axis in axes.get_data().ravel()
        } == set(range(2, rank))
        if not spatial or not facts["normalize_variance"] or facts["eps_mode"] != "INSIDE_SQRT":
            return False
        norm.output(0).replace(_instance_norm(image, facts["eps"]).output(0))
    graph.validate_nodes_and_infer_types()
    return True


def _instance_norm(image: Any, epsilon: float) -> Any:
    from openvino import opset13 as ops

    centred = ops.subtract(image, _spatial_mean(image))
    variance = _spatial_mean(ops.multiply(centred, centred).output(0))
    scale = ops.power(ops.add(variance, np.float32(epsilon)), np.float32(-0.5))
    return ops.multiply(centred, scale)


def _spatial_mean(image: Any) -> Any:
    """In two steps, first of each plane: a sum of millions in a row would lose digits."""
    from openvino import opset13 as ops

    depth, *plane = (axis.get_length() for axis in image.get_partial_shape()[2:])
    for kernel in ([1, *plane], [depth, *(1 for _ in plane)]):
        none = [0] * len(kernel)
        pooled = ops.avg_pool(image, kernel, none, none, kernel, True, "floor", "explicit")
        image = pooled.output(0)
    return image


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
