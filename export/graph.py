"""Rewritings of an ONNX label graph for the engines that run it.

Each takes a `onnx.ModelProto` and changes it in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "Half",
    "choose_all",
    "compute_in_half",
    "drop_zero_taps",
    "keep_uint8_for_the_end",
    "strip_notes",
]

Half = Literal["fp16", "bf16"]
HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}

HALVED = {"fp16": frozenset({"Conv", "ConvTranspose"}), "bf16": frozenset({"Conv"})}
"""Operators that compute in half precision whatever comes in; TensorRT-RTX 1.7 builds no
transposed convolution in bf16."""

FOLLOWING = frozenset(
    {
        *("Add", "ArgMax", "Concat", "Expand", "Gather", "Identity", "LeakyRelu", "Mul"),
        *("PRelu", "Pad"),
        *("Relu", "Resize", "Reshape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    }
)
"""Operators that go on in half precision if all that is computed before them is in it."""

SHAPE_INPUTS = {"Resize": (1, 2, 3)}
"""Float inputs that are no data: regions and scales."""


def strip_notes(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold the paths and stack of the machine it ran on."""
    graph = model.graph
    graph.ClearField("metadata_props")
    for entries in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for entry in entries:
            entry.ClearField("doc_string")
            entry.ClearField("metadata_props")


def drop_zero_taps(model: onnx.ModelProto) -> int:
    """Cut each convolution's kernel to its middle along axes where all other weights are zero.

    The function stays the same; of report A's U-Net as it is trained on CPUs
    (`neurobento.networks.unet`) it leaves a tenth of the arithmetic.

    Returns
    -------
    How many convolutions became smaller.
    """
    graph = model.graph
    constants = {constant.name: constant for constant in graph.initializer}
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    uses = Counter(name for node in graph.node for name in node.input)
    cut = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        name = sources.get(node.input[1], node.input[1])
        constant = constants.get(name)
        # what something else uses too keeps its shape
        shared = uses[node.input[1]] > 1 or uses[name] > 1
        if constant is None or shared or not _is_centred(node):
            continue
        weight = numpy_helper.to_array(constant)
        axes = [axis for axis in range(2, weight.ndim) if _only_middle(weight, axis)]
        if axes:
            _cut(node, constant, weight, axes)
            cut.append(node.input[1])
    # what a cast of a kernel is said to be it is no more
    kept = [value for value in graph.value_info if value.name not in cut]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return len(cut)


def _is_centred(node: onnx.NodeProto) -> bool:
    """Whether every output voxel stands over the middle of its input voxels."""
    values = {a.name: list(helper.get_attribute_value(a)) for a in node.attribute if a.ints}
    kernel = values.get("kernel_shape", [])
    dilations = values.get("dilations", [1] * len(kernel))
    centred = [d * (k // 2) for k, d in zip(kernel, dilations, strict=True)]
    strides = values.get("strides", [1] * len(kernel))
    pads = values.get("pads", [0] * 2 * len(kernel))
    plain = all(k % 2 for k in kernel) and all(s == 1 for s in strides)
    return bool(kernel) and plain and pads == centred * 2


def _only_middle(weight: Any, axis: int) -> bool:
    size = weight.shape[axis]
    others = np.delete(weight, size // 2, axis)
    return size > 1 and not others.any()


def _cut(
    node: onnx.NodeProto, constant: onnx.TensorProto, weight: Any, axes: Iterable[int]
) -> None:
    attributes = {a.name: a for a in node.attribute}
    ndim = weight.ndim - 2
    for axis in axes:
        middle = weight.shape[axis] // 2
        weight = weight.take([middle], axis=axis)
        attributes["kernel_shape"].ints[axis - 2] = 1
        for end in (axis - 2, axis - 2 + ndim):
            attributes["pads"].ints[end] = 0
    constant.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), constant.name))


def choose_all(model: onnx.ModelProto) -> int:
    """Have a graph work on all entries of a list where it would choose those that are not zero.

    How many are chosen hangs on the image, so what works on them has no shape
    that an engine could plan for, and no CUDA graph. For label graphs, in which
    what is not chosen is background and would be found to be so.

    Returns
    -------
    How many choices there were.
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
    """Carry labels as int32 up to the graph's output: TensorRT has no uint8 before it."""
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


def compute_in_half(model: onnx.ModelProto, precision: Half) -> None:
    """Have layers, and what only passes their results on, compute in half precision.

    Layers are convolutions and products with constant weights.

    Norms, and everything that is not made by a convolution, such as positions
    in an atlas, stay in single precision; input and output stay as they are.
    """
    graph = model.graph
    half = HALF_TYPES[precision]
    constants = {constant.name for constant in graph.initializer}
    floats = _float_names(model)
    halved: set[str] = set()
    casts: dict[tuple[str, int], str] = {}
    nodes: list[onnx.NodeProto] = []

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            casts[name, to] = f"{name}_as_{TensorProto.DataType.Name(to).lower()}"
            nodes.append(helper.make_node("Cast", [name], [casts[name, to]], to=to))
        return casts[name, to]

    for node in graph.node:
        data = _data_inputs(node, floats)
        computed = [node.input[i] for i in data if node.input[i] not in constants]
        is_layer = node.op_type in HALVED[precision] or (
            # layers as products; atlas positions are products of what was computed
            node.op_type in ("Gemm", "MatMul") and len(computed) < len(data)
        )
        in_half = is_layer or (
            node.op_type in FOLLOWING and bool(computed) and halved.issuperset(computed)
        )
        # a mere copy of a constant is as constant as that
        if node.op_type == "Cast" and node.input[0] in constants:
            constants.add(node.output[0])
        for i in data:
            name = node.input[i]
            if in_half and name not in halved:
                node.input[i] = cast(name, half)
            elif not in_half and name in halved:
                node.input[i] = cast(name, TensorProto.FLOAT)
        nodes.append(node)
        if in_half:
            halved.update(node.output)
    graph.ClearField("value_info")
    del graph.node[:]
    graph.node.extend(nodes)


def _float_names(model: onnx.ModelProto) -> set[str]:
    """Names of all tensors in single precision."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=False).graph
    typed = [*graph.value_info, *graph.input, *graph.output]
    names = {v.name for v in typed if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {c.name for c in graph.initializer if c.data_type == TensorProto.FLOAT}


def _data_inputs(node: onnx.NodeProto, floats: set[str]) -> list[int]:
    """Places of a node's inputs in single precision that carry data."""
    if node.op_type == "Cast":
        return []
    skipped = SHAPE_INPUTS.get(node.op_type, ())
    return [i for i, name in enumerate(node.input) if name in floats and i not in skipped]
