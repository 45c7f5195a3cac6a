"""Precision in which a graph stores its constants; the computation stays in single."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import numpy_helper

__all__ = ["SMALL", "load_in_single", "store_in_half"]

SMALL = 1024
"""A constant of fewer numbers is not worth a cast."""


def store_in_half(graph: onnx.GraphProto) -> None:
    """Store constants that fit exactly in half precision, with a cast that engines fold."""
    casts = []
    for constant in graph.initializer:
        if constant.data_type != onnx.TensorProto.FLOAT or math.prod(constant.dims) < SMALL:
            continue
        values = numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            halved = values.astype(np.float16)
        if not np.array_equal(halved, values):
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(halved, f"{name}_half"))
        casts.append(
            onnx.helper.make_node("Cast", [constant.name], [name], to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def load_in_single(model: onnx.ModelProto) -> None:
    """Replace constants stored in half precision, and their casts, by single precision."""
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    kept = []
    for node in graph.node:
        half = constants.get(node.input[0]) if node.op_type == "Cast" else None
        if half is None or half.data_type != onnx.TensorProto.FLOAT16:
            kept.append(node)
            continue
        values = numpy_helper.to_array(half).astype(np.float32)
        half.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
