"""The last layer as a matrix product gives the labels that the convolution gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph.last_layer import classify_by_product

CHANNELS, CLASSES, GRID = 5, 7, (4, 6, 3)


def graph_of(
    nodes: list[Any], constants: dict[str, Any], output: tuple[Any, ...] = ("N", *GRID)
) -> onnx.ModelProto:
    """A model from `features` (N, 5, 4, 6, 3) to `labels`."""
    graph = helper.make_graph(
        nodes,
        "labels",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", CHANNELS, *GRID])],
        [helper.make_tensor_value_info("labels", TensorProto.INT64, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def weights(classes: int = CLASSES, kernel: int = 1, seed: int = 0) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    shape = (classes, CHANNELS, *[kernel] * 3)
    return {
        "w": random.normal(size=shape).astype(np.float32),
        "b": random.normal(size=classes).astype(np.float32),
    }


def conv(**attributes: Any) -> Any:
    return helper.make_node("Conv", ["features", "w", "b"], ["logits"], **attributes)


def search(name: str = "logits", **attributes: Any) -> Any:
    return helper.make_node(
        "ArgMax", [name], ["labels"], **{"axis": 1, "keepdims": 0, **attributes}
    )


def labels_of(model: onnx.ModelProto, count: int = 2) -> Any:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    features = np.random.default_rng(1).normal(size=(count, CHANNELS, *GRID)).astype(np.float32)
    return session.run(["labels"], {"features": features})[0]


def rewritten(model: onnx.ModelProto, expected: int = 1) -> onnx.ModelProto:
    """The model after the rewriting, which gives the same labels."""
    before = labels_of(model)
    assert classify_by_product(model) == expected
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(labels_of(model), before)
    assert len(np.unique(before)) > 1
    return model


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_a_convolution_becomes_a_product_and_the_class_axis_may_be_kept() -> None:
    model = rewritten(graph_of([conv(), search()], weights()))
    assert kinds(model) == ["Reshape", "MatMul", "Add", "ArgMax", "Reshape"]
    assert {constant.name for constant in model.graph.initializer}.isdisjoint({"w", "b"})
    model = graph_of([conv(), search(keepdims=1)], weights(), ("N", 1, *GRID))
    assert labels_of(rewritten(model)).shape == (2, 1, *GRID)


def test_a_convolution_without_bias_and_weights_kept_in_half_precision_are_found() -> None:
    constants = {"w": weights()["w"]}
    node = helper.make_node("Conv", ["features", "w"], ["logits"])
    assert "MatMul" in kinds(rewritten(graph_of([node, search()], constants)))
    values = weights()
    constants = {"half": values["w"].astype(np.float16), "b": values["b"]}
    cast = helper.make_node("Cast", ["half"], ["w"], to=TensorProto.FLOAT)
    assert "Conv" not in kinds(rewritten(graph_of([cast, conv(), search()], constants)))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_residual_goes_into_the_weights(*, swapped: bool) -> None:
    names = ["features", "logits"] if swapped else ["logits", "features"]
    add = helper.make_node("Add", names, ["sum"])
    model = rewritten(graph_of([conv(), add, search("sum")], weights(CHANNELS)))
    assert kinds(model).count("Add") == 1  # the bias


def test_a_crop_goes_in_front() -> None:
    constants = {**weights(), "from": [0, 0], "to": [3, 5], "axes": [2, 3]}
    crop = helper.make_node("Slice", ["logits", "from", "to", "axes"], ["cropped"])
    model = graph_of([conv(), crop, search("cropped")], constants, ("N", 3, 5, 3))
    assert kinds(rewritten(model))[:2] == ["Slice", "Reshape"]


def test_another_sum_and_a_crop_of_channels_are_left_alone() -> None:
    constants = {**weights(), "c": np.random.default_rng(3).normal(size=(1, CLASSES, 1, 1, 1))}
    constants["c"] = constants["c"].astype(np.float32)
    add = helper.make_node("Add", ["logits", "c"], ["sum"])
    rewritten(graph_of([conv(), add, search("sum")], constants), expected=0)
    constants = {**weights(), "from": [1], "to": [4], "axes": [1]}
    crop = helper.make_node("Slice", ["logits", "from", "to", "axes"], ["cropped"])
    rewritten(graph_of([conv(), crop, search("cropped")], constants), expected=0)


def test_a_larger_kernel_a_stride_and_another_axis_are_left_alone() -> None:
    rewritten(graph_of([conv(pads=[1] * 6), search()], weights(kernel=3)), expected=0)
    rewritten(graph_of([conv(strides=[2, 2, 1]), search()], weights(), ("N", 2, 3, 3)), expected=0)
    other = graph_of([conv(), search(axis=2)], weights(), ("N", CLASSES, 6, 3))
    rewritten(other, expected=0)


def test_logits_that_are_an_output_too_stay() -> None:
    model = graph_of([conv(), search()], weights())
    shape = ["N", CLASSES, *GRID]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape))
    assert "Conv" in kinds(rewritten(model))
