"""Compute a graph's layers in half precision, for engines."""

from __future__ import annotations

from typing import Literal

import onnx
from onnx import TensorProto, helper

__all__ = ["HALVED", "Half", "compute_in_half"]

Half = Literal["fp16", "bf16"]
HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

HALVED = {"fp16": frozenset({"Conv", "ConvTranspose"}), "bf16": frozenset({"Conv"})}
"""Operators to compute in half precision; TensorRT-RTX 1.7 builds no ConvTranspose in bf16."""

FOLLOWING = frozenset(
    {
        *("Add", "ArgMax", "Concat", "Expand", "Gather", "Identity", "LeakyRelu", "Mul"),
        *("PRelu", "Pad"),
        *("Relu", "Resize", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    }
)
"""Operators that stay in half precision if all their computed inputs are in it."""

SHAPE_INPUTS = {"Resize": (1, 2, 3)}
"""Float inputs that are no data: regions and scales."""


def compute_in_half(model: onnx.ModelProto, precision: Half) -> None:
    """Make layers, and operators that only pass their results on, compute in half precision.

    Norms stay in single precision, and so does everything no layer made; so do input and output.
    """
    graph = model.graph
    constants = {constant.name for constant in graph.initializer}
    floats = _float_names(model)
    casts = _Casts()
    halved: set[str] = set()
    for node in graph.node:
        data = _data_inputs(node, floats)
        computed = [node.input[i] for i in data if node.input[i] not in constants]
        # Atlas positions are products of computed tensors, layers of weights.
        is_product = node.op_type in ("Gemm", "MatMul") and len(computed) < len(data)
        is_layer = node.op_type in HALVED[precision] or is_product
        follows = node.op_type in FOLLOWING and bool(computed) and halved.issuperset(computed)
        # A cast of a constant is a constant too.
        if node.op_type == "Cast" and node.input[0] in constants:
            constants.add(node.output[0])
        # Cast the inputs that are not in the node's precision.
        in_half = is_layer or follows
        wanted = HALF_TYPES[precision] if in_half else TensorProto.FLOAT
        for i in data:
            if (node.input[i] in halved) != in_half:
                node.input[i] = casts.cast(node.input[i], wanted)
        casts.nodes.append(node)
        if in_half:
            halved.update(node.output)
    graph.ClearField("value_info")
    del graph.node[:]
    graph.node.extend(casts.nodes)


class _Casts:
    """Nodes in their new order; each tensor is cast to a type at most once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._names: dict[tuple[str, int], str] = {}

    def cast(self, name: str, to: int) -> str:
        """Return the name of the tensor in another type."""
        if (name, to) not in self._names:
            cast = f"{name}_as_{TensorProto.DataType.Name(to).lower()}"
            self.nodes.append(helper.make_node("Cast", [name], [cast], to=to))
            self._names[name, to] = cast
        return self._names[name, to]


def _float_names(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model, data_prop=False).graph
    typed = [*graph.value_info, *graph.input, *graph.output]
    names = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {c.name for c in graph.initializer if c.data_type == TensorProto.FLOAT}


def _data_inputs(node: onnx.NodeProto, floats: set[str]) -> list[int]:
    """Return the positions of a node's inputs in single precision that carry data."""
    if node.op_type == "Cast":
        return []
    skipped = SHAPE_INPUTS.get(node.op_type, ())
    return [i for i, name in enumerate(node.input) if name in floats and i not in skipped]
