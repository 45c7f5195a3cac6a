"""Graphs for engines compute the same, with fixed shapes and uint8 only at the end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.graph.engine import choose_all, keep_uint8_for_the_end
from export.graph.half_precision import compute_in_half
from tests.export.graph.small_graphs import SHAPE, make, run, types_in


def labels_with_uint8_between() -> Any:
    """Labels that are uint8 long before the end, with a constant among them."""
    nodes = [
        helper.make_node("ArgMax", ["image"], ["best"], axis=1, keepdims=1),
        helper.make_node("Cast", ["best"], ["small"], to=TensorProto.UINT8),
        helper.make_node("Mul", ["small", "hundred"], ["large"]),
        helper.make_node("Concat", ["large", "small"], ["out"], axis=4),
    ]
    constants = {"hundred": np.full((1, 1, 1, 1, 1), 200, np.uint8)}
    return make(nodes, constants, TensorProto.UINT8)


def doubled_where_not_zero() -> Any:
    """Twice the image, written only where the image is not zero: the same function."""
    constants = {
        "flat": np.array([-1]),
        "first": np.array(0),
        "axis": np.array([1]),
        "two": np.float32(2),
        "zero": np.float32(0),
    }
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["values"]),
        helper.make_node("NonZero", ["values"], ["chosen"]),
        helper.make_node("Gather", ["chosen", "first"], ["places"], axis=0),
        helper.make_node("Gather", ["values", "places"], ["kept"]),
        helper.make_node("Mul", ["kept", "two"], ["doubled"]),
        helper.make_node("Mul", ["values", "zero"], ["nothing"]),
        helper.make_node("Unsqueeze", ["places", "axis"], ["indices"]),
        helper.make_node("ScatterND", ["nothing", "indices", "doubled"], ["written"]),
        helper.make_node("Shape", ["image"], ["shape"]),
        helper.make_node("Reshape", ["written", "shape"], ["out"]),
    ]
    return make(nodes, constants)


def test_a_graph_that_chooses_all_computes_the_same_from_plannable_shapes() -> None:
    images = np.random.default_rng(4).random((2, *SHAPE), dtype=np.float32)
    images[images < 0.5] = 0
    model = doubled_where_not_zero()
    assert np.array_equal(run(model, images), 2 * images)
    assert choose_all(model) == 1
    onnx.checker.check_model(model, full_check=True)
    assert "NonZero" not in {node.op_type for node in model.graph.node}
    assert np.array_equal(run(model, images), 2 * images)


def test_a_graph_without_choices_stays() -> None:
    model = labels_with_uint8_between()
    before = [node.op_type for node in model.graph.node]
    assert choose_all(model) == 0
    assert [node.op_type for node in model.graph.node] == before


def test_uint8_is_left_to_the_output_and_labels_and_interface_stay() -> None:
    model = labels_with_uint8_between()
    interface = copy.deepcopy([*model.graph.input, *model.graph.output])
    before = run(model)
    keep_uint8_for_the_end(model)
    found = run(model)
    assert found.dtype == np.uint8
    assert set(np.unique(before)) == {0, 1, 200}
    assert np.array_equal(found, before)
    types = types_in(model)
    assert [name for name, kind in types.items() if kind == TensorProto.UINT8] == ["out"]
    assert [*model.graph.input, *model.graph.output] == interface


@pytest.mark.slow
def test_a_network_without_uint8_inside_gives_the_same_labels(
    small_graph: Callable[[], Any], smooth_image: Any, small_labels: Any
) -> None:
    model = small_graph()
    keep_uint8_for_the_end(model)
    found = run(model, smooth_image)
    assert found.dtype == np.uint8
    assert np.array_equal(found, small_labels)
    types = types_in(model)
    assert [name for name, kind in types.items() if kind == TensorProto.UINT8] == ["labels"]


@pytest.mark.slow
def test_tensorrt_rtx_reads_a_network_in_bf16(small_graph: Callable[[], Any]) -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="needs the extra rtx")
    model = small_graph()
    choose_all(model)
    compute_in_half(model, "bf16")
    keep_uint8_for_the_end(model)
    log = library.Logger(library.Logger.ERROR)
    network = library.Builder(log).create_network(0)
    parser = library.OnnxParser(network, log)
    parsed = parser.parse(model.SerializeToString())
    assert parsed, [parser.get_error(i).desc() for i in range(parser.num_errors)]
    assert network.get_output(0).dtype == library.uint8
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    convolutions = [x for x in layers if x.type == library.LayerType.CONVOLUTION]
    assert convolutions
    assert {layer.get_output(0).dtype for layer in convolutions} == {library.bfloat16}
