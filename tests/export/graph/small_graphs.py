"""Small graphs, and what ONNX Runtime computes from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

SHAPE = (2, 9, 10, 11)


def make(nodes: list[Any], constants: dict[str, Any], output: int = TensorProto.FLOAT) -> Any:
    """Return a model from `image` (N, 2, 9, 10, 11) to `out`."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", *SHAPE])],
        [helper.make_tensor_value_info("out", output, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run(model: Any, images: Any = None) -> Any:
    """Return what ONNX Runtime computes from images, by default from two random ones."""
    if images is None:
        images = np.random.default_rng(1).random((2, *SHAPE), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": images})[0]


def types_in(model: Any) -> dict[str, int]:
    """Return the element type of each tensor, by shape inference."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {constant.name: constant.data_type for constant in graph.initializer}


def kernel(zero_beside: Sequence[int], size: int = 3, seed: int = 0) -> Any:
    """Return (2, 2, size, size, size) random weights, zero beside the middle along some axes."""
    weight = np.random.default_rng(seed).normal(size=(2, 2, size, size, size))
    for axis in zero_beside:
        beside = [i for i in range(size) if i != size // 2]
        np.moveaxis(weight, axis + 2, 0)[beside] = 0
    # Half precision holds these values, so a cast from it changes nothing.
    return weight.astype(np.float16).astype(np.float32)


def two_paths() -> Any:
    """Return convolutions and a norm, and beside them positions that half precision would blur."""
    conv: dict[str, Any] = {"kernel_shape": [3] * 3, "pads": [1] * 6}
    nodes = [
        helper.make_node("Conv", ["image", "w0"], ["first"], **conv),
        helper.make_node("LeakyRelu", ["first"], ["bent"], alpha=0.01),
        helper.make_node("InstanceNormalization", ["bent", "scale", "shift"], ["normed"]),
        helper.make_node("Conv", ["normed", "w1"], ["second"], **conv),
        helper.make_node("Add", ["first", "second"], ["sum"]),
        helper.make_node("Mul", ["image", "thousand"], ["positions"]),
        helper.make_node("Floor", ["positions"], ["places"]),
        helper.make_node("Sub", ["positions", "places"], ["parts"]),
        helper.make_node("Add", ["sum", "parts"], ["mixed"]),
        helper.make_node("ReduceMax", ["mixed", "axes"], ["out"], keepdims=1),
    ]
    constants = {
        "w0": kernel((), seed=1) / 4,
        "w1": kernel((), seed=2) / 4,
        "scale": np.ones(2, np.float32),
        "shift": np.zeros(2, np.float32),
        "thousand": np.float32(1000).reshape(1),
        "axes": np.array([1]),
    }
    return make(nodes, constants)
