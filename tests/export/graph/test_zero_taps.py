"""Taps that are all zero are cut, and the results stay."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.graph.zero_taps import drop_zero_taps
from tests.export.graph.small_graphs import kernel, make, run

Attributes = dict[str, Any]


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
    again = copy.deepcopy(model)
    assert drop_zero_taps(again) == 0
    assert again == model


def test_the_graph_becomes_smaller() -> None:
    model = convolution(kernel((0, 1, 2)))
    before = model.ByteSize()
    drop_zero_taps(model)
    assert model.ByteSize() < before - 4 * 26 * 4 + 32


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
