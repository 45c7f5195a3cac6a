"""Layers compute in half precision, and nothing else does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.graph.engine import keep_uint8_for_the_end
from export.graph.half_precision import HALVED, compute_in_half
from tests.export.graph.small_graphs import kernel, make, run, two_paths, types_in

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def rounded(model: Any) -> Any:
    """The graph with a copy after each tensor in fp16.

    ONNX Runtime has no convolutions in fp16 on CPUs and leaves out casts that stand side by
    side: without the copies nothing would be rounded.
    """
    model = copy.deepcopy(model)
    halves = {name for name, kind in types_in(model).items() if kind == TensorProto.FLOAT16}
    nodes = []
    for node in model.graph.node:
        node.input[:] = [f"{name}_copy" if name in halves else name for name in node.input]
        nodes.append(node)
        for name in halves & {*node.output}:
            nodes.append(helper.make_node("Concat", [name], [f"{name}_copy"], axis=0))
    for constant in model.graph.initializer:
        if constant.name in halves:
            nodes.insert(
                0, helper.make_node("Concat", [constant.name], [f"{constant.name}_copy"], axis=0)
            )
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("precision", HALF)
def test_what_convolutions_make_computes_in_half_and_all_else_in_single(precision: Any) -> None:
    model = two_paths()
    compute_in_half(model, precision)
    onnx.checker.check_model(model)
    types = types_in(model)
    assert {types[name] for name in ("first", "bent", "second", "sum")} == {HALF[precision]}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert [types[name] for name in node.input] == [HALF[precision]] * 2
    single = ("normed", "positions", "places", "parts", "mixed", "image", "out")
    assert {types[name] for name in single} == {TensorProto.FLOAT}
    (norm,) = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    assert {types[name] for name in norm.input} == {TensorProto.FLOAT}


def test_half_precision_rounds_and_no_more_and_one_cast_serves_all_that_use_a_tensor() -> None:
    model = two_paths()
    before = run(model)
    compute_in_half(model, "fp16")
    found = run(rounded(model))
    assert 1e-4 < np.abs(found - before).max() < 0.02
    casts = [tuple(node.input) for node in model.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts)) == 6


@pytest.mark.parametrize(("precision", "expected"), [("fp16", True), ("bf16", False)])
def test_transposed_convolutions_stay_in_single_where_bf16_has_none(
    precision: Any, expected: bool
) -> None:
    weight = np.random.default_rng(0).normal(size=(2, 2, 2, 2, 2)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["image", "w"], ["up"], strides=[2] * 3)
    last = helper.make_node("ReduceMax", ["up", "axes"], ["out"])
    model = make([node, last], {"w": weight, "axes": np.array([1])})
    compute_in_half(model, precision)
    assert (types_in(model)["up"] == HALF[precision]) is expected
    assert ("ConvTranspose" in HALVED[precision]) is expected


def test_a_constant_that_was_kept_in_half_keeps_nothing_in_single() -> None:
    """A cast stands before it, which no convolution made."""
    nodes = [
        helper.make_node("Cast", ["half"], ["slopes"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["image", "w"], ["a"], kernel_shape=[1] * 3),
        helper.make_node("PRelu", ["a", "slopes"], ["b"]),
        helper.make_node("ReduceMax", ["b", "axes"], ["out"]),
    ]
    slopes = np.full((2, 1, 1, 1), 0.25, np.float16)
    model = make(nodes, {"half": slopes, "w": kernel((), 1), "axes": np.array([1])})
    compute_in_half(model, "fp16")
    assert types_in(model)["b"] == TensorProto.FLOAT16


def test_a_product_with_weights_is_a_layer_and_a_product_of_what_was_computed_is_not() -> None:
    """The one is a network's last layer, the other moves positions."""
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["voxels"]),
        helper.make_node("MatMul", ["weights", "voxels"], ["products"]),
        helper.make_node("Transpose", ["voxels"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["voxels", "turned"], ["moments"]),
        helper.make_node("ArgMax", ["products"], ["best"], axis=1),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["moments", "axes"], ["largest"]),
        helper.make_node("Add", ["labels", "largest"], ["sum"]),
        helper.make_node("ReduceMax", ["sum", "axes"], ["out"]),
    ]
    weights = np.random.default_rng(5).normal(size=(3, 2)).astype(np.float32)
    model = make(nodes, {"flat": np.array([0, 2, -1]), "weights": weights, "axes": np.array([1])})
    compute_in_half(model, "fp16")
    types = types_in(model)
    assert types["products"] == TensorProto.FLOAT16
    assert types["moments"] == TensorProto.FLOAT
    (search,) = [node for node in model.graph.node if node.op_type == "ArgMax"]
    assert types[search.input[0]] == TensorProto.FLOAT16


def test_upsampling_goes_on_in_half_but_for_its_scales() -> None:
    conv = helper.make_node("Conv", ["image", "w"], ["a"], kernel_shape=[1] * 3)
    up = helper.make_node("Resize", ["a", "", "scales"], ["b"], mode="linear")
    last = helper.make_node("ReduceMax", ["b", "axes"], ["out"])
    scales = np.array([1, 1, 2, 2, 2], np.float32)
    constants = {"w": kernel((), 1), "scales": scales, "axes": np.array([1])}
    model = make([conv, up, last], constants)
    before = run(model)
    compute_in_half(model, "fp16")
    types = types_in(model)
    assert (types["b"], types["scales"]) == (TensorProto.FLOAT16, TensorProto.FLOAT)
    assert np.allclose(run(model), before, atol=0.01)


@pytest.mark.slow
def test_a_network_in_half_precision_gives_nearly_the_same_labels(
    small_graph: Callable[[], Any], smooth_image: Any, small_labels: Any
) -> None:
    model = small_graph()
    compute_in_half(model, "fp16")
    keep_uint8_for_the_end(model)
    found = run(rounded(model), smooth_image)
    assert len(np.unique(small_labels)) > 3
    assert 0.99 < (found == small_labels).mean() < 1


@pytest.mark.slow
@pytest.mark.parametrize("precision", HALF)
def test_all_convolutions_of_a_network_compute_in_half_and_all_norms_in_single(
    small_graph: Callable[[], Any], precision: Any
) -> None:
    model = small_graph()
    interface = copy.deepcopy([*model.graph.input, *model.graph.output])
    compute_in_half(model, precision)
    types = types_in(model)
    seen = {"Conv": 0, "InstanceNormalization": 0}
    for node in model.graph.node:
        if node.op_type in seen:
            seen[node.op_type] += 1
            expected = HALF[precision] if node.op_type == "Conv" else TensorProto.FLOAT
            assert {types[name] for name in [*node.input, *node.output]} == {expected}
    assert min(seen.values()) > 3
    assert [*model.graph.input, *model.graph.output] == interface
