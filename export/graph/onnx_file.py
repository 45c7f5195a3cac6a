"""Export a network as one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from export.graph.constants import store_in_half
from export.graph.last_layer import classify_by_product
from export.graph.zero_taps import drop_zero_taps
from neurobento.errors import ConfigError
from neurobento.networks import task_function, task_of
from neurobento.networks.weights import load_network
from neurobento.spec import MODEL_TASKS

__all__ = ["LARGEST_MODEL_BYTES", "OPSET", "export_onnx", "strip_notes"]

OPSET = 18
LARGEST_MODEL_BYTES = 30_000_000
LARGEST_FOLDED = 2**24
"""Constants of up to this many numbers are computed at export; no network's weights have more."""


def export_onnx(checkpoint: Path, onnx_path: Path) -> None:
    """Write a checkpoint's network and weights as one ONNX file, or raise ConfigError."""
    model = _trace(load_network(checkpoint))
    strip_notes(model)
    drop_zero_taps(model)
    classify_by_product(model)
    store_in_half(model.graph)
    onnx.save(model, onnx_path)
    onnx.checker.check_model(str(onnx_path), full_check=True)
    size = onnx_path.stat().st_size
    if size > LARGEST_MODEL_BYTES:
        raise ConfigError(
            subject=str(onnx_path),
            expected=f"a model of at most {LARGEST_MODEL_BYTES} bytes",
            found=f"{size} bytes",
            remedy="Train a smaller network.",
        )


def _trace(network: Any) -> onnx.ModelProto:
    import torch
    from onnxscript.optimizer import fold_constants

    task = MODEL_TASKS[task_of(network)]
    batch = torch.export.Dim("N", min=1, max=64)
    program = torch.onnx.export(
        _task_module(network),
        (torch.rand(2, *task.image.shape),),
        input_names=["image"],
        output_names=[*task.outputs, *(["positions"] if _gives_positions(network) else [])],
        dynamic_shapes={"image": {0: batch}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("the exporter gave no program")
    # Tensors that are cut or picked from weights are weights too.
    fold_constants(program.model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED)
    model: onnx.ModelProto = program.model_proto
    return model


def _gives_positions(network: Any) -> bool:
    return bool(getattr(network, "position_block", 0))


def _task_module(network: Any) -> Any:
    """Return a module whose forward gives the outputs of the network's task."""
    import torch

    function = task_function(network)
    # A network may have a form of its function that engines run faster.
    function = network.exported_labels() if hasattr(network, "exported_labels") else function

    class TaskModule(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> Any:
            return function(image)

    return TaskModule().eval()


def strip_notes(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes, which hold paths and call stacks of the machine."""
    graph = model.graph
    graph.ClearField("metadata_props")
    for entries in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for entry in entries:
            entry.ClearField("doc_string")
            entry.ClearField("metadata_props")
