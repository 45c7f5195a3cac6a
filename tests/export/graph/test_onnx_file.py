"""The exported file holds the network, with its weights and without traces of the machine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from export.graph.constants import SMALL
from export.graph.onnx_file import strip_notes
from neurobento.networks.weights import read_values
from tests.export.graph.small_graphs import two_paths

ROOT = Path(__file__).resolve().parents[3]


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


def graph_of(published: Any) -> Any:
    return onnx.load(published.folder / "model.onnx")


def run(published: Any, images: Any) -> Any:
    session = onnxruntime.InferenceSession(published.folder / "model.onnx")
    return session.run(["labels"], {"image": images})[0]


@pytest.mark.slow
def test_the_graph_keeps_in_half_precision_what_the_weights_file_does(published: Any) -> None:
    """And in single what was never rounded, or is too small to matter."""
    tensors = graph_of(published).graph.initializer
    single, half = (
        [numpy_helper.to_array(tensor) for tensor in tensors if tensor.data_type == kind]
        for kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
    )
    assert all(array.size >= SMALL for array in half)
    large = [array for array in single if array.size >= SMALL]
    assert large
    assert not any(np.array_equal(array.astype(np.float16), array) for array in large)
    average = read_values(published.folder / "weights.pt")["average"]
    convolutions = [w.numpy() for w in average.values() if w.shape[2:] == (3, 3, 3)]
    assert convolutions
    found = {array.tobytes() for array in half}
    assert {w.tobytes() for w in convolutions if w.size >= SMALL} <= found


@pytest.mark.slow
def test_onnx_gives_the_labels_of_the_network(published: Any, network_labels: Any) -> None:
    """Of the weights that are shipped beside it."""
    import nibabel as nib

    images = np.stack(
        [nib.load(path).get_fdata(dtype=np.float32)[None] for path in published.scans]
    )
    found = run(published, images)
    assert found.dtype == np.uint8
    assert len(np.unique(network_labels)) > 3
    assert (found == network_labels).mean() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_the_batch_is_free(published: Any, count: int) -> None:
    """The export's own example is a batch of two."""
    images = np.random.default_rng(3).random((count, 1, 91, 122, 123), dtype=np.float32)
    found = run(published, images)
    assert found.shape == (count, 91, 122, 123)
    assert np.array_equal(found[-1:], run(published, images[-1:]))


@pytest.mark.slow
def test_names_and_types_are_those_of_the_contract(published: Any) -> None:
    graph = graph_of(published).graph
    (image,), (labels,) = graph.input, graph.output
    assert (image.name, labels.name) == ("image", "labels")
    types = [value.type.tensor_type for value in (image, labels)]
    assert [t.elem_type for t in types] == [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8]
    image_shape, labels_shape = ([d.dim_value for d in t.shape.dim] for t in types)
    assert (image_shape, labels_shape) == ([0, 1, 91, 122, 123], [0, 91, 122, 123])


@pytest.mark.slow
def test_the_weights_are_inside_and_nothing_of_the_machine_is(published: Any) -> None:
    model = graph_of(published)
    for tensor in model.graph.initializer:
        assert tensor.data_location != TensorProto.EXTERNAL
        assert not tensor.external_data
        tensor.ClearField("raw_data")  # weights are bytes that may spell anything
    text = model.SerializeToString()
    for trace in (str(ROOT), str(published.checkpoint.parent), "site-packages", ".py", "Traceback"):
        assert trace.encode() not in text, trace


@pytest.mark.slow
def test_the_exporters_notes_are_gone(published: Any) -> None:
    model = graph_of(published)
    graph = model.graph
    entries = [*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    assert not model.metadata_props
    assert not graph.metadata_props
    assert not any(entry.metadata_props or entry.doc_string for entry in entries)
    assert not any(f.doc_string or f.metadata_props for f in model.functions)
