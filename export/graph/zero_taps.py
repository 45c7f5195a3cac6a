"""Remove kernel taps whose weights are all zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

__all__ = ["drop_zero_taps"]


def drop_zero_taps(model: onnx.ModelProto) -> int:
    """Cut kernels to their middle along axes where all other weights are zero; return the number.

    Report A's U-Net as trained on CPUs (`neurobento.networks.unet`) keeps a tenth of its
    arithmetic.
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
        # Weights with another user keep their shape.
        shared = uses[node.input[1]] > 1 or uses[name] > 1
        if constant is None or shared or not _is_centred(node):
            continue
        weight = numpy_helper.to_array(constant)
        axes = [axis for axis in range(2, weight.ndim) if _only_middle(weight, axis)]
        if axes:
            _cut(node, constant, weight, axes)
            cut.append(node.input[1])
    # The recorded shapes of cast kernels are no longer true.
    kept = [value for value in graph.value_info if value.name not in cut]
    del graph.value_info[:]
    graph.value_info.extend(kept)
    return len(cut)


def _is_centred(node: onnx.NodeProto) -> bool:
    """Return whether every output voxel is centred on its input voxels."""
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
