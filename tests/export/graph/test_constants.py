"""Constants that half precision holds exactly take half of the bytes, and nothing else changes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph.constants import SMALL, load_in_single, store_in_half

LENGTH = 1024
EXACT = np.linspace(-2, 2, LENGTH + 1, dtype=np.float32)[:LENGTH]
CONSTANTS = {
    "exact": EXACT,
    "signed_zeros": np.where(np.arange(LENGTH) % 2, -0.0, 0.0).astype(np.float32),
    "tiny": np.full(LENGTH, 2.0**-24, np.float32),
    "rounded": np.append(EXACT[1:], 1 / 3).astype(np.float32),
    "too_large": np.append(EXACT[1:], 2.0**16).astype(np.float32),
    "too_tiny": np.append(EXACT[1:], 2.0**-25).astype(np.float32),
    "small": EXACT[1:],
    "whole": np.arange(LENGTH),
}
HALVED = {"exact", "signed_zeros", "tiny"}


@pytest.fixture
def model() -> Any:
    """A graph that adds each constant to its image; one exact constant is used twice."""
    kinds = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int64): TensorProto.INT64}
    nodes, inputs, outputs = [], [], []
    for name, constant in {**CONSTANTS, "exact_again": EXACT}.items():
        used = name.removesuffix("_again")
        nodes.append(helper.make_node("Add", [used, f"{name}_image"], [f"{name}_sum"]))
        for values, end in ((inputs, "image"), (outputs, "sum")):
            kind = kinds[constant.dtype]
            values.append(helper.make_tensor_value_info(f"{name}_{end}", kind, [len(constant)]))
    given = [numpy_helper.from_array(constant, name) for name, constant in CONSTANTS.items()]
    graph = helper.make_graph(nodes, "sums", inputs, outputs, given)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.fixture
def halved(model: Any) -> Any:
    made = copy.deepcopy(model)
    store_in_half(made.graph)
    return made


def kept(model: Any) -> dict[str, Any]:
    """The arrays of a graph's constants."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_constants_that_half_precision_holds_are_stored_in_it_and_all_others_stay_bit_by_bit(
    halved: Any,
) -> None:
    """The others would be rounded, are not float32, or are too small for a cast."""
    found = kept(halved)
    for name in HALVED:
        array = found.pop(f"{name}_half")
        assert array.dtype == np.float16
        assert np.array_equal(array.astype(np.float32), CONSTANTS[name])
    assert found.keys() == CONSTANTS.keys() - HALVED
    for name, array in found.items():
        assert array.dtype == CONSTANTS[name].dtype
        assert array.tobytes() == CONSTANTS[name].tobytes()
    assert SMALL == LENGTH  # two kilobytes of halves


def test_a_cast_gives_each_halved_constant_its_name_back(halved: Any) -> None:
    """One, before all other nodes, however often the constant is used."""
    casts = [node for node in halved.graph.node if node.op_type == "Cast"]
    assert list(halved.graph.node[: len(casts)]) == casts
    pairs = [(list(node.input), list(node.output)) for node in casts]
    assert sorted(pairs) == [([f"{name}_half"], [name]) for name in sorted(HALVED)]
    assert {node.attribute[0].i for node in casts} == {TensorProto.FLOAT}


def test_the_graph_is_valid_and_computes_the_same_bits(model: Any, halved: Any) -> None:
    onnx.checker.check_model(halved, full_check=True)
    random = np.random.default_rng(0)
    images = {
        value.name: random.integers(-9, 9, value.type.tensor_type.shape.dim[0].dim_value)
        for value in model.graph.input
    }
    images = {
        name: image if name.startswith("whole") else image.astype(np.float32)
        for name, image in images.items()
    }
    before, after = (
        onnxruntime.InferenceSession(made.SerializeToString()).run(None, images)
        for made in (model, halved)
    )
    assert [x.tobytes() for x in after] == [x.tobytes() for x in before]


def test_halving_again_changes_nothing_and_loading_in_single_undoes_it(
    model: Any, halved: Any
) -> None:
    again = copy.deepcopy(halved)
    store_in_half(again.graph)
    assert again == halved
    load_in_single(halved)
    assert kept(halved).keys() == CONSTANTS.keys()
    for name, array in kept(halved).items():
        assert array.tobytes() == kept(model)[name].tobytes()
    assert list(halved.graph.node) == list(model.graph.node)


@pytest.mark.slow
def test_a_networks_constants_are_loaded_in_single_without_a_trace(published: Any) -> None:
    whole = onnx.load(published.folder / "model.onnx")
    half = onnx.TensorProto.FLOAT16
    assert any(c.data_type == half for c in whole.graph.initializer)
    load_in_single(whole)
    assert not any(c.data_type == half for c in whole.graph.initializer)
    onnx.checker.check_model(whole, full_check=True)
