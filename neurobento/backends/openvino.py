"""Run models with OpenVINO, the fastest backend on CPUs."""

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
"""OpenVINO's names. An int8 graph states its int8 layers itself; the others compute in fp32."""

PAIR = 2
"""Scans computed at the same time, each with half of the threads."""

logger = logging.getLogger(__name__)


def import_openvino() -> Any:
    """Import OpenVINO without its telemetry."""
    # Each import would send an event to Google Analytics; without this package it uses a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVINOBackend(Backend):
    """An ONNX model compiled by OpenVINO.

    Precision "auto" is bf16 if the CPU has AMX and the model was verified in bf16, else fp32.
    AVX-512 without AMX computes in bf16 only on request. "int8" needs the model's int8 form.
    """

    name = "openvino"

    def __init__(self, model: Model, precision: Precision = "auto", threads: int = 0) -> None:
        # Choose the precision.
        openvino = import_openvino()
        core = openvino.Core()
        if precision == "auto":
            verified = model.spec.verification.get("openvino bf16", {}).get("passed", False)
            precision = "bf16" if verified and _has_amx() else "fp32"
        self._config = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": str(threads),
        }
        # Read and compile the graph.
        self.spec = model.spec
        self._core, self._graph = core, core.read_model(model.graph(precision))
        # OpenVINO finds layouts that need no copies only for a fixed batch size.
        self._graph.reshape([1, *self.spec.input_shape])
        # In bf16 the sums would be rounded, so its norms stay OpenVINO's own.
        order_is_fixed = precision != "bf16" and _fix_summation_order(self._graph)
        self._compiled = self._compile(PERFORMANCE_HINT="LATENCY")
        self._request = self._compiled.create_infer_request()
        self._pair: list[Any] = []
        used_threads = int(self._compiled.get_property("INFERENCE_NUM_THREADS"))
        # Without a fixed order a scan's labels would depend on the other scan of its pair.
        self._may_pair = order_is_fixed and used_threads >= PAIR
        _require_precision(self._compiled, precision)
        self.details = {
            "library": f"openvino {openvino.__version__}",
            "device": "CPU",
            "precision": precision,
            "threads": str(used_threads),
        }

    def run(self, images: ImageBatch) -> OutputBatch:
        images = check_images(images, self.spec)
        outputs = empty_outputs(self.spec, len(images))
        in_pairs = len(images) - len(images) % PAIR if self._can_pair(len(images)) else 0
        for first in range(0, in_pairs, PAIR):
            pair = slice(first, first + PAIR)
            self._infer_pair(images[pair], {name: each[pair] for name, each in outputs.items()})
        for i in range(in_pairs, len(images)):
            tensors = self._request.infer({"image": images[i : i + 1]})
            for name, each in outputs.items():
                each[i] = tensors[name][0]
        return outputs

    def _can_pair(self, count: int) -> bool:
        """Return True if pairs can be computed; compile for them on the first need."""
        if count >= PAIR and self._may_pair and not self._pair:
            # Compile late, because it takes the memory of two more scans.
            try:
                compiled = self._compile(NUM_STREAMS=str(PAIR), ENABLE_CPU_PINNING="NO")
                self._pair = [compiled.create_infer_request() for _ in range(PAIR)]
            except RuntimeError as error:
                logger.warning(
                    "cannot compute pairs of scans (%s); computing one at a time",
                    type(error).__name__,
                )
                self._may_pair = False
        return bool(self._pair)

    def _infer_pair(self, images: ImageBatch, outputs: OutputBatch) -> None:
        """Compute two scans on half of the threads each, which wait less for each other."""
        try:
            for request, image in zip(self._pair, images, strict=True):
                request.start_async({"image": image[None]})
            for i, request in enumerate(self._pair):
                request.wait()
                for name, each in outputs.items():
                    each[i] = request.get_tensor(name).data[0]
        except BaseException:
            # A request that is still running accepts no other image, so drop both.
            self._pair = []
            raise

    def _compile(self, **options: str) -> Any:
        return self._core.compile_model(self._graph, "CPU", {**self._config, **options})

    def close(self) -> None:
        del self._pair, self._request, self._compiled, self._graph, self._core


def _fix_summation_order(graph: Any) -> bool:
    """Replace instance norms, which sum by thread, by poolings; return True if all could be."""
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
    """Average over space, planes first: one sum over millions of values would lose digits."""
    from openvino import opset13 as ops

    depth, *plane = (axis.get_length() for axis in image.get_partial_shape()[2:])
    for kernel in ([1, *plane], [depth, *(1 for _ in plane)]):
        no_padding = [0] * len(kernel)
        pooled = ops.avg_pool(
            image, kernel, no_padding, no_padding, kernel, True, "floor", "explicit"
        )
        image = pooled.output(0)
    return image


def _require_precision(compiled: Any, precision: str) -> None:
    """Raise BackendUnavailable if OpenVINO has silently chosen another precision."""
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
