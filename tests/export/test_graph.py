"""Rewritten graphs compute what they did, and are what their engines need."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import (
    HALVED,
    choose_all,
    compute_in_half,
    drop_zero_taps,
    keep_uint8_for_the_end,
    strip_notes,
)

SHAPE = (2, 9, 10, 11)
HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
Attributes = dict[str, Any]


def make(nodes: list[Any], constants: dict[str, Any], output: int = TensorProto.FLOAT) -> Any:
    """A model from `image` (N, 2, 9, 10, 11) to `out`."""
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
    """What ONNX Runtime computes from images, by default from two random ones."""
    if images is None:
        images = np.random.default_rng(1).random((2, *SHAPE), dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, {"image": images})[0]


def types_in(model: Any) -> dict[str, int]:
    """Element type of each tensor, as shape inference finds them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {constant.name: constant.data_type for constant in graph.initializer}


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


def kernel(zero_beside: Sequence[int], size: int = 3, seed: int = 0) -> Any:
    """(2, 2, size, size, size) random weights, zero beside the middle along some axes."""
    weight = np.random.default_rng(seed).normal(size=(2, 2, size, size, size))
    for axis in zero_beside:
        beside = [i for i in range(size) if i != size // 2]
        np.moveaxis(weight, axis + 2, 0)[beside] = 0
    # what half precision holds, so that a cast from it changes nothing
    return weight.astype(np.float16).astype(np.float32)


def convolution(
    weight: Any, *, is_cast: bool = False, more: Sequence[Any] = (), **attributes: Any
) -> Any:
    """One convolution whose output voxels stand over their input voxels, unless told otherwise."""
    size, dilation = weight.shape[2], attributes.get("dilations", [1])[0]
    centred: Attributes = {"kernel_shape": [size] * 3, "pads": [size // 2 * dilation] * 6}
    given = {name: v for name, v in {**centred, **attributes}.items() if v is not None}
    node = helper.make_node("Conv", ["image", "weight"], ["out"], **given)
    if not is_cast:
        return make([node, *more], {"weight": weight})
    cast = helper.make_node("Cast", ["half"], ["weight"], to=TensorProto.FLOAT)
    return make([cast, node, *more], {"half": weight.astype(np.float16)})


def kernel_shape(model: Any) -> list[int]:
    (node,) = [node for node in model.graph.node if node.op_type == "Conv"]
    return next(list(a.ints) for a in node.attribute if a.name == "kernel_shape")


@pytest.mark.parametrize("zero_beside", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
@pytest.mark.parametrize("is_cast", [False, True], ids=["single", "half"])
@pytest.mark.parametrize(("size", "dilation"), [(3, 1), (3, 2), (5, 1)])
def test_taps_that_are_zero_are_cut_and_the_results_stay(
    zero_beside: tuple[int, ...], is_cast: bool, size: int, dilation: int
) -> None:
    model = convolution(kernel(zero_beside, size), is_cast=is_cast, dilations=[dilation] * 3)
    before = run(model)
    assert drop_zero_taps(model) == 1
    onnx.checker.check_model(model, full_check=True)
    expected = [1 if axis in zero_beside else size for axis in range(3)]
    assert kernel_shape(model) == expected
    assert list(model.graph.initializer[0].dims) == [2, 2, *expected]
    assert np.allclose(run(model), before, rtol=0, atol=1e-5)


def test_the_graph_becomes_smaller() -> None:
    model = convolution(kernel((0, 1, 2)))
    before = model.ByteSize()
    drop_zero_taps(model)
    assert model.ByteSize() < before - 4 * 26 * 4 + 32


def test_cutting_again_changes_nothing() -> None:
    model = convolution(kernel((1,)))
    drop_zero_taps(model)
    again = copy.deepcopy(model)
    assert drop_zero_taps(again) == 0
    assert again == model


@pytest.mark.parametrize(
    ("weight", "attributes"),
    [
        (kernel(()), {}),
        (kernel((0, 1, 2)), {"strides": [1, 1, 2]}),
        (kernel((0, 1, 2)), {"pads": [0] * 6}),
        (kernel((0, 1, 2)), {"pads": None}),
        (kernel((0, 1, 2)), {"pads": [1, 1, 1, 1, 1, 0]}),
        (kernel((0, 1, 2)), {"pads": None, "kernel_shape": None}),
        (kernel((0, 1, 2)), {"pads": None, "auto_pad": "SAME_UPPER"}),
        (kernel((0, 1, 2), 2), {}),
        (kernel((0, 1, 2), 1), {}),
    ],
    ids=[
        *("weights", "strided", "no-padding", "padding-not-told", "one-sided", "nothing-told"),
        *("padding-by-name", "even", "one-tap"),
    ],
)
def test_all_other_convolutions_stay_as_they_are(weight: Any, attributes: Attributes) -> None:
    model = convolution(weight, **attributes)
    before = copy.deepcopy(model)
    assert drop_zero_taps(model) == 0
    assert model == before


@pytest.mark.parametrize("is_cast", [False, True], ids=["single", "half"])
def test_weights_that_something_else_uses_stay_as_they_are(is_cast: bool) -> None:
    """Such as a second convolution, strided."""
    name = "half" if is_cast else "weight"
    more = [helper.make_node("Identity", [name], ["kept"])]
    model = convolution(kernel((0, 1, 2)), is_cast=is_cast, more=more)
    before = copy.deepcopy(model)
    assert drop_zero_taps(model) == 0
    assert model == before


def test_weights_that_the_graph_computes_are_not_looked_at() -> None:
    nodes = [
        helper.make_node("Neg", ["given"], ["weight"]),
        helper.make_node("Conv", ["image", "weight"], ["out"], kernel_shape=[3] * 3, pads=[1] * 6),
    ]
    model = make(nodes, {"given": kernel((0, 1, 2))})
    assert drop_zero_taps(model) == 0


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


def test_uint8_is_left_to_the_output_and_the_labels_stay() -> None:
    model = labels_with_uint8_between()
    before = run(model)
    keep_uint8_for_the_end(model)
    found = run(model)
    assert found.dtype == np.uint8
    assert set(np.unique(before)) == {0, 1, 200}
    assert np.array_equal(found, before)
    types = types_in(model)
    assert [name for name, kind in types.items() if kind == TensorProto.UINT8] == ["out"]


def test_the_graphs_interface_stays() -> None:
    model = labels_with_uint8_between()
    before = copy.deepcopy(model.graph)
    keep_uint8_for_the_end(model)
    assert list(model.graph.input) == list(before.input)
    assert list(model.graph.output) == list(before.output)


def two_paths() -> Any:
    """Convolutions and a norm, and beside them positions that half precision would blur."""
    conv: Attributes = {"kernel_shape": [3] * 3, "pads": [1] * 6}
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


@pytest.mark.parametrize("precision", HALF)
def test_convolutions_and_what_passes_them_on_compute_in_half(precision: Any) -> None:
    model = two_paths()
    compute_in_half(model, precision)
    onnx.checker.check_model(model)
    types = types_in(model)
    assert {types[name] for name in ("first", "bent", "second", "sum")} == {HALF[precision]}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert [types[name] for name in node.input] == [HALF[precision]] * 2


@pytest.mark.parametrize("precision", HALF)
def test_norms_and_all_that_no_convolution_made_stay_in_single(precision: Any) -> None:
    model = two_paths()
    compute_in_half(model, precision)
    types = types_in(model)
    single = ("normed", "positions", "places", "parts", "mixed", "image", "out")
    assert {types[name] for name in single} == {TensorProto.FLOAT}
    (norm,) = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    assert {types[name] for name in norm.input} == {TensorProto.FLOAT}


def test_half_precision_rounds_and_no_more() -> None:
    model = two_paths()
    before = run(model)
    compute_in_half(model, "fp16")
    found = run(rounded(model))
    assert 1e-4 < np.abs(found - before).max() < 0.02


def test_one_cast_serves_all_that_use_a_tensor() -> None:
    model = two_paths()
    compute_in_half(model, "fp16")
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


def test_notes_are_dropped_and_nothing_else() -> None:
    clean = two_paths()
    noted = copy.deepcopy(clean)
    graph = noted.graph
    entries = [graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for entry in entries:
        entry.metadata_props.add(key="trace", value="somewhere.py, line 7")
    for entry in [*graph.node, *graph.value_info, *graph.initializer]:
        entry.doc_string = "somewhere.py"
    assert b"somewhere" in noted.SerializeToString()
    strip_notes(noted)
    assert noted == clean


@pytest.fixture(scope="module")
def small_graph(published: Any) -> Callable[[], Any]:
    """The small published network's graph, each time a new one."""
    return lambda: onnx.load(published.folder / "model.onnx")


@pytest.fixture(scope="module")
def smooth_image() -> Any:
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (91, 122, 123)), indexing="ij")
    return np.exp(-(x**2) - y**2 - z**2).astype(np.float32)[None, None]


@pytest.fixture(scope="module")
def small_labels(small_graph: Callable[[], Any], smooth_image: Any) -> Any:
    return run(small_graph(), smooth_image)


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
