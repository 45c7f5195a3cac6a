"""Rewrite a label graph for TensorRT: fixed shapes, and uint8 only at the output."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["choose_all", "keep_uint8_for_the_end"]


def choose_all(model: onnx.ModelProto) -> int:
    """Make a graph process all entries of a list instead of only the non-zero ones.

    An engine cannot plan for a number that depends on the image. Correct for label graphs: the
    other entries are background. Returns the number of choices that were replaced.
    """
    graph = model.graph
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "NonZero":
            nodes.append(node)
            continue
        name = node.output[0]
        scalars = {f"{name}_first": 0, f"{name}_step": 1}
        graph.initializer.extend(
            numpy_helper.from_array(np.array(value), key) for key, value in scalars.items()
        )
        graph.initializer.append(numpy_helper.from_array(np.array([0]), f"{name}_axis"))
        nodes += [
            helper.make_node("Size", [node.input[0]], [f"{name}_size"]),
            helper.make_node(
                "Range", [f"{name}_first", f"{name}_size", f"{name}_step"], [f"{name}_all"]
            ),
            helper.make_node("Unsqueeze", [f"{name}_all", f"{name}_axis"], [name]),
        ]
        count += 1
    graph.ClearField("value_info")
    del graph.node[:]
    graph.node.extend(nodes)
    return count


def keep_uint8_for_the_end(model: onnx.ModelProto) -> None:
    """Carry labels as int32 up to the output, because TensorRT has no uint8 before it."""
    graph = model.graph
    for node in graph.node:
        if node.op_type == "Cast":
            for attribute in node.attribute:
                if attribute.name == "to" and attribute.i == TensorProto.UINT8:
                    attribute.i = TensorProto.INT32
    for constant in graph.initializer:
        if constant.data_type in (TensorProto.UINT8, TensorProto.INT8):
            values = numpy_helper.to_array(constant).astype(np.int32)
            constant.CopyFrom(numpy_helper.from_array(values, constant.name))
    graph.ClearField("value_info")
    for output in graph.output:
        whole = f"{output.name}_int32"
        for node in graph.node:
            node.output[:] = [whole if name == output.name else name for name in node.output]
            node.input[:] = [whole if name == output.name else name for name in node.input]
        graph.node.append(helper.make_node("Cast", [whole], [output.name], to=TensorProto.UINT8))
