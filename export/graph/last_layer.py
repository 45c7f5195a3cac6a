"""Write the last layer of a label graph as a matrix product.

So the result has the memory layout in which OpenVINO and ONNX Runtime find the largest class
fastest; in OpenVINO's layout for convolutions the search costs five times as much.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["classify_by_product"]

CHANNELS = 1


def classify_by_product(model: onnx.ModelProto) -> int:
    """Rewrite each 1 x 1 x 1 convolution before a search for the largest channel; count them.

    Crops between the two move in front of both; a sum with its input goes into the weights.
    """
    graph = model.graph
    rewriter = _Rewriter(model)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        new = rewriter.rewritten(node) if node.op_type == "ArgMax" else None
        count += new is not None
        nodes += new or [node]
    graph.initializer.extend(rewriter.added)
    _set_used_nodes(graph, nodes)
    return count


def _set_used_nodes(graph: Any, nodes: list[onnx.NodeProto]) -> None:
    """Replace the graph's nodes, without nodes and constants that nothing needs."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    constants = [constant for constant in graph.initializer if constant.name in needed]
    graph.ClearField("value_info")
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


class _Rewriter:
    """Rewriting of one graph, by the maker and shape of each tensor and the constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(model).graph
        self.added: list[onnx.TensorProto] = []
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._constants = {c.name: c for c in model.graph.initializer}
        self._shapes = {
            value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.output)
        }

    def rewritten(self, search: onnx.NodeProto) -> list[onnx.NodeProto] | None:
        """Return nodes that replace a search for the largest class, or None for another search."""
        if _attributes(search).get("axis", 0) != CHANNELS:
            return None
        crops: list[onnx.NodeProto] = []
        node = self._makers.get(search.input[0])
        while node is not None and node.op_type == "Slice" and self._leaves_channels(node):
            crops.insert(0, node)
            node = self._makers.get(node.input[0])
        layer = None if node is None else self._weight_and_bias(node)
        return None if layer is None else self._product(search, crops, *layer)

    def _value(self, name: str) -> Any:
        """Return a constant's value, also through a cast; None for other tensors."""
        maker = self._makers.get(name)
        if maker is not None and maker.op_type == "Cast":
            name = maker.input[0]
        constant = self._constants.get(name)
        return None if constant is None else numpy_helper.to_array(constant)

    def _leaves_channels(self, crop: onnx.NodeProto) -> bool:
        axes = self._value(crop.input[3]) if len(crop.input) > 3 else None
        return axes is not None and bool((axes > CHANNELS).all())

    def _weight_and_bias(self, node: onnx.NodeProto) -> tuple[str, Any, Any] | None:
        """Return a layer's input name, its weight (classes, channels) and its bias (classes, 1)."""
        if node.op_type == "Add":
            for made, other in (node.input, reversed(node.input)):
                maker = self._makers.get(made)
                layer = None if maker is None else self._weight_and_bias(maker)
                if layer is not None and layer[0] == other:
                    return other, layer[1] + np.eye(len(layer[1]), dtype=np.float32), layer[2]
            return None
        weight = self._value(node.input[1]) if node.op_type == "Conv" else None
        values = _attributes(node)
        if (
            weight is None
            or any(size != 1 for size in weight.shape[2:])
            or values.get("group", 1) != 1
            or any(stride != 1 for stride in values.get("strides", ()))
            or any(values.get("pads", ()))
        ):
            return None
        weight = weight.reshape(weight.shape[:2]).astype(np.float32)
        bias = self._value(node.input[2]) if len(node.input) > 2 else np.zeros(len(weight))
        return node.input[0], weight, bias.reshape(-1, 1).astype(np.float32)

    def _product(
        self, search: onnx.NodeProto, crops: list[onnx.NodeProto], name: str, weight: Any, bias: Any
    ) -> list[onnx.NodeProto]:
        labels = search.output[0]
        made = {part: f"{labels}_{part}" for part in ("voxels", "products", "logits", "best")}
        nodes = []
        for i, crop in enumerate(crops):
            cropped = f"{labels}_crop_{i}"
            nodes.append(helper.make_node("Slice", [name, *crop.input[1:]], [cropped]))
            name = cropped
        voxels = self._constant(f"{labels}_flat", np.array([0, weight.shape[1], -1]))
        grid = self._constant(f"{labels}_grid", np.array([0, *self._shapes[labels][1:]]))
        weight = self._constant(f"{labels}_weight", weight)
        bias = self._constant(f"{labels}_bias", bias)
        return [
            *nodes,
            helper.make_node("Reshape", [name, voxels], [made["voxels"]]),
            helper.make_node("MatMul", [weight, made["voxels"]], [made["products"]]),
            helper.make_node("Add", [made["products"], bias], [made["logits"]]),
            helper.make_node("ArgMax", [made["logits"]], [made["best"]], axis=CHANNELS),
            helper.make_node("Reshape", [made["best"], grid], [labels]),
        ]

    def _constant(self, name: str, value: Any) -> str:
        self.added.append(numpy_helper.from_array(value, name))
        return name


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
